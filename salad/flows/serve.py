"""`salad serve`: a process that offers the deployments to a Prefect server and runs what is asked of them."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from salad.errors import SaladError
from salad.interrupts import let_be

if TYPE_CHECKING:
    from prefect.runner import Runner

START = "run `prefect server start`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`"

ASIDE = 2.5  # seconds in which flow runs end by themselves: Ctrl+C reaches their processes too


def serve_deployments(limit: int = 1) -> None:
    """Serve all flows until Ctrl+C, that many flow runs at a time; SaladError where no server answers.

    Each is a deployment of its own name: what `prefect deployment run NAME` asks for.
    """
    from prefect.runner import Runner
    from prefect.settings import get_current_settings
    from prefect.types.entrypoint import EntrypointType

    from salad.console import console
    from salad.flows.salad_round import salad_round
    from salad.flows.salad_run import salad
    from salad.flows.salad_stage_one import salad_stage_one

    settings = get_current_settings()
    _check_server(settings.api.url)
    runner = Runner(name="salad", limit=limit)
    console.print(f"Serving at {settings.api.url}; start one with\n", soft_wrap=True)
    for flow in (salad_round, salad, salad_stage_one):
        # By module and not by file: the flow is found from whatever folder this is started in.
        runner.add_flow(flow, name=flow.name, entrypoint_type=EntrypointType.MODULE_PATH)
        name = flow.name if settings.plugins.enabled else f"{flow.name}/{flow.name}"
        console.print(f"  prefect deployment run {name}", soft_wrap=True)
    _end_with_flow_runs(runner)
    asyncio.run(runner.start())


def _end_with_flow_runs(runner: Runner) -> None:
    """SIGINT and SIGTERM end the flow runs too, and soon: where only this process had the signal, Prefect would wait for them."""
    let_be()  # Prefect waits for what it tells the flow runs
    before = signal.getsignal(signal.SIGINT)

    def end(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(ASIDE, _terminate)
        timer.daemon = True
        timer.start()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, end)
    runner.handle_sigterm = end  # type: ignore[method-assign]


def _terminate() -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def _check_server(url: str | None) -> None:
    """Without a URL Prefect would start a temporary server of its own, which no other command would find."""
    from prefect.client.orchestration import get_client

    if not url:
        raise SaladError("no Prefect server is named (PREFECT_API_URL is not set)", START)
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem:
        raise SaladError(f"no Prefect server answers at {url} ({problem})", START)
