"""One flow run at a time on a run: the others wait for it, without a process of their own, and go on by themselves.

The truth is the lock of the run's store, which `salad run` in a terminal takes too: it goes with its process, however that
ends, and no server has to be there. A Prefect concurrency limit would stay taken until its lease runs out, and for ever when
the server was started anew meanwhile, because the server keeps leases in memory.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from httpx import HTTPError
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause, PrefectException
from prefect.states import Crashed, Scheduled
from prefect.utilities.engine import propose_state_sync

from salad.errors import RunInUse

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

FIRST_WAIT, LONGEST_WAIT = 5.0, 60.0  # seconds until a waiting flow run looks again; doubled each time
STATE = "AwaitingRun"


@contextmanager
def held(run: Run) -> Iterator[None]:
    """The run's lock. A deployment's flow run that does not get it is put off; any other caller gets RunInUse."""
    flow_run = deployed()
    with ExitStack() as stack:
        try:
            stack.enter_context(run.store.lock())
        except RunInUse as e:
            if flow_run is not None:
                put_off(flow_run, e)
            raise
        if flow_run is not None:
            bury(flow_run, f"run:{run.store.root.resolve()}@{socket.gethostname()}")
        yield


def deployed() -> FlowRun | None:
    """This process's flow run, where a runner or a worker started it for a deployment and will start it again."""
    context = FlowRunContext.get()
    found = context.flow_run if context else None
    return found if isinstance(found, FlowRun) and found.deployment_id else None


def put_off(flow_run: FlowRun, error: RunInUse) -> None:
    """Schedule the flow run anew and end this process, so that others may have its place. Raises Pause."""
    seconds = min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, flow_run.run_count - 1))
    get_run_logger().info("%s; this flow run looks again in %.0f s", error, seconds)
    later: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds), name=STATE, message=str(error))
    with get_client(sync_client=True) as client:
        raise Pause(state=propose_state_sync(client, later, flow_run_id=flow_run.id))


def bury(flow_run: FlowRun, tag: str) -> None:
    """Tag the flow run with its run. Whoever else claims to work on that is dead, now that we have the lock: say so.

    A server that does not answer only leaves them unburied.
    """
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=[*flow_run.tags, tag])
            for dead in _claiming(client, tag):
                if dead.id != flow_run.id:
                    said: State[Any] = Crashed(message="its process is gone: another flow run has the run's lock")
                    client.set_flow_run_state(dead.id, said, force=True)
                    get_run_logger().warning("flow run '%s' was still said to run, and does not", dead.name)
    except (HTTPError, PrefectException) as e:
        get_run_logger().warning("the server was not asked who else claims this run: %s", e)


def _claiming(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    state = {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": state, "tags": {"all_": [tag]}}))
