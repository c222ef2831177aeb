"""Where the parts of a stage are computed: in this process, in others beside it, or on a Dask or Ray cluster.

A task is a function of a module, `function(models, *arguments)`: its arguments are small and can be pickled, what it makes
goes to a file, what it returns is small. `Models` it finds where it runs, loaded once a process. Parts never depend on the
runner and each is computed with one thread of torch, so every runner gives the same bytes (docs/scaling.md).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from salad.config import Needs
from salad.errors import SaladError
from salad.interrupts import put_off

if TYPE_CHECKING:
    from salad.pipeline.models import Models

log = logging.getLogger(__name__)
Task = Callable[..., Any]
Tick = Callable[[], object]  # called while a result is waited for: where Ctrl+C gets through
TICK = 0.2  # seconds between two of them
SAID, GIVEN_UP = 10.0, 600.0  # seconds that no worker can run a task: after these it is said, after those it is an error
DEATHS = 3  # workers that may die at one task


class Runner(ABC):
    """Runs tasks. Entered for a stage, which may be often; closed once."""

    slots = 1  # tasks that run at once, about

    def __enter__(self) -> Runner:
        self._waited_for: dict[int, Any] = {}
        return self

    @put_off()
    def __exit__(self, *_: object) -> None:
        """Nobody waits for this stage's tasks any more."""
        for handle in self._waited_for.values():
            self.abandon(handle)
        self._waited_for.clear()

    @put_off()
    def submit(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> Pending:
        handle = self.start(function, arguments, needs)
        self._waited_for[id(handle)] = handle
        return Pending(self, handle, needs)

    def settled(self, handle: Any) -> None:
        self._waited_for.pop(id(handle), None)

    def map(self, function: Task, parts: Iterable[tuple[Any, ...]], needs: Needs, tick: Tick) -> Iterator[Any]:
        """What the function returns for each of the parts, in their order; some are computed ahead."""
        ahead: deque[Pending] = deque()
        for part in parts:
            ahead.append(self.submit(function, part, needs))
            if len(ahead) > 2 * self.slots:
                yield ahead.popleft().result(tick)
        while ahead:
            yield ahead.popleft().result(tick)

    @abstractmethod
    def start(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> Any:
        """A handle for the three that follow."""

    @abstractmethod
    def ready(self, handle: Any, seconds: float) -> bool:
        """Wait that long at most."""

    @abstractmethod
    def take(self, handle: Any) -> Any:
        """What the function returned. Its SaladError is raised as what it is."""

    @abstractmethod
    def drop(self, handle: Any) -> bool:
        """It is not wanted any more; False where it runs all the same, until it is through."""

    def abandon(self, handle: Any) -> None:
        """End it if that can be done at all, without waiting."""
        self.drop(handle)

    @abstractmethod
    def close(self) -> None:
        """End every process that this runner started."""

    def lacks(self, needs: Needs) -> str | None:
        """What no worker of now has; None where one can run such a task, sooner or later."""
        return None


class Pending:
    """A task that was handed in."""

    def __init__(self, runner: Runner, handle: Any, needs: Needs) -> None:
        self._runner, self._handle, self._needs = runner, handle, needs

    def result(self, tick: Tick = lambda: None) -> Any:
        """Wait for it. SaladError when no worker can run it, however long one waits."""
        since, said = time.monotonic(), False
        while not self._ready():
            tick()
            waited = time.monotonic() - since
            if waited < (GIVEN_UP if said else SAID):
                continue
            if not (lacking := self._runner.lacks(self._needs)):
                since, said = time.monotonic(), False
            elif said:
                raise SaladError(f"{lacking}, for {GIVEN_UP:.0f} s now", "start such a worker, or ask for less under `compute`")
            else:
                log.warning("%s: waiting for one", lacking)
                said = True
        self._runner.settled(self._handle)
        return self._runner.take(self._handle)

    def drop(self) -> None:
        """Returns once it does not run, and never will: what it writes into may be moved away."""
        with put_off():
            over = self._runner.drop(self._handle)
        while not over:
            over = self._ready()
        self._runner.settled(self._handle)

    @put_off()
    def _ready(self) -> bool:
        return self._runner.ready(self._handle, TICK)


def open_compute(models: Models) -> Runner:
    """The runner that `compute.runner` names. SaladError when its package is not installed or its scheduler does not answer."""
    kind = models.config.compute.runner
    if kind == "processes":
        from salad.pipeline.compute.processes import Processes

        return Processes(models.config)
    if kind == "dask":
        from salad.pipeline.compute.on_dask import OnDask

        return OnDask(models.config)
    if kind == "ray":
        from salad.pipeline.compute.on_ray import OnRay

        return OnRay(models.config)
    from salad.pipeline.compute.local import Local

    return Local(models)
