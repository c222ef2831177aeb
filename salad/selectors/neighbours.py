"""Which texts are alike: a sparse graph over a pool, at several scales, from small exact FAISS searches.

The k nearest alone say nothing of how many texts a choice stands for when a text in a hundred is chosen: its neighbours
are hundreds. So the texts are split at random into levels, each `FACTOR` times as large as the one above, as in HNSW
(Malkov and Yashunin 2016), and every text is joined to its k nearest of each level: the few of the top one reach far, the
many of the bottom one are near. A tree of k-means keeps the searches small: the top level is searched whole, each level
below inside cells of about `cell` of its texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from salad.threads import one_thread_each

FACTOR = 64  # texts of a level for one of the level above
CHUNK = 8_192  # rows of embeddings in memory at once
LARGE = 65_536  # texts in a cell that is worth several threads
CROWDED = 4  # a cell with as many times its share is cut at random: it holds what k-means cannot tell apart


@dataclass(frozen=True)
class Graph:
    """Edges by candidate: candidate j is like texts `rows[begin[j]:end[j]]`, each with that `similarity` in (0, 1]."""

    begin: np.ndarray  # (n,) int64
    end: np.ndarray  # (n,) int64
    rows: np.ndarray  # (E,) int32
    similarity: np.ndarray  # (E,) float32, cosine
    covered: np.ndarray  # (n,) float32: cosine to the nearest of `others`; 0 where none is near


def neighbour_graph(
    vectors: np.ndarray, texts: np.ndarray, others: np.ndarray, rank: np.ndarray, k: int, cell: int, seed: int
) -> Graph:
    """The graph of the n `texts`, rows of `vectors` (N, d); what is near the rows `others` is only noted.

    rank: (n,) places in `texts`, those of the top level first. k: edges of a text to each level; from n on, the graph is
    complete. cell: texts of a level that a text is compared with, about. Depends on the order of `texts`, which must be
    random. O(n · levels · cell · d) and O(n · levels · k) memory.
    """
    n = len(texts)
    every = np.concatenate([texts, others])  # places from n on are `others`
    levels = np.split(rank, _ends(n, max(k, cell)))
    level = np.full(len(every), -1, np.int8)
    for i, members in enumerate(levels):
        level[members] = i
    tree = _Tree(vectors, every, n, level, len(levels), cell, seed, np.zeros(n, np.float32))
    begin, end = np.zeros(n, np.int64), np.zeros(n, np.int64)
    sources, similarities, used = [], [], 0
    cells = [np.arange(len(every))]
    with one_thread_each() as each:
        for i, members in enumerate(levels):
            width = min(k, len(members))
            found = _Found(i, np.zeros((n, width), np.int32), np.zeros((n, width), np.float32))
            below = [tree.search(places, found, each) for places in cells if len(places) > LARGE]
            small = [places for places in cells if len(places) <= LARGE]
            below += each(partial(tree.search, found=found, each=map), small)
            cells = [places for some in below for places in some]
            rows, similarity, starts = _by_candidate(found.joined, found.cosine)
            begin[members], end[members] = used + starts[members], used + starts[members + 1]
            sources.append(rows)
            similarities.append(similarity)
            used += len(rows)
    return Graph(begin, end, np.concatenate(sources), np.concatenate(similarities), tree.covered)


@dataclass(frozen=True)
class _Found:
    """The neighbours of one level, filled cell by cell: each (n, k)."""

    level: int
    joined: np.ndarray
    cosine: np.ndarray  # 0 where there is none


@dataclass(frozen=True)
class _Tree:
    """What the search of every cell needs."""

    vectors: np.ndarray
    every: np.ndarray  # rows of `vectors`, by place
    n: int  # places from here on are only noted
    level: np.ndarray
    levels: int
    cell: int
    seed: int
    covered: np.ndarray

    def search(self, places: np.ndarray, found: _Found, each: Callable[..., Iterable[None]]) -> list[np.ndarray]:
        """Join the texts at the `places` of a cell to those of this level in it. The cells below it."""
        i, mine, known = found.level, places[places < self.n], places[places >= self.n]
        final = len(known) <= self.cell or i == self.levels - 1  # few enough to be searched here: they go no deeper
        candidates = mine[self.level[mine] == i]
        among, near = self._at(candidates), self._at(known if final else known[:0])
        down = mine if final else places
        below = int((self.level[mine] == i + 1).sum())
        parts = -(-below // self.cell)
        centres = _centres(self._at(mine[: 128 * parts]), parts, self.seed) if parts > 1 else among[:0]
        child = np.zeros(len(down), np.int32)

        def part(a: int) -> None:
            at = down[a : a + CHUNK]
            x, mine = self._at(at), at < self.n
            if len(centres):
                child[a : a + CHUNK] = _nearest(x, centres, 1)[1][:, 0]
            if not mine.all():
                at, x = at[mine], x[mine]
            if len(candidates) and len(at):
                cosine, which = _nearest(x, among, min(found.joined.shape[1], len(candidates)))
                found.joined[at, : cosine.shape[1]], found.cosine[at, : cosine.shape[1]] = candidates[which], cosine
            if len(near) and len(at):
                self.covered[at] = np.clip(_nearest(x, near, 1)[0][:, 0], 0, 1)

        for _ in each(part, range(0, len(down), CHUNK)):
            pass
        return _split(down, child, self.level == i + 1, CROWDED * self.cell) if below else []

    def _at(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self.vectors[self.every[places]], np.float32)


def _ends(n: int, top: int) -> list[int]:
    """Where the levels of n texts end, but for the last."""
    ends, size = [], top
    while size < n:
        ends.append(size)
        size += size * FACTOR
    return ends


def _nearest(x: np.ndarray, among: np.ndarray, k: int) -> tuple[Any, Any]:
    import faiss

    return faiss.knn(x, among, k, metric=faiss.METRIC_INNER_PRODUCT)


def _centres(x: np.ndarray, parts: int, seed: int) -> np.ndarray:
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1], parts, niter=6, seed=seed, spherical=True, min_points_per_centroid=1, max_points_per_centroid=256
    )
    kmeans.train(x)
    return np.asarray(kmeans.centroids)


def _split(places: np.ndarray, child: np.ndarray, counted: np.ndarray, most: int) -> list[np.ndarray]:
    """The places of each child, in their order; those of a child with more than `most` counted ones cut into several."""
    order = np.argsort(child, kind="stable")
    parts = np.split(places[order], np.flatnonzero(np.diff(child[order])) + 1)
    return [cut for part in parts for cut in np.array_split(part, -(-int(counted[part].sum()) // most) or 1)]


def _by_candidate(joined: np.ndarray, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (n, k) of texts as rows, similarities and (n + 1,) starts by candidate; only where the cosine is positive."""
    from scipy.sparse import csr_array

    n, k = joined.shape
    np.clip(cosine, 0, 1, out=cosine)
    edges = csr_array((cosine.ravel(), joined.ravel(), np.arange(0, n * k + 1, max(k, 1), dtype=np.int64)), shape=(n, n))
    edges.eliminate_zeros()
    turned = edges.tocsc()
    return turned.indices.astype(np.int32, copy=False), turned.data, turned.indptr.astype(np.int64, copy=False)
