"""How often, and after how long, a stage is tried again when the network failed it: on the command line and in Prefect alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from salad.errors import NetworkError
from salad.pipeline.stages import Stage

Result = TypeVar("Result")
DELAYS = (5.0, 15.0, 45.0)  # seconds before the second, third and fourth try; clients of the hub try several times in each


def patiently(work: Callable[[], Result], stage: Stage, wait: Callable[[NetworkError, float], None]) -> Result:
    """`work()`; where the stage may touch the network and that is what failed, again after `wait(error, seconds)`."""
    for delay in DELAYS if stage.network else ():
        try:
            return work()
        except NetworkError as e:
            wait(e, delay)
    return work()
