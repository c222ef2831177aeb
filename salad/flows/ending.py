"""A flow run's process ends in time once it is told to: by a cancel in Prefect, Ctrl+C, or the end of its runner or worker.

Prefect sends SIGTERM and kills after 30 s; the process is gone before, and those that speak or train for it with it. Without
the process that started it nobody could cancel it any more, so it ends with that as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from uuid import UUID

from salad.flows.holding import deployed
from salad.interrupts import end_within
from salad.parent import end_with_parent

HELD: list[subprocess.Popen[bytes]] = []  # the witness, for as long as this process lives


def end_in_time() -> None:
    """Watch for SIGTERM and SIGINT from now on, with a witness, if this process exists for a deployment's flow run."""
    flow_run = deployed()
    if flow_run is None or threading.current_thread() is not threading.main_thread():
        return
    end_within()
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    _call_witness(flow_run.id)


def _call_witness(flow_run: UUID) -> None:
    """Start it. Its standard input ends with this process, and with nothing else."""
    command = [sys.executable, "-P", "-m", "salad.flows.witness", str(flow_run)]
    paths = os.pathsep.join(filter(None, sys.path))
    nothing = subprocess.DEVNULL
    HELD.append(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
    )  # fmt: skip
