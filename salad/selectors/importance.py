"""The paper's strategy: draw a cluster from P_target ∝ P_web · D^γ, take a text uniformly inside it."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import by_target, draw_clusters


class Importance:
    """Cluster importance sampling (arXiv 2510.13632, section 4), without replacement.

    Guarantee: draws follow P_target; reweighted by 1 / probability they are unbiased for the pool. A cluster that has no
    free text left gives its share to the others in proportion to theirs. Cost O(N), memory O(N).
    """

    name = "importance"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return draw_clusters(pool, pool.clusters.p_target, budget, rng, by_target(pool))
