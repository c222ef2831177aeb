"""Bytes that change under a finished run: what was altered is named and made again, and nothing else."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from salad.artifact import MANIFEST, read_manifest
from salad.config import load_config
from salad.pipeline.models import quiet_libraries
from salad.pipeline.stages import Run
from tests.faults.rig import SEED, Calm
from tests.faults.table import Table

slow = pytest.mark.slow
KINDS = ["empty", "one byte", "half", "all but its end", "[]", "null", "3", "{}", "no files", "files as numbers", "another shape"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, calm: Calm) -> Iterator[Run]:
    """A finished run to be damaged, in this process: its models are loaded once."""
    import torch

    runs = tmp_path_factory.mktemp("damaged")
    run = calm.other(runs)
    shutil.copytree(calm.run.store.root, run.store.root)
    quiet_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


def run_again(run: Run) -> list[str]:
    """The same command; the stages that were built."""
    return [stage.name for stage in run.stages if run.execute(stage)[1]]


def damaged(manifest: bytes, kind: str) -> bytes:
    if kind in ("[]", "null", "3", "{}"):
        return kind.encode()
    cut = {"empty": 0, "one byte": 1, "half": len(manifest) // 2, "all but its end": len(manifest) - 1}
    if kind in cut:
        return manifest[: cut[kind]]
    known = json.loads(manifest)
    changes = {"no files": {"files": None}, "files as numbers": {"files": dict.fromkeys(known["files"], 3)}}
    return json.dumps(known | changes.get(kind, {"files": [1], "inputs": 4})).encode()


@slow
def test_every_manifest_truncated_or_of_another_kind(copy: Run, calm: Calm, table: Table) -> None:
    """A stage without a valid manifest is made again, whatever the manifest is; the others stand, for the bytes are the same."""
    with table.survived_all("a manifest truncated or of another kind") as fault:
        for i, stage in enumerate(calm.stages):
            path = copy.store.path(stage) / MANIFEST
            path.write_bytes(damaged(path.read_bytes(), KINDS[i % len(KINDS)]))
            fault()
            assert run_again(copy) == [stage], KINDS[i % len(KINDS)]
        calm.check(copy)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_broken_manifest_is_an_artefact(copy: Run, kind: str, table: Table) -> None:
    path = copy.store.path("clusters") / MANIFEST
    whole = path.read_bytes()
    with table.survived_all("a manifest truncated or of another kind") as fault:
        path.write_bytes(damaged(whole, kind))
        fault()
        assert read_manifest(path.parent) is None
        assert run_again(copy) == ["clusters"]
        assert json.loads(path.read_bytes())["files"] == json.loads(whole)["files"]


@slow
def test_one_bit_of_every_file(copy: Run, calm: Calm, table: Table, caplog: pytest.LogCaptureFixture) -> None:
    """Of every file in turn (of the report's sounds one); the bytes come out the same, so nothing else is made again."""
    numbers = np.random.default_rng(SEED)
    with table.survived_all("one bit of a data file flipped") as fault:
        sounds = [path for stage, path in files(copy) if stage == "report" and path.suffix == ".flac"]
        for stage, path in files(copy):
            if path in sounds[1:]:
                continue
            data = bytearray(path.read_bytes())
            data[numbers.integers(len(data))] ^= 1 << int(numbers.integers(8))
            path.write_bytes(data)
            fault()
            caplog.clear()
            assert run_again(copy) == [stage], path
            what = f"{path} is not what was published (size or checksum differs): making '{stage}' again"
            assert what in warnings(caplog)
        calm.check(copy)


@slow
def test_a_file_removed_or_too_short(copy: Run, calm: Calm, table: Table, caplog: pytest.LogCaptureFixture) -> None:
    """The first file of each stage in turn."""
    with table.survived_all("a data file removed or cut") as fault:
        for i, stage in enumerate(calm.stages):
            path = next(p for s, p in files(copy) if s == stage)
            if i % 2:
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-1])
            fault()
            caplog.clear()
            assert run_again(copy) == [stage]
            assert warnings(caplog).startswith(f"{path} is {'missing' if i % 2 else 'not what was published'}")
        calm.check(copy)


@slow
def test_a_file_too_much(copy: Run, calm: Calm, table: Table) -> None:
    """What no manifest names is no part of the run: a shard or a part of the pool that somebody put there is read by nobody."""
    with table.survived_all("a file too much") as fault:
        for stage in calm.stages:
            folder = copy.store.path(stage)
            (folder / "stray.txt").write_text("not ours")
            for path in [*folder.glob("part-*.parquet"), *folder.glob("data/*.parquet")]:
                shutil.copy(path, path.with_name(path.name.replace("0000", "9999")))
            fault()
        assert run_again(copy) == []
        for reader in calm.stages:
            if reader != "report":  # its bytes tell of the times of the others
                (copy.store.path(reader) / MANIFEST).unlink()
                assert run_again(copy) == [reader]
        calm.check(copy)


def files(run: Run) -> list[tuple[str, Path]]:
    """Every data file of the run, with its stage."""
    found = [(s.name, run.store.path(s.name)) for s in run.stages]
    return [(name, folder / file) for name, folder in found for file in run.store.manifest(name).files]


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("salad"))


@pytest.mark.parametrize("damage", [MANIFEST, "selection.parquet"])
def test_a_damaged_artefact_is_made_again(fake_config_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the fast part too."""
    run = Run(load_config(fake_config_path, {"rounds": 1, "control": False}))
    stages = [s for s in run.stages if s.name != "report"]
    for stage in stages[: [s.name for s in stages].index("round-000/selection") + 1]:
        run.execute(stage)
    path = run.store.path("round-000/selection")
    before = (path / "selection.parquet").read_bytes()
    data = bytearray((path / damage).read_bytes())
    data[len(data) // 2] ^= 1
    (path / damage).write_bytes(data[: len(data) - (damage == MANIFEST) * 20])
    selection = next(s for s in stages if s.name == "round-000/selection")
    assert run.done(selection) is None
    assert run.execute(selection)[1]
    assert (path / "selection.parquet").read_bytes() == before
    named = f"{path / damage} is not what was published (size or checksum differs): making 'round-000/selection' again"
    assert (named in caplog.text) == (damage != MANIFEST), "an altered file is named; without a manifest there is no artefact"
