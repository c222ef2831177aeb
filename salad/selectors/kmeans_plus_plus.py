"""D² sampling: texts far from all chosen that the student finds hard, by draws, so that odd ones do not take it all."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.distances import Nearest
from salad.selectors.tools import SLACK, first_within
from salad.threads import one_blas_thread

BATCH = 512  # texts proposed at once, at least
LEAST = 1e-9  # nats: a lower D of content counts as this


class KMeansPlusPlus:
    """Draw the next text with probability ∝ D of content · squared distance to the nearest chosen or trained text.

    D² sampling (Arthur and Vassilvitskii 2007); weighted, it does with D what BADGE (Ash et al. 2020) does with the size of
    gradients. Guarantee: the draws are exact. A text is proposed by an upper bound of its distance and kept with the
    probability that its exact distance, of which only proposals need one, is of the bound (rejection, as in Cohen-Addad et
    al. 2020). `probabilities` are those of the first draw; where texts are trained on, by bounds of the distances to them.
    Cost: O(N · d) once, then O(k² · d) over the share of proposals kept. Memory: 100 bytes a text, 20 MB of blocks.
    """

    name = "kmeans++"

    @one_blas_thread()  # of thousands of small products, a second thread is mostly waited for
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        near = Nearest(pool, rng)
        free = near.rows
        cost = pool.est_seconds[free].astype(np.float64)
        hard = np.maximum(pool.content_divergence[free].astype(np.float64), LEAST)
        picks: list[int] = []
        distances: list[float] = []
        left, batch = budget.seconds + SLACK, BATCH
        first = np.where(cost <= left, hard * (near.bound if near.centres else 1), 0)
        chance = first / max(float(first.sum()), LEAST)
        if not near.centres and first.any():
            picks.append(int(_draw(first, 1, rng)[0]))
            distances.append(np.inf)
            left -= cost[picks[0]]
            near.add(free[picks].tolist())
            near.tighten(np.arange(len(free)))
        while (weight := np.where(cost <= left, hard * near.bound, 0)).any():
            tries = _draw(weight, batch, rng)
            line = rng.random(batch) * near.bound[tries]
            near.refresh(tries)
            hits = np.flatnonzero(line < near.bound[tries])[:BATCH]
            tries, line = tries[hits], line[hits]
            x, bound, before = near.vectors(tries), near.bound[tries], len(picks)
            for i, text in enumerate(tries.tolist()):
                if line[i] < bound[i] and cost[text] <= left:
                    picks.append(text)
                    distances.append(float(bound[i]) ** 0.5)
                    left -= cost[text]
                    bound = np.minimum(bound, near.squared(x, x[i]).astype(np.float32))
            near.bound[tries] = bound
            near.add(free[picks[before:]].tolist())
            kept = (len(picks) - before) / batch
            batch = min(2 * batch, 16 * BATCH) if kept < 0.1 else max(batch // 2, BATCH) if kept > 0.5 else batch
        turn = rng.exponential(size=len(free)) / hard  # of copies of what is chosen, when seconds are left
        turn[picks] = np.inf
        rest = first_within(turn, np.arange(len(free)), cost, left - SLACK)
        chosen = np.array(picks + rest.tolist(), np.int64)
        distances += [0.0] * len(rest)
        reasons = [_reason(d, h) for d, h in zip(distances, hard[chosen].tolist(), strict=True)]
        return Selection(free[chosen], chance[chosen], reasons)


def _draw(weight: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) places drawn by weight, with replacement."""
    upto = np.cumsum(weight)
    return np.searchsorted(upto, (1 - rng.random(n)) * upto[-1])


def _reason(distance: float, divergence: float) -> str:
    where = f"distance {distance:.2f} from all chosen" if np.isfinite(distance) else "the first text"
    return f"drawn by D of content {divergence:.3f} and distance: {where}"
