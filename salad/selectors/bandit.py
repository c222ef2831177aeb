"""Rounds that learn: a cluster that was fed and did not improve is irreducible, and gives its share to the others.

After a round the probes tell by how much log D of each cluster fell. What all clusters gained alike, and what a cluster
gained for the seconds it was fed, are one weighted regression over clusters; how far a cluster's own yield is from that
line is its yield ρ, 1 for the average one:

    fall(c, r) = common(r) + ρ(c) · slope(r) · fed(c, r) + error,   ρ ~ N(1, spread²),   fed = share of seconds / P_web
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salad.errors import SaladError
from salad.selectors.base import Budget, PastRound, PoolView, Selection
from salad.selectors.importance_diverse import COVERED, cover
from salad.selectors.tools import fill_quotas


class Bandit:
    """P_target times each cluster's yield, by Thompson sampling (Thompson 1933) or an upper bound; a cover inside.

    rule: "thompson" draws every yield from its posterior, "ucb" takes its mean plus one standard deviation, "mean" its mean.
    spread: how far yields may be from 1 before anything is measured. Guarantee: without history it is
    `importance-diverse` but for the draw; a cluster without probes keeps the prior. Cost and memory: as `importance-diverse`.
    """

    name = "bandit"

    def __init__(self, rule: str = "thompson", spread: float = 0.5) -> None:
        if rule not in ("thompson", "ucb", "mean"):
            raise SaladError(f"selector 'bandit': unknown rule '{rule}'", "known: thompson, ucb, mean")
        if not spread > 0:
            raise SaladError(f"selector 'bandit': spread is {spread}", "it is a standard deviation, above 0")
        self.rule, self.spread = rule, spread

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        table = pool.clusters
        mean, sd = yields(pool.history, table.p_web, self.spread)
        found = mean + {"thompson": rng.normal(size=len(mean)), "ucb": 1.0, "mean": 0.0}[self.rule] * sd
        share = table.p_target * np.maximum(found, 0.0)
        share = share / share.sum() if share.sum() > 0 else table.p_target

        def why(c: int) -> str:
            return (
                f"cluster {c}: D {table.divergence[c]:.3f}, yield {mean[c]:.2f} ± {sd[c]:.2f}, {share[c]:.1%} of the budget "
                f"where P_target says {table.p_target[c]:.1%}"
            )

        return fill_quotas(pool, share, budget, rng, why, COVERED, cover(pool, rng))


def yields(history: Sequence[PastRound], p_web: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """(K,) posterior mean and standard deviation of each cluster's yield ρ."""
    precision = np.full(len(p_web), spread**-2)
    weighted = precision.copy()  # of the prior mean, 1
    for past in history:
        known = np.isfinite(past.change) & (past.change_se > 0) & (p_web > 0)
        if known.sum() < 3 or past.seconds.sum() <= 0:
            continue
        fed = past.seconds[known] / past.seconds.sum() / p_web[known]
        fall, weight = -past.change[known], past.change_se[known] ** -2
        middle = float(np.average(fed, weights=weight))
        centred = fed - middle
        slope = float((weight * centred) @ fall / max(float((weight * centred) @ centred), 1e-12))
        common = float(np.average(fall, weights=weight)) - slope * middle
        if slope <= 0:  # feeding did not help anywhere: nothing is learnt of single clusters
            continue
        expected = slope * fed
        precision[known] += weight * expected**2
        weighted[known] += weight * expected * (fall - common)
    return weighted / precision, precision**-0.5
