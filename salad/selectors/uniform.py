"""Every free text alike: γ = 0 in the paper's terms, and the yardstick for the others."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection, take_within


class Uniform:
    """A uniform draw without replacement until the budget is spent."""

    name = "uniform"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        order = rng.permutation(pool.free)
        chosen = order[take_within(order, pool.est_seconds, budget.seconds)]
        return Selection(chosen, np.full(len(chosen), 1 / max(len(order), 1)), ["uniform draw"] * len(chosen))
