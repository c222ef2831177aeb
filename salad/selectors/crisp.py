"""Towards texts that the user names: the pool resampled to look like `select.target`, cluster by cluster."""

from __future__ import annotations

import numpy as np

from salad.errors import SaladError
from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import draw_clusters


class Crisp:
    """Clustered importance sampling (CRISP: Grangier et al. 2024, arXiv 2410.03735).

    Each target text counts for the cluster of the nearest centroid; clusters are drawn by those counts, texts uniformly
    inside. generic: the share of the budget that goes by P_web instead, so that the rest is not forgotten. Guarantee: for
    a loss that is constant in each cluster, the mean over the draws is unbiased for the target's (generic = 0). Cost
    O(N + m · K · d), memory O(N).
    """

    name = "crisp"

    def __init__(self, generic: float = 0.0) -> None:
        if not 0 <= generic <= 1:
            raise SaladError(f"selector 'crisp': generic is {generic}", "it is a share of the budget, from 0 to 1")
        self.generic = generic

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        if pool.target is None or len(pool.target) == 0:
            raise SaladError("selector 'crisp' has no target", "name texts to become good at under select.target")
        centroids, p_web = pool.clusters.centroids, pool.clusters.p_web
        distance = (centroids**2).sum(1) - 2 * np.asarray(pool.target, np.float32) @ centroids.T
        p_crisp = np.bincount(distance.argmin(1), minlength=len(p_web)) / len(pool.target)
        share = (1 - self.generic) * p_crisp + self.generic * p_web

        def why(c: int) -> str:
            return f"cluster {c}: {p_crisp[c]:.1%} of the target's texts, {p_web[c]:.1%} of the pool's"

        return draw_clusters(pool, share, budget, rng, why)
