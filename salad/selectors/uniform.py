"""Every free text alike: γ = 0 in the paper's terms, and the yardstick for the others."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import first_within


class Uniform:
    """A uniform draw without replacement until the budget is spent.

    Guarantee: every free text has the same chance, so means over the choice are unbiased for the pool. Cost and
    memory O(N).
    """

    name = "uniform"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        free = pool.free
        chosen = first_within(pool.uniform(rng)[free], free, pool.est_seconds, budget.seconds)
        return Selection(chosen, np.full(len(chosen), 1 / max(len(free), 1)), ["uniform draw"] * len(chosen))
