"""Tasks on a Ray cluster: the one at `compute.address`, or one of this machine alone, on loopback, for as long as the run."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from salad.config import Config, Needs
from salad.errors import NetworkError, SaladError, told
from salad.pipeline.compute import DEATHS, Runner, Task
from salad.pipeline.compute.task import job_of, perform, unwrapped

ANSWER = 10.0  # seconds for a cluster to answer


class OnRay(Runner):
    """A connection to Ray is the whole process's: one that is there already is used, and left."""

    def __init__(self, config: Config) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as e:
            raise SaladError("compute.runner: ray is not installed", "pip install 'salad-speech[ray]'") from e
        self._config, self._ray = config, ray
        self._where = config.compute.address or "this machine"
        if config.compute.address:
            self._check_answer(config.compute.address)
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(config.compute.address, config.compute.workers)
        self._perform = ray.remote(perform)

    def _connect(self, address: str | None, workers: int | None) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            cores = workers or len(os.sched_getaffinity(0))
            self._ray.init(num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
            return
        try:
            self._ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as e:
            raise self._no_answer(e) from e

    def _check_answer(self, address: str) -> None:
        """Ray itself would wait for minutes."""
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if port.isdigit():
                socket.create_connection((host, int(port)), ANSWER).close()
        except OSError as e:
            raise self._no_answer(e) from e

    def _no_answer(self, error: Exception) -> NetworkError:
        return NetworkError(
            f"the Ray cluster at {self._where} does not answer within {ANSWER:.0f} s ({told(error)})",
            "start it with `ray start --head`, or mend compute.address",
        )

    @property
    def slots(self) -> int:  # type: ignore[override]
        return max(1, int(sum(node.get("CPU", 0) for node in self._nodes())))

    def start(self, function: Task, arguments: tuple[Any, ...], needs: Needs) -> Any:
        wanted = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory}
        options = {**{name: n for name, n in wanted.items() if n}, "max_retries": DEATHS, "name": f"salad-{function.__name__}"}
        return self._perform.options(**options).remote(job_of(self._config, function, arguments))

    def ready(self, handle: Any, seconds: float) -> bool:
        return bool(self._ray.wait([handle], timeout=seconds)[0])

    def take(self, handle: Any) -> Any:
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

        try:
            outcome = self._ray.get(handle)
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as e:
            raise SaladError(
                f"Ray workers at {self._where} died at the same task again and again ({told(e)})",
                "mostly memory ran out: larger nodes, or `memory` under `compute`, so that fewer tasks share one",
            ) from e
        except RayError as e:
            raise NetworkError(f"the Ray cluster at {self._where} failed ({told(e)})", "see its logs") from e
        return unwrapped(outcome)

    def drop(self, handle: Any) -> bool:
        """A task that has begun goes on."""
        self._ray.cancel(handle, force=False)
        return self.ready(handle, 0)

    def abandon(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)

    def close(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()

    def lacks(self, needs: Needs) -> str | None:
        asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": float(needs.memory or 0)}
        if any(all(node.get(name, 0) >= n for name, n in asked.items()) for node in self._nodes()):
            return None
        what = " and ".join(f"{name}={n:g}" for name, n in asked.items() if n)
        return f"no Ray node at {self._where} has {what}"

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
