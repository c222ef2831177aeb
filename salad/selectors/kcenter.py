"""Core-set selection: the next text is the one farthest from all that the student has or will have."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.distances import Nearest
from salad.selectors.tools import SLACK, take_within
from salad.threads import one_blas_thread

BATCH = 4096  # texts with the highest bounds that are looked at together, at least; at most, those picked from in a row


class KCenter:
    """Greedy k-centre (Gonzalez 1985), the core-set of Sener and Savarese (2018); the first centre and ties by seed.

    What the student trains on counts as centres; without any, the first is drawn. Guarantee: exactly the picks of the plain
    algorithm, of the texts that still fit; where texts cost alike, their covering radius is at most twice the least
    possible. It takes what is odd, whatever its D. Cost: at worst about the N · k distances of the plain algorithm, in
    matrix products; a few per cent of them where texts cluster. Memory: 50 bytes a text, 30 MB of blocks.
    """

    name = "kcenter"

    @one_blas_thread()  # of thousands of small products, a second thread is mostly waited for
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        near = Nearest(pool, rng)
        free = near.rows  # of equally far texts, the first here is taken
        cost = pool.est_seconds[free].astype(np.float64)
        picks: list[int] = []
        distances: list[float] = []
        open_, left = np.ones(len(free), bool), budget.seconds + SLACK
        batch = least = max(BATCH, len(free) // 64)
        while (open_ := open_ & (cost <= left)).any():
            if near.bound.max(where=open_, initial=0) == 0:  # copies of what is chosen: nothing is farther than the others
                rest = np.flatnonzero(open_)
                picks += rest[take_within(rest, cost, left - SLACK)].tolist()
                break
            some, others = farthest(near, open_, batch)
            x, bound, before = near.vectors(some), near.bound[some], len(picks)
            rank = _rank(bound, some)
            while len(some) and rank[best := int(rank.argmax())] > others:
                pick = int(some[best])
                picks.append(pick)
                distances.append(float(bound[best]) ** 0.5)
                open_[pick] = False
                left -= cost[pick]
                near.bound[some] = bound = np.minimum(bound, near.squared(x, x[best]).astype(np.float32))
                rank = np.where(open_[some] & (cost[some] <= left), _rank(bound, some), -1)
                if len(picks) % 8 == 0:
                    keep = rank > others
                    x, some, bound, rank = x[keep], some[keep], bound[keep], rank[keep]
            near.add(free[picks[before:]].tolist())
            batch = 2 * batch if len(picks) == before else max(batch // 2, least)
        distances += [0.0] * (len(picks) - len(distances))
        return Selection(free[picks], np.ones(len(picks)), [_reason(d) for d in distances])


def farthest(near: Nearest, open_: np.ndarray, batch: int) -> tuple[np.ndarray, int]:
    """Texts whose exact distances rank above the bounds of all others, and the highest rank among those others.

    None when, of the `batch` texts with the highest bounds, none does. Their bounds are lower then: ask again.
    """
    some, others = _highest(np.where(open_, _rank(near.bound, np.arange(len(open_))), -1), batch)
    for lower in (near.tighten, near.refresh) if near.worth_tightening(some) else (near.refresh,):
        lower(some)
        some = some[_rank(near.bound[some], some) > others]
    top, next_ = _highest(_rank(near.bound[some], some), BATCH)
    return some[top], max(others, next_)


def _highest(rank: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """Places of the n highest ranks, of those from 0, and the next one; -1 when there is none."""
    if len(rank) <= n:
        return np.flatnonzero(rank >= 0), -1
    places = np.argpartition(rank, -n - 1)[-n - 1 :]
    return places[1:][rank[places[1:]] >= 0], int(rank[places[0]])


def _rank(bound: np.ndarray, text: np.ndarray) -> np.ndarray:
    """(n,) whole numbers in the order of `bound` (n,) float32 >= 0, of equal ones the first text highest."""
    return (bound.view(np.int32).astype(np.int64) << 32) | (2**32 - 1 - text)


def _reason(distance: float) -> str:
    return f"farthest from all chosen: distance {distance:.2f}" if np.isfinite(distance) else "the first text, by seed"
