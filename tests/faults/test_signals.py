"""Ctrl+C and SIGTERM at any moment: one line, the shell's exit status, nothing half-done, nobody left behind; then it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from salad import console
from salad.artifact import MANIFEST, damage, read_manifest
from salad.cli import SAID
from salad.pipeline.stages import Stage
from tests.faults import engine
from tests.faults.attempt import command
from tests.faults.rig import HANGS, SEED, Calm, alive, ended, start
from tests.faults.table import Table

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NAMES = {signal.SIGINT: "Ctrl+C", signal.SIGTERM: "SIGTERM"}


@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_stopped_at_random_moments(tmp_path: Path, calm: Calm, table: Table, sent: signal.Signals, workers: int) -> None:
    config = other_config(tmp_path, calm, workers)
    runs = tmp_path / "runs"
    numbers = np.random.default_rng(SEED + sent + workers)
    times = 3 if workers else 6
    with table.survived_all(f"{NAMES[sent]} at a random moment") as fault:
        stopped = 0
        while stopped < times:
            output = tmp_path / f"{stopped}"
            log = tmp_path / f"{stopped}.log"
            process = start(command, ["run", str(config)], str(output), {engine.LOG: str(log)})
            while process.exitcode is None and not hears(process.pid):
                time.sleep(0.01)
            process.join(0.05 + float(numbers.uniform()) * (calm.seconds / 3 + 2 * (workers > 0)))
            if process.exitcode is None:
                assert process.pid is not None
                os.kill(process.pid, sent)
            status = ended(process)
            if status == 0:  # it was quicker
                runs.rename(tmp_path / f"runs-{stopped}-{time.monotonic_ns()}")
                continue
            fault()
            stopped += 1
            told(status, sent, output.with_name(f"{output.name}.err").read_text())
            whole(runs)
            left_alone(log)
        process = start(command, ["run", str(config)], str(tmp_path / "last"), {})
        assert ended(process) == 0
        calm.check(calm.other(runs, **{"speech.workers": workers}))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line_stopped(tmp_path: Path, calm: Calm, table: Table, sent: signal.Signals) -> None:
    """`python -m salad run`, in a process group of its own that all of it gets the signal, as from a terminal."""
    config = other_config(tmp_path, calm, workers=2)
    log = tmp_path / "log"
    words = [sys.executable, "-m", "salad", "run", str(config)]
    environment = {**os.environ, engine.LOG: str(log), engine.PACE: "0.01"}
    with table.survived_all(f"{NAMES[sent]} of the whole process group") as fault:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + HANGS
        while not (log.exists() and log.read_text().count("said") > 150) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, sent)
        fault()
        _, errors = process.communicate(timeout=HANGS)
        told(process.returncode, sent, errors)
        whole(tmp_path / "runs")
        left_alone(log)
        assert ended(start(command, ["run", str(config)], str(tmp_path / "last"), {})) == 0
        calm.check(calm.other(tmp_path / "runs", **{"speech.workers": 2}))


def test_a_build_that_swallowed_the_interrupt_is_not_published(tmp_path: Path, calm: Calm) -> None:
    """A callback from C cannot raise: a sound may be cut short, and nobody told."""
    run = calm.other(tmp_path)

    def build(out: Path, progress: object) -> dict[str, object]:
        (out / "sound").write_text("cut sh")
        console.interrupted.set()
        return {}

    try:
        with pytest.raises(KeyboardInterrupt):
            console.walk(run, [Stage("deaf", build, {})])
        assert not run.store.path("deaf").exists()
    finally:
        console.interrupted.clear()


def hears(pid: int | None) -> bool:
    """Whether the command has begun to listen: SIGTERM is what it does so for last."""
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:  # it is over
        return True
    return bool(int(status["SigCgt"], 16) & 1 << (signal.SIGTERM - 1))


def other_config(folder: Path, calm: Calm, workers: int) -> Path:
    path = folder / "other.yaml"
    text = calm.config.read_text().replace(str(calm.run.store.root.parent), str(folder / "runs"))
    path.write_text(text.replace("workers: 0", f"workers: {workers}"))
    return path


def told(status: int, sent: signal.Signals, errors: str) -> None:
    lines = [line for line in errors.splitlines() if line.strip()]
    assert (status, lines) == (128 + sent, [SAID.strip()])


def whole(runs: Path) -> None:
    """Every artefact that is there is valid."""
    for path in runs.rglob(MANIFEST):
        if not path.parent.name.endswith(".partial"):
            found = read_manifest(path.parent)
            assert found is not None
            assert damage(path.parent, found) is None


def left_alone(log: Path) -> None:
    deadline = time.monotonic() + 60
    while (left := alive(f"{engine.LOG}={log}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], "processes that outlive the command"
