"""Tasks on a Dask cluster: the one at `compute.address`, or one of this machine alone, on loopback, for as long as the run."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any
from uuid import uuid4

from salad.config import Config, Needs
from salad.errors import NetworkError, SaladError, told
from salad.pipeline.compute import Runner, Task
from salad.pipeline.compute.task import job_of, perform, unwrapped

ANSWER = 10.0  # seconds for a scheduler to answer
FINISHED = ("finished", "error", "cancelled", "lost")


class OnDask(Runner):
    """One thread a worker is best: tasks compute with one (docs/scaling.md)."""

    def __init__(self, config: Config) -> None:
        try:
            import distributed
        except ImportError as e:
            raise SaladError("compute.runner: dask is not installed", "pip install 'salad-speech[dask]'") from e
        self._config, self._cluster = config, None
        self._where = config.compute.address or "this machine"
        address: Any = config.compute.address
        if address is None:
            n = config.compute.workers or len(os.sched_getaffinity(0))
            with _deaf_to_ctrl_c():
                self._cluster = address = distributed.LocalCluster(
                    n_workers=n, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=None,
                    resources=share_of_machine(n), silence_logs=logging.CRITICAL,
                )  # fmt: skip
        try:
            self._client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError, TypeError) as e:
            raise NetworkError(
                f"the Dask scheduler at {self._where} does not answer within {ANSWER:.0f} s ({told(e)})",
                "start it with `dask scheduler`, or mend compute.address",
            ) from e

    @property
    def slots(self) -> int:  # type: ignore[override]
        return max(1, sum(w["nthreads"] for w in self._workers().values()))

    def start(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> tuple[Any, threading.Event]:
        job, key = job_of(self._config, function, arguments), f"salad-{function.__name__}-{uuid4().hex}"
        future = self._client.submit(perform, job, key=key, pure=False, resources=resources(needs), retries=0)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        return future, done

    def ready(self, handle: tuple[Any, threading.Event], seconds: float) -> bool:
        future, done = handle
        return done.wait(seconds) or future.status in FINISHED

    def take(self, handle: tuple[Any, threading.Event]) -> Any:
        from distributed import KilledWorker

        future, _ = handle
        try:
            return unwrapped(future.result(ANSWER))
        except KilledWorker as e:
            raise SaladError(
                f"{future.key}: workers at {self._where} died at it again and again ({told(e)})",
                "mostly memory ran out: larger workers, or `memory` under `compute`, so that fewer tasks share one",
            ) from e
        except (OSError, TimeoutError) as e:
            raise self._gone(e) from e
        except Exception as e:
            if type(e).__name__ in ("CancelledError", "FutureCancelledError"):
                raise self._gone(e) from e
            raise

    def _gone(self, error: Exception) -> NetworkError:
        return NetworkError(
            f"the Dask scheduler at {self._where} went away ({told(error)})", "see its log; the same command goes on from here"
        )

    def drop(self, handle: tuple[Any, threading.Event]) -> bool:
        """A task that a worker has begun cannot be ended."""
        future, _ = handle
        if future.status in FINISHED:
            return True
        if any(future.key in keys for keys in self._client.processing().values()):
            return False
        future.cancel()
        return True

    def abandon(self, handle: tuple[Any, threading.Event]) -> None:
        handle[0].cancel(force=True)

    def close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def lacks(self, needs: Needs) -> str | None:
        wanted = resources(needs)
        for worker in self._workers().values():
            if all(worker["resources"].get(name, 0) >= n for name, n in wanted.items()):
                return None
        asked = " and ".join(f"{name}={n:g}" for name, n in wanted.items()) or "anything at all"
        return f"no Dask worker at {self._where} offers {asked}"

    def _workers(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info()["workers"]
        return found


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Threads that begin now, and the processes that they ever start, do not see it: it is this process's to handle."""
    resource_tracker.ensure_running()  # which would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def resources(needs: Needs) -> dict[str, float]:
    """As the scheduler's abstract resources: what workers offer by `--resources "GPU=1 memory=8e9"`."""
    asked = {"CPU": needs.cpus if needs.cpus != 1 else 0, "GPU": needs.gpus, "memory": float(needs.memory or 0)}
    return {name: n for name, n in asked.items() if n}


def share_of_machine(n: int) -> dict[str, float]:
    """What each of n workers of this machine offers."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return {"CPU": max(1, cores // n), "GPU": torch.cuda.device_count() // n, "memory": memory / n}
