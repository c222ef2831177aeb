"""The Prefect task `stage`: one stage of a run, given as strings.

Tasks exchange nothing but names. What one stage hands to the next lies in the run's folder, under a manifest whose key names
everything that its bytes depend on; so Prefect's results and cache stay off: they would be a second, weaker record of
what is done (their default key changes with every flow run, and nobody checks the bytes behind it).
"""

# Annotations must not be strings here (no __future__ import): Prefect reads them.
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed

from salad.errors import NetworkError, SaladError
from salad.pipeline.patience import DELAYS

if TYPE_CHECKING:
    from salad.pipeline.models import Models
    from salad.pipeline.stages import Run, Stage
    from salad.pipeline.store import Store


def _network_failed(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """What is raised, not returned, is worth another try if it is of the network (`run_stage`)."""
    return isinstance(state.result(raise_on_failure=False), NetworkError)


@task(
    name="stage",
    task_run_name="{run} · {stage}",
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=len(DELAYS),
    retry_delay_seconds=list(DELAYS),
    retry_condition_fn=_network_failed,
)
def run_stage(config: str, run: str, stage: str) -> State[Any]:
    """Build one stage, unless its artefact is valid. config: the whole configuration as JSON; run: its name."""
    from salad.console import describe
    from salad.flows.artifacts import StageProgress

    opened = run_of(config)
    found = next(s for s in opened.stages if s.name == stage)
    progress = StageProgress(run, found)
    with own_log(f"[{run} · {stage}]") as log:
        try:
            manifest, built = opened.execute(found, progress)
        except SaladError as e:
            if found.network and isinstance(e, NetworkError):
                raise
            return Failed(message=str(e))
        how = "already done"
        if built:
            progress.finish(manifest.seconds)
            how = f"built in {manifest.seconds:.1f} s"
        log.info("%s (%s)", how, describe(manifest.meta))
    return Completed(message=how)


def build(run: "Run", stages: "list[Stage]", from_run: str | None = None) -> None:
    """A task a stage, in order. SaladError with the message of the first that failed.

    from_run: folder or URL of another run; what would come out the same is taken over first.
    """
    if from_run is not None:
        from salad.pipeline.stages import take_over

        get_run_logger().info("run %s: %s", run.config.name, take_over(run, from_run, stages))
    config = run.config.model_dump_json()
    for stage in stages:
        state = run_stage(config, run.config.name, stage.name)
        if state.is_failed():
            raise SaladError(state.message or stage.name)


@contextmanager
def own_log(prefix: str) -> Iterator[logging.Logger]:
    """What the loggers of `salad` write meanwhile, in any thread, goes to the task run's log, with the prefix before it."""
    ours, theirs = logging.getLogger("salad"), get_run_logger()

    class ToPrefect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            theirs.log(record.levelno, "%s %s", prefix, record.getMessage(), exc_info=record.exc_info)

    handler, before = ToPrefect(), (ours.level, ours.propagate)
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False  # the terminal has it from Prefect
    try:
        yield ours
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]


@lru_cache(maxsize=1)
def run_of(config: str) -> "Run":
    """The run of a configuration given as JSON."""
    from salad.config import Config
    from salad.pipeline.stages import Run

    parsed = Config.model_validate_json(config)
    alike = parsed.model_copy(update={"rounds": 1}).model_dump_json()
    return Run(parsed, models_of(alike), store_of(alike))


@lru_cache(maxsize=1)
def models_of(config: str) -> "Models":
    """Models are loaded once a process: not once a task, nor once more when a run gets another number of rounds."""
    from salad.config import Config
    from salad.pipeline.models import Models

    return Models(Config.model_validate_json(config))


@lru_cache(maxsize=1)
def store_of(config: str) -> "Store":
    """One a process: tasks publish through the store whose lock the flow holds."""
    from salad.config import Config
    from salad.pipeline.store import open_store

    parsed = Config.model_validate_json(config)
    return open_store(parsed.run_dir, parsed.storage)
