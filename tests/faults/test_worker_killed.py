"""kill -9 of the processes that speak, in a whole run: it goes on, and its bytes are the undisturbed run's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults import engine
from tests.faults.attempt import live
from tests.faults.rig import HANGS, SEED, Calm, alive, ended, start
from tests.faults.table import Table

pytestmark = pytest.mark.slow
KILLS = 6
APART = 48  # texts said between two kills: one that was lost twice would be turned down, with its reason, …
ORDERS = 2  # … so the one killed has done with its first order, which may be such a text


def test_a_speaking_process_killed_now_and_then(tmp_path: Path, calm: Calm, table: Table) -> None:
    numbers = np.random.default_rng(SEED)
    changes = {"runs_dir": str(tmp_path / "runs"), "speech.workers": 2}
    log = tmp_path / "log"
    with table.survived_all("SIGKILL of a process that speaks") as kill:
        process = start(live_slowly, str(calm.config), changes, str(log))
        said, killed, deadline = 0, 0, time.monotonic() + HANGS
        while process.is_alive() and killed < KILLS and time.monotonic() < deadline:
            time.sleep(0.02)
            lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
            now = sum(line.startswith("said ") for line in lines)
            speaking = [p for p in alive(f"{engine.LOG}={log}") if lines.count(engine.order(p)) >= ORDERS]
            if speaking and now >= said + APART:
                os.kill(speaking[numbers.integers(len(speaking))], signal.SIGKILL)
                said, killed = now, killed + 1
                kill()
        assert ended(process) == 0
        assert killed == KILLS
        calm.check(calm.other(tmp_path / "runs", **{"speech.workers": 2}))


def live_slowly(*arguments: object) -> None:
    os.environ[engine.PACE] = "0.01"
    live(*arguments)  # type: ignore[arg-type]


def gone(marker: str) -> bool:
    """Whether processes end soon."""
    deadline = time.monotonic() + 10
    while alive(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(marker)
