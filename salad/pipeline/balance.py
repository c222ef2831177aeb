"""Balanced k-means for pools of millions: centroids and prices from a sample, one pass over all points, a small repair.

A capacity makes the assignment step of k-means a semi-discrete optimal transport: every cluster asks a price and a
point goes to argmin_c |x - c|² + price_c; at the right prices no cluster is overfull, and no other assignment within
the capacity is nearer (Aurenhammer, Hoffmann and Aronov 1998). The prices come from Newton steps on the entropic
dual, from hot to cold (Cuturi and Peyré 2016; Mérigot 2011). A sample's prices miss the loads of all points by its
sampling error, so they are corrected on each point's two best clusters, and what is still over is moved one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy import sparse

from salad.threads import Each, one_thread_each

SAMPLE = 256  # points a cluster that centroids are made from; FAISS takes as many
PRICED = 32  # points a cluster that prices of a passing iteration are made from: other ones each time
SEEDED = 4_096  # points that seeds are drawn from, at least
STARTS = 2  # of which the better one is gone on with …
TRIED = 0.6  # … after this share of the iterations
PLAIN = 0.4  # share of the iterations before capacities count
HEAT = np.geomspace(0.3, 0.003, 12)  # of the data's variance: a price step reaches so far
SWEEPS = 8  # of price corrections on all points
BLOCK = 4_096  # rows turned into float32 at a time
BATCH = 32_768  # rows moved at a time

Nearest = tuple[np.ndarray, np.ndarray, np.ndarray]  # best cluster, second best, how much better; (N,) each


def balanced_kmeans(
    x: np.ndarray, k: int, max_over_mean: float, iterations: int, seed: int, progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of at most `max(floor(max_over_mean · N / k), ceil(N / k))` points each, none empty when N ≥ k.

    x: (N, d) of any float type, memory-mapped or not. Returns assignment (N,) int32 and centroids (k, d) float32, the
    means of that assignment. The same seed, data and machine give the same bytes. Memory besides x: about 60 bytes a
    point, 256 · k · d floats and some 100 MB. `progress` is told how many points the pass over all of them has seen.
    """
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(x), min(len(x), SAMPLE * k), replace=False))
    sample = np.asarray(x[drawn], np.float32)[rng.permutation(len(drawn))]
    with one_thread_each() as each:
        centroids, prices = _fit(sample, k, max_over_mean, iterations, rng, each)
        sums = np.zeros(centroids.shape)
        nearest = _nearest(x, centroids, prices, sums, each, progress)
    capacity = max(math.floor(max_over_mean * len(x) / k), math.ceil(len(x) / k))
    assignment, regret, prices = _settle(nearest, prices, capacity)
    _repair(x, assignment, regret, centroids, prices, capacity)
    moved = np.flatnonzero(assignment != nearest[0])
    for i in range(0, len(moved), BATCH):
        rows = moved[i : i + BATCH]
        y = np.asarray(x[rows], np.float32)
        sums += _members(assignment[rows], k) @ y - _members(nearest[0][rows], k) @ y
    return assignment, _means(sums, assignment, centroids)


