"""A flow run's process ends in time once it is told to: by a cancel in Prefect, Ctrl+C, or the end of its runner or worker.

Prefect sends SIGTERM and kills after 30 s. Python hears a signal only between two of its own steps, which a long call into a
library puts off, and a destructor or callback may swallow the exception. Whatever happens then, the store holds valid artefacts
only, so after a few seconds the process just ends. Processes that speak or train for it see that, and end too.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from uuid import UUID

from salad.flows.holding import deployed

GRACE = 6.0  # seconds to end in by itself
TELLING = 1.5  # seconds that telling the server may take


def end_in_time() -> None:
    """Watch for SIGTERM and SIGINT from now on, if this process exists for a deployment's flow run."""
    flow_run = deployed()
    if flow_run is None or threading.current_thread() is not threading.main_thread():
        return
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.detach(), warn_on_full_buffer=False)  # written to at once, whatever the main thread is at
    threading.Thread(target=_watch, args=(told, flow_run.id), name="end in time", daemon=True).start()


def _watch(told: socket.socket, flow_run: UUID) -> None:
    while (number := told.recv(1)[0]) not in (signal.SIGTERM, signal.SIGINT):
        pass
    time.sleep(GRACE)
    telling = threading.Thread(target=_tell, args=(flow_run, number), daemon=True)
    telling.start()
    telling.join(TELLING)
    os._exit(128 + number)


def _tell(flow_run: UUID, number: int) -> None:
    """The state of a flow run whose process is made to end. One that is being cancelled is its runner's to finish."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
        if state is None or not (state.is_final() or state.is_cancelling()):
            said = f"ended by signal {number}, {GRACE:.0f} s after it; what is published stays, and the same command goes on"
            client.set_flow_run_state(flow_run, Crashed(message=said), force=True)
