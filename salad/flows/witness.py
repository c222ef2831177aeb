"""Tells Prefect that a flow run's process is gone where nobody else does: `python -m salad.flows.witness FLOW_RUN`.

`prefect worker` kills its flow runs at Ctrl+C without a word, and a runner that is killed can say nothing: such a flow run
would be said to run for ever. The witness has a session of its own, and sleeps on its standard input, whose other end that
process holds.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

ASIDE = 6.0  # seconds in which a runner that lives says it itself
TRIES, BETWEEN = 120, 5.0  # and seconds, while no server answers


def main(flow_run: UUID) -> None:
    """Wait for the end of the process; then see to it that its flow run has an end too."""
    sys.stdin.buffer.read()
    from httpx import HTTPError

    for _ in range(TRIES):
        try:
            _conclude(flow_run)
        except HTTPError:
            time.sleep(BETWEEN)
        else:
            return


def _conclude(flow_run: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Crashed

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
        if _goes_on(state):
            time.sleep(ASIDE)
            state = client.read_flow_run(flow_run).state
        if state is not None and _goes_on(state):
            gone: State[None] = Crashed(message="its process was killed, or its worker ended")
            client.set_flow_run_state(flow_run, Cancelled() if state.is_cancelling() else gone, force=True)


def _goes_on(state: State[Any] | None) -> bool:
    return state is not None and (state.is_running() or state.is_cancelling())


if __name__ == "__main__":
    main(UUID(sys.argv[1]))
