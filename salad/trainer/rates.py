"""The rate of learning over a stage, and when its stable part has given what it can.

Warm-up, stable, decay ("WSD": Hu et al. 2024, "MiniCPM", section 4), the decay linear to zero. Where the decay
begins is a number that may still change: D on the probes can end the stable steps before their time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def rate(step: int, warmup: int, decay_from: int, decay_steps: int) -> float:
    """The share of the full learning rate that optimiser step `step` (from 0) is taken with."""
    if step < warmup:
        return step / warmup
    if step < decay_from:
        return 1.0
    return max(0.0, 1.0 - (step - decay_from) / decay_steps)


@dataclass(frozen=True)
class EarlyStop:
    """Ends the stable steps once a measured D no longer falls."""

    every: int  # steps between two measurements
    patience: int  # measurements in a row without a new best
    least: float  # relative fall that counts as one

    def is_due(self, step: int, warmup: int) -> bool:
        return step > warmup and step % self.every == 0

    def has_stalled(self, values: Sequence[float]) -> bool:
        """Whether the last `patience` values are no new best: none lower by `least` than the best before it."""
        best, since = math.inf, 0
        for value in values:
            better = value < best * (1 - self.least) if math.isfinite(best) else True
            best, since = (value, 0) if better else (best, since + 1)
        return since >= self.patience
