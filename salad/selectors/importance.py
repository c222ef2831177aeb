"""The paper's strategy: draw a cluster from P_target ∝ P_web · D^γ, take a text uniformly inside it."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection, take_within


class Importance:
    """Cluster importance sampling (arXiv 2510.13632, section 4), without replacement.

    A cluster that has no free text left gives its share to the others in proportion to theirs.
    """

    name = "importance"

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        free = pool.free
        clusters = pool.cluster[free]
        sizes = np.bincount(clusters, minlength=len(pool.clusters.p_target))
        weight = pool.clusters.p_target[clusters] / np.maximum(sizes[clusters], 1)
        # Drawing one by one with renormalised weights is the order of Exp(1)/weight (Efraimidis, Spirakis 2006).
        with np.errstate(divide="ignore"):
            keys = rng.exponential(size=len(free)) / weight
        order = np.argsort(keys, kind="stable")
        order = order[np.isfinite(keys[order])]
        chosen = order[take_within(free[order], pool.est_seconds, budget.seconds)]
        reasons = [
            f"cluster {c}: D {pool.clusters.divergence[c]:.3f}, {pool.clusters.p_target[c]:.1%} of the draws "
            f"for {pool.clusters.p_web[c]:.1%} of the pool"
            for c in clusters[chosen].tolist()
        ]
        return Selection(free[chosen], weight[chosen], reasons)
