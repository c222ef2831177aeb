"""The texts of highest predicted divergence: the classic of active learning, and what it lacks is variety."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import first_within


class Uncertainty:
    """Uncertainty sampling (Lewis and Gale 1994): the highest predicted D of content first; ties by seed.

    Of content: at the average share of words heard, or texts with the fewest words to read would win. Guarantee: no
    free text that would still fit has a higher value than a chosen one. Blind to repeats and to the error of the
    prediction. Cost O(N), memory O(N).
    """

    name = "uncertainty"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        free = pool.free
        chosen = first_within(
            -levels(pool.content_divergence[free]) + pool.uniform(rng)[free], free, pool.est_seconds, budget.seconds
        )
        reasons = [f"predicted D of content {d:.3f}, among the highest" for d in pool.content_divergence[chosen].tolist()]
        return Selection(chosen, np.ones(len(chosen)), reasons)


def levels(values: np.ndarray) -> np.ndarray:
    """(n,) whole numbers in the order of `values` (n,) float32, equal where those are: a float's bits, counted from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits).astype(np.float64)
