"""Tasks for the runners: module-level functions, as theirs must be; workers of a cluster import them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from salad.errors import NetworkError, SaladError


def squared(models: Any, x: int) -> dict[str, Any]:
    """And who did it, with how many threads, for which run."""
    import torch

    time.sleep(0.02 * (x % 3))  # so that they do not end in order by chance
    return {"square": x * x, "pid": os.getpid(), "threads": torch.get_num_threads(), "run": models.config.name}


def refused(models: Any, kind: str) -> None:
    raise (NetworkError if kind == "network" else SaladError)("the spoon is bent", "take another spoon")


def wrong(models: Any) -> None:
    raise ZeroDivisionError("a mistake of the task")


def dying(models: Any, mark: str, always: bool) -> str:
    """Ends its process, the first time or always."""
    if always or not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), 9)
    return "alive"


def slow(models: Any, mark: str, seconds: float) -> None:
    Path(mark).touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        models.go_on()
        time.sleep(0.05)


def here(models: Any) -> str:
    return os.getcwd()


def loaded(models: Any) -> tuple[int, int]:
    """The process, and which `Models` it has: one, however many tasks."""
    return os.getpid(), id(models)


def counted(models: Any, n: int, log: str) -> np.ndarray:
    with open(log, "a") as f:
        f.write(f"{n}\n")
    return np.arange(n, dtype=np.float64)
