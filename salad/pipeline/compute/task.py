"""What happens in a worker process: a task with its models, which are loaded once and kept for the next task."""

from __future__ import annotations

import os
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import salad
from salad.config import Config
from salad.errors import SaladError

if TYPE_CHECKING:
    from salad.pipeline.compute import Task
    from salad.pipeline.models import Models

IDLE = 60.0  # seconds without a task after which the processes that speak are ended


@dataclass(frozen=True)
class Job:
    """A task and what a worker must know to run it: the whole configuration as JSON, the folder where `salad` was started."""

    function: Task
    arguments: tuple[Any, ...]
    config: str
    folder: str
    version: str = salad.__version__


Outcome = tuple[Literal["made", "error", "broken"], Any]


def job_of(config: Config, function: Task, arguments: tuple[Any, ...]) -> Job:
    return Job(function, arguments, config.model_dump_json(), os.getcwd())


def perform(job: Job) -> Outcome:
    """("made", what the task returned), ("error", its SaladError), or ("broken", the traceback of anything else)."""
    import torch

    try:
        if job.version != salad.__version__:
            raise SaladError(f"a worker has salad {salad.__version__}, this is {job.version}", "install the same on all machines")
        with suppress(OSError):  # names of files are relative to where `salad` was started, if that is mounted here
            os.chdir(job.folder)
        torch.set_num_threads(1)
        with _busy:
            return "made", job.function(_busy.models_of(job.config), *job.arguments)
    except SaladError as e:
        return "error", e
    except Exception:
        return "broken", traceback.format_exc()


def unwrapped(outcome: Outcome) -> Any:
    """What the task returned, or its error raised here."""
    kind, value = outcome
    if kind == "error":
        raise value
    if kind == "broken":
        raise RuntimeError(f"a task failed in its worker:\n{value}")
    return value


class _Busy:
    """The models of the run that is being worked for; the processes that speak end when no task came for a while, since a
    worker may outlive the run by months."""

    def __init__(self) -> None:
        self._models: dict[str, Models] = {}
        self._lock, self._running, self._timer = threading.Lock(), 0, threading.Timer(IDLE, self._rest)

    def __enter__(self) -> _Busy:
        with self._lock:
            self._running += 1
            self._timer.cancel()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._timer = threading.Timer(IDLE, self._rest)
                self._timer.daemon = True
                self._timer.start()

    def models_of(self, config: str) -> Models:
        from salad.pipeline.models import Models, quiet_libraries

        with self._lock:
            if config not in self._models:
                quiet_libraries()
                for other in self._models.values():
                    other.close()
                loaded = Config.model_validate_json(config)
                if loaded.speech.workers is None:  # a task has its share of a machine, not all of its cores
                    loaded = loaded.model_copy(update={"speech": loaded.speech.model_copy(update={"workers": 1})})
                self._models = {config: Models(loaded)}
            return self._models[config]

    def _rest(self) -> None:
        with self._lock:
            if not self._running:
                for models in self._models.values():
                    models.close()


_busy = _Busy()
