"""Every cluster its share of the pool: uniform sampling with the luck between clusters taken out."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import fill_quotas


class Proportional:
    """Stratified sampling with proportional allocation (Neyman 1934): P_web of the seconds to each cluster, uniform inside.

    Guarantee: the variance of a mean over the choice is at most that of `uniform`; what lies between clusters is gone.
    Cost O(N), memory O(N).
    """

    name = "proportional"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        share = pool.clusters.p_web

        def why(c: int) -> str:
            return f"cluster {c}: {share[c]:.1%} of the budget for as much of the pool"

        return fill_quotas(pool, share, budget, rng, why, "uniform draw in it")
