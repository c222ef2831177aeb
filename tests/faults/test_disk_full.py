"""A disk that really fills, somewhere in the run: one line, nothing lost, and the same command goes on once there is room."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from salad import assets
from salad.errors import SaladError
from tests.faults.attempt import command
from tests.faults.rig import Calm, ended, start
from tests.faults.table import Table

pytestmark = pytest.mark.slow
PAGE = 4096  # a file takes whole ones
ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


class Disk:
    """A file system of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        options = f"size={PAGE},uid={os.geteuid()},mode=700"
        self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))

    def resize(self, size: int) -> None:
        self._run("mount", "-o", f"remount,size={size // PAGE * PAGE + PAGE}", str(self.folder))

    def used(self) -> int:
        return shutil.disk_usage(self.folder).used

    def close(self) -> None:
        self._run("umount", "-l", str(self.folder))

    @staticmethod
    def _run(*words: str) -> None:
        done = subprocess.run([*ROOT, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        found = Disk(tmp_path / "disk")
    except OSError as e:
        pytest.skip(f"cannot mount a small file system: {e}")
    yield found
    found.close()


def salad(output: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit status, output, and the lines of the error."""
    status = ended(start(command, list(arguments), str(output), {}))
    out, err = (output.with_name(f"{output.name}.{end}").read_text() for end in ("out", "err"))
    return status, out, [line for line in err.splitlines() if line.strip()]


def footprint(folder: Path) -> int:
    return sum(-(-p.stat().st_size // PAGE) * PAGE for p in folder.rglob("*") if p.is_file())


def test_the_disk_fills_in_stage_after_stage(tmp_path: Path, disk: Disk, calm: Calm, table: Table) -> None:
    """It has room for all stages before one, and for half of that; then for more, and the same command goes on."""
    config = tmp_path / "small.yaml"
    config.write_text(calm.config.read_text().replace(str(calm.run.store.root.parent), str(disk.folder)))
    run = calm.other(disk.folder)
    sizes, before = [0, PAGE], 2 * PAGE
    for stage in calm.stages:
        takes = footprint(calm.run.store.path(stage))
        sizes.append(before + takes // 2)
        before += takes
    filled, published = [], 0
    with table.survived_all("the disk full") as fault:
        for i, size in enumerate(sizes):
            disk.resize(size)
            status, out, lines = salad(tmp_path / str(i), "run", str(config))
            assert out.count("   done  ") == published, "what was published is still valid"
            published += len(re.findall(r" s  ", out))
            if status == 0:
                break
            fault()
            assert (status, len(lines)) == (1, 1), lines
            found = re.match(r"error: the disk is full(?: while writing (\S+?):)?", lines[0])
            assert found, lines[0]
            filled.append(found[1] and Path(found[1]).relative_to(run.store.root).as_posix())
        disk.resize(4 * before)
        status, out, _ = salad(tmp_path / "last", "run", str(config))
        assert (status, out.count("   done  ")) == (0, published)
        calm.check(run)
    assert None in filled, "before there was any stage"
    # Not "clusters": while they are made the embeddings stand on the disk twice, which is more than the clusters take.
    kinds = {"pool", "embeddings", "probe", "prepared/probe", "natural", "stage-one/checkpoint", "round-000/scores"}
    kinds |= {"round-000/selection", "round-000/speech", "prepared/round-000", "round-000/checkpoint", "report"}
    assert set(filled) >= kinds, filled


def test_no_room_for_another_report(tmp_path: Path, disk: Disk, calm: Calm, table: Table) -> None:
    disk.resize(64 << 20)
    run = disk.folder / calm.run.config.name
    shutil.copytree(calm.run.store.root, run)
    page = (run / "report/index.html").read_bytes()
    with table.survived_all("the disk full") as fault:
        disk.resize(disk.used() + (1 << 20))
        status, _, lines = salad(tmp_path / "full", "report", str(run))
        fault()
        assert (status, lines[0].partition(":")[2].partition(":")[0]) == (1, f" the disk is full while writing {run / 'report'}")
        assert (run / "report/index.html").read_bytes() == page, "the old one stands"
        disk.resize(64 << 20)
        assert salad(tmp_path / "room", "report", str(run))[0] == 0


def test_no_room_for_a_converted_model(
    disk: Disk, calm: Calm, fake_models: dict[str, str], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALAD_CACHE", str(disk.folder))

    def make(source: Path, out: Path) -> None:
        shutil.copytree(fake_models["lm"], out, dirs_exist_ok=True)

    monkeypatch.setitem(assets.MODELS, "org/model", assets.Packaged("some-package", "json", make))
    with table.survived_all("the disk full") as fault:
        fault()
        with pytest.raises(SaladError, match=f"the disk is full while writing {disk.folder}/models/org--model: free some"):
            assets.model_folder("org/model")
        assert assets.where("org/model") == "in package some-package, converted at first use"
        disk.resize(64 << 20)
        folder = assets.model_folder("org/model")
        whole = Path(fake_models["lm"])
        assert {p.name: p.read_bytes() for p in whole.iterdir()} == {
            p.name: p.read_bytes() for p in folder.iterdir() if p.name != "_manifest.json"
        }