def _fit(
    sample: np.ndarray, k: int, ratio: float, iterations: int, rng: np.random.Generator, each: Each
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's iterations on the sample, the later ones at prices, from the best of some starts. Centroids (k, d), prices (k,)."""
    few, many = PRICED * k, max(PRICED * k, 2**22 // k)

    def iterate(centroids: np.ndarray, steps: range) -> tuple[np.ndarray, float]:
        prices, found = np.zeros(k, np.float32), 0.0
        for i in steps:
            if i >= PLAIN * iterations:
                start = i * few % max(len(sample) - few + 1, 1)
                prices = _prices(sample[start : start + few], centroids, ratio)
            assigned = partial(_assigned, centroids=centroids, prices=prices)
            best = list(each(assigned, _blocks(sample)))
            assignment = np.concatenate([at for at, _ in best])
            found = sum(float(score.sum()) for _, score in best) + float(prices.sum()) * len(sample) / k
            centroids = _means(_members(assignment, k) @ sample, assignment, centroids)
        return centroids, found

    tried = math.ceil(TRIED * iterations)
    starts = (_seeds(sample[: max(SEEDED, 4 * k)], k, rng) for _ in range(STARTS))
    centroids, _ = max((iterate(start, range(tried)) for start in starts), key=lambda found: found[1])
    centroids, _ = iterate(centroids, range(tried, iterations))
    return centroids, _prices(sample[:many], centroids, ratio)


def _assigned(x: np.ndarray, centroids: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _best(_scores(x, centroids, prices))


def _best(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the column of the highest score of each row, and that score."""
    at = scores.argmax(axis=1)
    return at, scores[np.arange(len(at)), at]


def _seeds(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007)."""
    norms = np.einsum("nd,nd->n", x, x)
    chosen = [int(rng.integers(len(x)))]
    apart = np.full(len(x), np.inf, np.float32)
    while len(chosen) < k:
        last = chosen[-1]
        apart = np.minimum(apart, np.maximum(norms + norms[last] - 2 * (x @ x[last]), 0))
        apart[last] = 0
        reached = np.cumsum(apart, dtype=np.float64)
        at = np.searchsorted(reached, rng.random() * reached[-1], side="right")
        chosen.append(int(at) if at < len(x) else int(rng.integers(len(x))))  # all points are seeds already
    return x[chosen].copy()


def _prices(x: np.ndarray, centroids: np.ndarray, ratio: float) -> np.ndarray:
    """(k,) ≥ 0: the prices at which no cluster's expected load is above `ratio` x the mean.

    At temperature t a point is shared as softmax((-|x - c|² - price_c) / t), so loads are smooth in the prices and
    Newton's method applies. Cold from the start it stalls: a far cluster feels no price. Clusters below capacity
    that ask nothing stay as they are.
    """
    k, capacity = len(centroids), ratio * len(x) / len(centroids)
    scores = _scores(x, centroids)
    prices, share = np.zeros(k), np.empty_like(scores)
    variance = float(x.var(axis=0).sum())
    for heat in HEAT * variance if variance > 0 else ():
        np.subtract(scores, prices.astype(np.float32), out=share)
        share -= share.max(axis=1, keepdims=True)
        share *= np.float32(1 / heat)
        np.exp(share, out=share)
        share /= share.sum(axis=1, keepdims=True)
        load = share.sum(axis=0, dtype=np.float64)
        asking = np.flatnonzero((prices > 0) | (load > capacity))
        slope = np.diag(load + 0.01 * np.maximum(load, capacity)) - share.T @ share
        step = heat * np.linalg.solve(slope[np.ix_(asking, asking)], load[asking] - capacity)
        prices[asking] = np.maximum(prices[asking] + np.clip(step, -3 * heat, 3 * heat), 0)
    return prices.astype(np.float32)


def _nearest(
    x: np.ndarray, centroids: np.ndarray, prices: np.ndarray, sums: np.ndarray, each: Each, progress: Callable[[int], None] | None
) -> Nearest:
    """Each point's two best clusters at these prices. Adds the points of each best cluster to `sums` (k, d)."""
    n, k = len(x), len(centroids)
    first, second, margin = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)

    def of_block(block: np.ndarray) -> tuple[np.ndarray, ...]:
        y = np.asarray(block, np.float32)
        scores = _scores(y, centroids, prices)
        best, top = _best(scores)
        scores[np.arange(len(y)), best] = -np.inf
        other, next_ = _best(scores)
        return best, other, top - next_, _members(best, k) @ y

    done = 0
    for best, other, more, sum_ in each(of_block, _blocks(x)):
        part = slice(done, done := done + len(best))
        first[part], second[part], margin[part] = best, other, more
        sums += sum_
        if progress:
            progress(done)
    return first, second, margin


def _settle(nearest: Nearest, prices: np.ndarray, capacity: int) -> Nearest:
    """Prices corrected by the loads of all points: assignment, how little a point loses elsewhere, prices.

    Cluster after cluster takes the price at which it is just full, the others' prices and every point's two
    candidates given: one order statistic of what its points would pay (coordinate ascent on the dual).
    """
    first, second, margin = nearest
    k = len(prices)
    best = first.copy(), margin, prices
    least = _surplus(first, k, capacity)
    if least == 0:
        return best
    narrow = np.int16 if k < 2**15 else np.int32  # numpy sorts 16-bit integers by radix
    either = np.concatenate([first, second]).astype(narrow)
    order = np.argsort(either, kind="stable")
    rival = np.concatenate([second, first])[order]
    ahead = np.concatenate([margin, -margin])[order]
    ends = np.cumsum(np.bincount(either, minlength=k))
    change = np.zeros(k, np.float32)
    for _ in range(SWEEPS):
        for c, (start, end) in enumerate(zip(ends - np.diff(ends, prepend=0), ends, strict=True)):
            change[c] = -prices[c]
            if end - start > capacity:
                pays = ahead[start:end] + change[rival[start:end]]
                change[c] = max(change[c], np.partition(pays, end - start - capacity - 1)[end - start - capacity - 1])
        gap = margin + change[second] - change[first]
        assignment = np.where(gap < 0, second, first)
        surplus = _surplus(assignment, k, capacity)
        if surplus < least:
            least, best = surplus, (assignment, np.abs(gap), prices + change)
        if surplus == 0:
            break
    return best


def _repair(
    x: np.ndarray, assignment: np.ndarray, regret: np.ndarray, centroids: np.ndarray, prices: np.ndarray, capacity: int
) -> None:
    """Keeps the capacity exactly and fills empty clusters, in place: who loses least leaves an overfull cluster."""
    k = len(centroids)
    sizes = np.bincount(assignment, minlength=k)
    leaving = [
        members[np.argsort(regret[members], kind="stable")[: len(members) - capacity]]
        for members in (np.flatnonzero(assignment == c) for c in np.flatnonzero(sizes > capacity))
    ]
    homeless = np.concatenate([*leaving, np.empty(0, np.int64)]).astype(np.int64)
    room = np.maximum(capacity - sizes, 0)
    for i in range(0, len(homeless), BATCH):
        rows = homeless[i : i + BATCH]
        scores = _scores(np.asarray(x[rows], np.float32), centroids, prices)
        while len(rows):  # each time all find a place, or one cluster more is full
            scores[:, room == 0] = -np.inf
            wish = scores.argmax(axis=1)
            order = np.lexsort((-scores.max(axis=1), wish))
            rank = np.arange(len(order)) - np.searchsorted(wish[order], wish[order])
            placed = order[rank < room[wish[order]]]
            assignment[rows[placed]] = wish[placed]
            room -= np.bincount(wish[placed], minlength=k)
            rows, scores = np.delete(rows, placed), np.delete(scores, placed, axis=0)
    sizes = np.bincount(assignment, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if len(empty) and len(x) >= k:
        givers = iter(np.argsort(regret, kind="stable"))
        for c in empty:
            point = next(i for i in givers if sizes[assignment[i]] > 1)
            sizes[assignment[point]] -= 1
            assignment[point] = c
            sizes[c] = 1


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))


def _scores(x: np.ndarray, centroids: np.ndarray, prices: np.ndarray | float = 0.0) -> np.ndarray:
    """(n, k) float32: |x|² - |x - c|² - price; higher is better."""
    scores = x @ (2 * centroids).T
    scores -= (np.einsum("kd,kd->k", centroids, centroids) + prices).astype(np.float32)
    return scores


def _members(assignment: np.ndarray, k: int) -> sparse.csc_matrix:
    """(k, n): the matrix that adds up the rows of each cluster."""
    n = len(assignment)
    return sparse.csc_matrix((np.ones(n, np.float32), assignment, np.arange(n + 1)), shape=(k, n))


def _means(sums: np.ndarray, assignment: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """(k, d) from the clusters' sums; an empty cluster keeps its centroid."""
    sizes = np.bincount(assignment, minlength=len(previous))[:, None]
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), previous).astype(np.float32)


def _surplus(assignment: np.ndarray, k: int, capacity: int) -> int:
    return int(np.maximum(np.bincount(assignment, minlength=k) - capacity, 0).sum())
