"""The same command twice at once: one works, the other is refused in one line that names it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults import engine
from tests.faults.attempt import command
from tests.faults.rig import Calm, context, ended, start
from tests.faults.table import Table

pytestmark = pytest.mark.slow
TIMES = 10


def test_two_starts_at_the_very_same_moment(tmp_path: Path, calm: Calm, table: Table) -> None:
    """Each time whoever works is then killed, and the next two start on what it left; in the end one of them is let finish."""
    config = tmp_path / "two.yaml"
    config.write_text(calm.config.read_text().replace(str(calm.run.store.root.parent), str(tmp_path / "runs")))
    environment = {engine.PACE: "0.01"}  # nobody is at the end before the other is refused
    with table.survived_all("two starts of one command at the same moment") as fault:
        for i in range(TIMES):
            barrier = context.Barrier(2)
            outputs = [tmp_path / f"{i}-{n}" for n in range(2)]
            both = [start(command, ["run", str(config)], str(output), environment, barrier) for output in outputs]
            fault()
            refused = first_to_end(*both)
            holder = both[1 - refused]
            assert both[refused].exitcode == 1
            said = [line for line in outputs[refused].with_name(f"{i}-{refused}.err").read_text().splitlines() if line.strip()]
            assert len(said) == 1, said
            named = re.fullmatch(
                r"error: run \S+ is in use by (.*): wait for it, stop it, or use --name for another run", said[0]
            )
            assert named, said
            assert re.search(rf"process {holder.pid}\b", named[1]), (said[0], holder.pid, both[refused].pid)
            assert outputs[refused].with_name(f"{i}-{refused}.out").read_text() == ""
            if i < TIMES - 1:
                assert holder.pid is not None
                os.kill(holder.pid, signal.SIGKILL)
                assert ended(holder) == -signal.SIGKILL
        assert ended(holder) == 0
        calm.check(calm.other(tmp_path / "runs"))


def first_to_end(*processes: object) -> int:
    from multiprocessing.connection import wait

    ready = wait([p.sentinel for p in processes], 60)  # type: ignore[attr-defined]
    assert ready, "neither is refused"
    found = next(i for i, p in enumerate(processes) if p.sentinel in ready)  # type: ignore[attr-defined]
    processes[found].join()  # type: ignore[attr-defined]
    return found
