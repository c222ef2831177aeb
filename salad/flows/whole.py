"""What all flows have in common: the run is opened and held, work is done on it, and how it ended is the flow run's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from salad.errors import SaladError

if TYPE_CHECKING:
    from salad.pipeline.stages import Run


def carry_out(open_: Callable[[], Run], work: Callable[[Run], tuple[Run, str]]) -> State[Any]:
    """Open a run, work on it while nobody else does, write its report, show its tables.

    work: gives the run as it is then, and what was done in words. Mistakes of the user end the flow run in one line.
    """
    from salad.flows.artifacts import show_results
    from salad.flows.ending import end_in_time
    from salad.flows.holding import held
    from salad.flows.stage import run_of
    from salad.pipeline.report import write_report

    end_in_time()
    try:
        run = run_of(open_().config.model_dump_json())
        with held(run):
            run, said = work(run)
            page = write_report(run)
        show_results(run, page, said)
    except SaladError as e:
        return Failed(message=str(e))
    return Completed(message=f"run {run.config.name}, {said}; the report is {page}")
