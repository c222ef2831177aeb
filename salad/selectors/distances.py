"""How far each text is from the nearest of a growing set of centres, computed only for the texts that somebody asks about.

While centres are added, the distance to the nearest one only falls. So what was found against some of them bounds it from
above against all, and a text whose bound settles a question need not be looked at again: lazy evaluation, as in Minoux
(1978). Of the N · k distances that a plain loop computes a few per cent remain.

Squared distances are exact: a product of two float16 numbers of size 1 at most is a multiple of 2^-48, so float64 adds
hundreds of them without rounding, in whatever order a matrix product does. No choice depends on how texts were batched.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from salad.selectors.base import PoolView

ROWS = 2048  # texts in memory as float64 at once
CENTRES = 256  # centres that they are compared with in one product
WORTH = 3000  # distances that cost as much as one small product more


class Nearest:
    """Squared distances of the n free texts to the nearest centre: `bound` (n,) float32 is never below them.

    The texts trained on are centres from the start; without any centre a bound is infinite. rows: (n,) the free rows of the
    pool in an order by seed and id, the same however the pool is ordered; a text is its place among them. `evaluations`
    counts the distances computed. Memory: 24 bytes a text and 20 MB of blocks.
    """

    def __init__(self, pool: PoolView, rng: np.random.Generator) -> None:
        order = np.argsort(pool.uniform(rng))
        self.embeddings, self.cluster = np.asarray(pool.embeddings), pool.cluster
        self.rows = order[~pool.taken[order]]
        self.bound = np.full(len(self.rows), np.inf, np.float32)
        self.centres: list[int] = []
        self.of_cluster: list[list[int]] = [[] for _ in pool.clusters.p_web]  # the first centre is in all
        self.evaluations = 0
        self._seen = np.zeros(len(self.rows), np.int32)  # of `centres`, how many each text was compared with
        self._seen_own = np.zeros(len(self.rows), np.int32)  # of its cluster's
        self.add(order[pool.trained[order]].tolist())
        self.tighten(np.arange(len(self.rows)))

    def add(self, centres: Iterable[int]) -> None:
        """More centres. Bounds stay as they are, which is true still."""
        for row in centres:
            for cluster in [self.cluster[row]] if self.centres else range(len(self.of_cluster)):
                self.of_cluster[cluster].append(row)
            self.centres.append(row)

    def refresh(self, some: np.ndarray) -> None:
        """Make the bounds of these texts exact."""
        self._compare(some, self.centres, self._seen)

    def tighten(self, some: np.ndarray) -> None:
        """Lower the bounds of these texts by the centres of their own clusters: few, and the nearest often among them."""
        cluster = self.cluster[self.rows[some]]
        order = np.argsort(cluster, kind="stable")
        for part in np.split(some[order], np.flatnonzero(np.diff(cluster[order])) + 1):
            if len(part):
                self._compare(part, self.of_cluster[self.cluster[self.rows[part[0]]]], self._seen_own)

    def worth_tightening(self, some: np.ndarray) -> bool:
        """Whether to refresh these texts takes more than a product a cluster."""
        return len(self.centres) * len(some) - int(self._seen[some].sum()) > WORTH * len(self.of_cluster)

    def vectors(self, some: np.ndarray) -> np.ndarray:
        """(m, d + 2) float64, these texts as `squared` takes them."""
        return self._read(self.rows[some])

    def squared(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """(n, m), or (n,) for one c, float64: |x - c|² in one product, (x, 1, |x|²) · (-2c, |c|², 1)."""
        turned = np.concatenate([-2 * c[..., :-2], c[..., -1:], c[..., -2:-1]], axis=-1)
        d = np.maximum(x @ turned.T, 0.0)
        self.evaluations += d.size
        return d

    def _compare(self, some: np.ndarray, centres: list[int], seen: np.ndarray) -> None:
        """Lower bounds by what comes in `centres` after the `seen` (n,) first; at distance 0 nothing is left to lower."""
        some = some[(seen[some] < len(centres)) & (self.bound[some] > 0)]
        some = some[np.argsort(seen[some], kind="stable")]
        known = seen[some]  # ascending
        for at in range(0, len(some), ROWS):
            part, start = some[at : at + ROWS], known[at : at + ROWS]
            x, nearest = self.vectors(part), np.full(len(part), np.inf)
            for first in range(int(start[0]), len(centres), CENTRES):
                new = centres[first : first + CENTRES]
                m = int(np.searchsorted(start, first + len(new)))  # the rest has seen all of these
                d = self.squared(x[:m], self._read(np.array(new)))
                np.minimum(nearest[:m], d.min(axis=1), out=nearest[:m])
            self.bound[part] = np.minimum(self.bound[part], nearest.astype(np.float32))
        seen[some] = len(centres)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        x = np.empty((len(rows), self.embeddings.shape[1] + 2))
        x[:, :-2], x[:, -2] = self.embeddings[rows], 1
        x[:, -1] = np.einsum("nd,nd->n", x[:, :-2], x[:, :-2])
        return x
