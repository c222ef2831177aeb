"""Tasks side by side in threads of this process, with its models: no process is started, nothing is pickled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from salad.config import Needs
from salad.interrupts import put_off
from salad.pipeline.compute import Runner, Task

if TYPE_CHECKING:
    from salad.pipeline.models import Models

MOST = 8  # each task has models and buffers of its own


class Local(Runner):
    """`compute.workers` tasks at once, by default one a thread of torch, but two at least: one may wait for a voice."""

    def __init__(self, models: Models) -> None:
        import torch

        self._models = models
        self.slots = models.config.compute.workers or max(2, min(torch.get_num_threads(), MOST))
        self._threads: ThreadPoolExecutor | None = None
        self._helpers: ThreadPoolExecutor | None = None  # a task waits for them, and they for nobody

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.close()

    @put_off()
    def close(self) -> None:
        if self._threads is not None:
            self._models.stopped.set()
            self._threads.shutdown(cancel_futures=True)
            self._models.stopped.clear()
            self._threads = None
        if self._helpers is not None:
            self._helpers.shutdown()
            self._helpers, self._models.each = None, map

    def start(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> Future[Any]:
        if self._threads is None:
            self._threads, self._helpers = one_thread_each(self.slots), one_thread_each(self.slots)
            self._models.each = self._helpers.map
        return self._threads.submit(function, self._models, *arguments)

    def ready(self, handle: Future[Any], seconds: float) -> bool:
        return bool(wait([handle], seconds).done)

    def take(self, handle: Future[Any]) -> Any:
        return handle.result()

    def drop(self, handle: Future[Any]) -> bool:
        return handle.cancel()


def one_thread_each(n: int) -> ThreadPoolExecutor:
    """n threads that each compute with one thread of torch. The caller keeps its own number, and so do threads made later."""
    import torch

    before, started = torch.get_num_threads(), threading.Barrier(n + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes the process's number when first asked, and keeps it
        started.wait()

    threads = ThreadPoolExecutor(n, initializer=begin)
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    try:
        for _ in range(n):
            threads.submit(nothing)
        started.wait()
    except BaseException:  # threads that wait for ever would keep the process
        started.abort()
        raise
    torch.set_num_threads(before)
    return threads
