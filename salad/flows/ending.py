"""A flow run's process ends in time once it is told to: by a cancel in Prefect, Ctrl+C, or the end of its runner or worker.

Prefect sends SIGTERM and kills after 30 s. Python hears a signal only between two of its own steps, which a long call into a
library puts off, and a destructor or callback may swallow the exception. Whatever happens then, the store holds valid artefacts
only, so after a few seconds the process just ends. Processes that speak or train for it see that, and end too. Without the
process that started it nobody could cancel it any more, so it ends with that as well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from uuid import UUID

from salad.flows.holding import deployed

GRACE = 6.0  # seconds to end in by itself
ORPHANED = 1.0  # seconds between looks at whether the parent is still there
HELD: list[subprocess.Popen[bytes]] = []  # the witness, for as long as this process lives


def end_in_time() -> None:
    """Watch for SIGTERM and SIGINT from now on, with a witness, if this process exists for a deployment's flow run."""
    flow_run = deployed()
    if flow_run is None or threading.current_thread() is not threading.main_thread():
        return
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.detach(), warn_on_full_buffer=False)  # written to at once, whatever the main thread is at
    threading.Thread(target=_watch, args=(told, os.getppid()), name="end in time", daemon=True).start()
    _call_witness(flow_run.id)


def _watch(told: socket.socket, parent: int) -> None:
    told.settimeout(ORPHANED)
    number = 0
    while number not in (signal.SIGTERM, signal.SIGINT):
        try:
            number = told.recv(1)[0]
        except TimeoutError:
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + number)


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
