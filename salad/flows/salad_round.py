"""The Prefect flow `salad-round`: `salad round` with a task a stage, its progress and its tables in Prefect.

Tasks receive strings alone. What one stage hands to the next lies in the run's folder, under a manifest whose key names
everything that its bytes depend on; so Prefect's results and cache stay off: they would be a second, weaker record of
what is done (their default key changes with every flow run, and nobody checks the bytes behind it).
"""

# Annotations must not be strings here (no __future__ import): Prefect makes the parameters' model from them.
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from salad.errors import SaladError

if TYPE_CHECKING:
    from salad.pipeline.stages import Run


@flow(name="salad-round", persist_result=False)
def salad_round(
    config: str = "configs/demo.yaml",
    name: str | None = None,
    round: Annotated[int, Field(ge=0)] = 0,
    selector: str | None = None,
    budget: Annotated[float, Field(gt=0)] | None = None,
) -> State[Any]:
    """One round of SALAD, and whatever before it is missing: score, select, synthesise, distil, measure.

    Args:
        config: A YAML configuration, relative to the folder in which `salad serve` was started.
        name: Run name, in place of the configuration's.
        round: Which round, from 0.
        selector: Strategy: a name from `salad strategies`, file.py:Class or package.module:Class.
        budget: Seconds of synthetic speech a round.
    """
    from salad.flows.artifacts import show_results
    from salad.pipeline.report import write_report
    from salad.pipeline.stages import open_run

    try:
        opened = open_run(config, {"name": name, "select.selector": selector, "select.budget": budget}, at_least=round + 1)
        whole = opened.config.model_dump_json()
        run = run_of(whole)
        with run.store.lock():
            run.store.bind(run.config)
            for stage in run.round_stages(round):
                state = run_stage(whole, round, stage.name)
                if state.is_failed():
                    return Failed(message=state.message)
            page = write_report(run)
        show_results(run, page)
    except SaladError as e:
        return Failed(message=str(e))
    return Completed(message=f"run {run.config.name}, round {round}: the report is {page}")


@task(name="stage", task_run_name="{stage}", persist_result=False, cache_policy=NO_CACHE)
def run_stage(config: str, round: int, stage: str) -> State[Any]:
    """Build one stage, unless its artefact is valid. `config`: the whole configuration as JSON."""
    from salad.console import describe
    from salad.flows.artifacts import StageProgress

    run = run_of(config)
    found = next(s for s in run.stages if s.name == stage)
    progress = StageProgress(run.config.name, found)
    try:
        manifest, built = run.execute(found, progress)
    except SaladError as e:
        return Failed(message=str(e))
    how = "already done"
    if built:
        progress.finish(manifest.seconds)
        how = f"built in {manifest.seconds:.1f} s"
    get_run_logger().info("run %s, round %d, %s: %s (%s)", run.config.name, round, stage, how, describe(manifest.meta))
    return Completed(message=how)


@lru_cache(maxsize=1)
def run_of(config: str) -> "Run":
    """The run of a configuration given as JSON, one a process: its models are loaded once, not once a task."""
    from salad.config import Config
    from salad.pipeline.stages import Run

    return Run(Config.model_validate_json(config))
