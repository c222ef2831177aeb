"""`salad status`, `verify` and `gc`: what they say of a run that is done, at work, stopped by an error, or damaged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from salad import status
from salad.artifact import MANIFEST
from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline.inventory import artefacts, leftovers, spoken_so_far, stage_states
from salad.pipeline.stages import Run
from tests.fakes import write_config

Salad = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Run:
    """A run of one round, all done."""
    run = Run(load_config(write_config(tmp_path_factory.mktemp("finished"), fake_models, rounds=1, control=False)))
    with run.store.lock():
        run.store.bind(run.config)
        for stage in run.stages:
            run.execute(stage)
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy to do harm to."""
    shutil.copytree(finished.store.root.parent, tmp_path / "runs")
    return Run(finished.config.model_copy(update={"runs_dir": str(tmp_path / "runs")}))


def states(run: Run) -> dict[str, str]:
    return {s.name: s.state for s in stage_states(run, run.store.files(), None)}


def test_a_finished_run(run: Run, salad: Salad) -> None:
    said = salad("status", str(run.store))
    assert "nobody works on it" in said
    assert said.count("done  ") == len(run.stages)
    assert "Everything is done" in said
    assert "last error" not in said
    spoken = run.store.manifest("round-000/speech").meta["seconds"]
    row = next(line for line in said.splitlines() if "5/5" in line)
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["100", str(round(spoken)), str(round(max(100 - spoken, 0)))]
    assert f"{len(run.stages)} artefacts" in salad("verify", str(run.store))
    assert "nothing to remove" in salad("gc", str(run.store))


def test_states_follow_what_is_there(run: Run) -> None:
    (run.store.path("round-000/metrics") / MANIFEST).unlink()
    (run.store.path("round-000/selection") / "reserve.parquet").unlink()
    with (run.store.path("clusters") / "centroids.npy").open("ab") as f:
        f.write(b"x")
    found = states(run)
    assert found["round-000/metrics"] == "missing"
    assert found["round-000/selection"] == found["clusters"] == "damaged"
    assert found["report"] == "stale", "it was made from what is missing now"
    assert found["pool"] == found["round-000/speech"] == "done"
    other = Run(run.config.model_copy(update={"seed": 6}))
    assert set(states(other).values()) == {"stale", "missing", "damaged"} - {"damaged"}


def test_a_run_at_work_is_seen_from_outside(run: Run, salad: Salad) -> None:
    shutil.rmtree(run.store.path("round-000/speech"))
    shards = run.store.root / "round-000/.speech.partial/_shards"
    shards.mkdir(parents=True)
    (shards / "00000.json").write_text(
        json.dumps({"outcomes": [["a", 0, 3.5, None], ["b", 0, 2.0, "silent"], ["c", 1, 4.0, None]]})
    )
    (shards / "00001.json").write_text("{")
    with run.store.lock(), run.store.working("round-000/speech"):
        said = salad("status", str(run.store))
    assert "running: process" in said
    assert re.search(r"at round-000/speech, begun \d s ago", said)
    assert [line.split()[1] for line in said.splitlines() if line.startswith("running ")] == ["round-000/speech"]
    assert spoken_so_far(run, "round-000/speech") == 7.5
    row = next(line for line in said.splitlines() if "0/5" in line or "4/5" in line or "3/5" in line)
    assert [cell.strip() for cell in row.split("│")[4:6]] == ["8", "92"]


def test_looking_at_a_run_does_not_keep_anyone_out(run: Run) -> None:
    """`status` borrows the lock for a moment; whoever starts meanwhile must not be refused."""
    looker = "import sys\nfrom salad.pipeline.store import Store\nwhile True:\n    Store(sys.argv[1]).holder()\n"
    process = subprocess.Popen([sys.executable, "-c", looker, str(run.store)])
    try:
        time.sleep(1.5)
        for _ in range(200):
            with run.store.lock():
                pass
    finally:
        process.kill()
        process.wait()


def test_the_last_error_is_told_with_its_advice_until_a_stage_is_built(
    run: Run, salad: Salad, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run.store.path("round-000/selection"))
    stage = next(s for s in run.stages if s.name == "round-000/selection")

    def fails(*_: object) -> dict[str, object]:
        raise SaladError("the texts are gone", "bring them back")

    with monkeypatch.context() as m:
        m.setattr("salad.pipeline.select.build_selection", fails)
        with pytest.raises(SaladError, match="the texts are gone"):
            run.execute(stage)
    said = salad("status", str(run.store))
    assert re.search(r"last error \d s ago in round-000/selection: the texts are gone: bring them back", said)
    assert "stages are missing" in said
    monkeypatch.chdir(run.store.root.parent.parent)
    overview = salad("status")
    assert "round-000/selection" in overview
    assert "idle" in overview
    assert run.execute(stage)[1]
    assert "last error" not in salad("status", str(run.store))


def test_a_clock_that_was_set_back_shows_no_negative_time() -> None:
    assert status._ago(time.time() + 10_000) == "0 s ago"
    assert status._ago(time.time() - 7200) == "2 h ago"
    assert status._ago(None) == "some time ago"


def test_verify_names_every_damaged_file(run: Run, salad: Salad) -> None:
    flipped = run.store.path("round-000/speech") / "data"
    path = next(iter(sorted(flipped.iterdir())))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (run.store.path("pool") / "part-00000.parquet").unlink()
    said = salad("verify", str(run.store), status=1)
    assert f"{path} is not what was published" in said
    assert "pool/part-00000.parquet is missing" in said
    assert "2 files are damaged" in said


def test_gc_removes_what_no_manifest_names_and_only_after_asking(run: Run, salad: Salad, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run.store.root
    stray = [
        "round-000/.checkpoint.partial/checkpoint-3/model.safetensors",
        "round-000/.pool.old/x",
        "pool/extra.txt",
        "notes/mine.txt",
    ]
    for name in stray:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x" * 2000)
    (root / "eval").mkdir()
    (root / "eval/eval.json").write_text("{}")
    before = run.store.files()
    found = {one.name: one.resumable for one in leftovers(before, artefacts(run.store, before))}
    assert found == {
        "round-000/.checkpoint.partial": True,
        "round-000/.pool.old": False,
        "pool/extra.txt": False,
        "notes/mine.txt": False,
    }

    monkeypatch.setattr("typer.confirm", lambda _: False)
    said = salad("gc", str(run.store), status=1)
    assert "half-done: the next `salad run` would go on with it" in said
    assert "nothing was removed" in said
    assert run.store.files() == before

    assert "removed 4, 8.0 kB" in salad("gc", "--yes", str(run.store))
    assert set(run.store.files()) == set(before) - set(stray)
    assert not (root / "notes").exists()
    assert all(state == "done" for state in states(run).values())


def test_gc_waits_for_nobody(run: Run, salad: Salad) -> None:
    """It deletes nothing under the hands of a process that works on the run."""
    with run.store.lock():
        assert "is in use by process" in salad("gc", "--yes", str(run.store), status=1)


def test_no_run_anywhere(salad: Salad, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run in runs: start one with" in salad("status")
    assert "is not a run of salad" in salad("verify", str(tmp_path), status=1)
