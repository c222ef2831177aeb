"""What strategies share: filling a budget, drawing without replacement, quotas for clusters.

All of it goes by `PoolView.uniform`, never by a row's place: the same seed gives the same set however the pool is ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.threads import one_thread_each

GATHERED = 2**29  # bytes of vectors that clusters are filled from at a time
AT_ONCE = 65_536  # rows of embeddings read at a time
SLACK = 5e-7  # seconds by which rounding may exceed a budget


def take_within(order: np.ndarray, est_seconds: np.ndarray, budget: float) -> np.ndarray:
    """Positions of `order` that fit the budget, first come first served.

    What no longer fits is passed over, so the end of the budget is filled with shorter texts.
    """
    costs = est_seconds[order].astype(np.float64)
    whole = int(np.searchsorted(np.cumsum(costs), budget + SLACK, side="right"))
    left = budget + SLACK - costs[:whole].sum()
    taken, rest = list(range(whole)), np.arange(whole, len(order))
    while len(rest := rest[costs[rest] <= left]):
        taken.append(int(rest[0]))
        left -= costs[rest[0]]
        rest = rest[1:]
    return np.array(taken, dtype=np.int64)


def first_within(keys: np.ndarray, rows: np.ndarray, est_seconds: np.ndarray, budget: float) -> np.ndarray:
    """The `rows` with the lowest `keys` that fit the budget, in order of key; infinite keys are never taken.

    keys, rows: (n,). O(n): only as many are sorted as the budget can pay for.
    """
    finite = np.isfinite(keys)
    if not finite.all():
        keys, rows = keys[finite], rows[finite]
    if len(rows) == 0:
        return np.zeros(0, np.int64)
    enough = int(1.5 * budget / max(float(est_seconds[rows].mean()), SLACK)) + 100
    if enough < len(rows):
        few = np.argpartition(keys, enough)[:enough]
        if float(est_seconds[rows[few]].sum()) > budget:
            keys, rows = keys[few], rows[few]
    order = rows[np.argsort(keys, kind="stable")]
    return np.asarray(order[take_within(order, est_seconds, budget)])


def draw(weight: np.ndarray, pool: PoolView, rng: np.random.Generator) -> np.ndarray:
    """(N,) keys that put texts in the order of draws without replacement, by `weight` (N,); 0 is never drawn.

    Exp(1) / weight, lowest first, is drawing one by one with renormalised weights (Efraimidis and Spirakis 2006).
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(pool.uniform(rng)) / weight)


def quotas(share: np.ndarray, supply: np.ndarray, budget: float) -> np.ndarray:
    """(K,) seconds for each cluster: its share (K,) of the budget, at most its supply (K,), the surplus to the rest.

    The rest get it in proportion to their shares, again at most what they have, until it is spent or all are exhausted.
    """
    given = np.zeros(len(share))
    open_ = (share > 0) & (supply > 0)
    left = float(budget)
    while open_.any():
        wanted = left * share / share[open_].sum()
        full = open_ & (supply <= wanted)
        if not full.any():
            given[open_] = wanted[open_]
            break
        given[full] = supply[full]
        left -= float(supply[full].sum())
        open_ &= ~full
    return given


def members(pool: PoolView, rng: np.random.Generator) -> list[np.ndarray]:
    """For each cluster its free rows, in random order."""
    u, free, k = pool.uniform(rng), pool.free, len(pool.clusters.p_web)
    cluster = pool.cluster[free]
    small = cluster.astype(np.int16) if k < 2**15 else cluster  # numpy sorts 16 bits by radix
    free = free[np.argsort(small, kind="stable")]
    parts = np.split(free, np.cumsum(np.bincount(cluster, minlength=k))[:-1])
    return [rows[np.argsort(u[rows])] for rows in parts]


def first_draw(pool: PoolView, share: np.ndarray) -> np.ndarray:
    """(K,) probability of a free text of each cluster to be the first one when a cluster is drawn by `share`, a text inside."""
    sizes = np.bincount(pool.cluster[~pool.taken], minlength=len(share))
    fed = np.where(sizes > 0, share, 0.0)
    return np.asarray(fed / (fed.sum() or 1.0) / np.maximum(sizes, 1))


def draw_clusters(
    pool: PoolView, share: np.ndarray, budget: Budget, rng: np.random.Generator, why: Callable[[int], str]
) -> Selection:
    """Draw a cluster by `share` (K,), take a free text uniformly inside it, until the budget is spent.

    An exhausted cluster's share goes to the others in proportion to theirs. why: the reason, by cluster.
    """
    chance, free = first_draw(pool, share), pool.free
    keys = draw(chance[pool.cluster], pool, rng)
    rows = first_within(keys[free], free, pool.est_seconds, budget.seconds)
    cluster = pool.cluster[rows]
    return Selection(rows, chance[cluster], [why(c) for c in cluster.tolist()])


# (free rows of a cluster in random order, its seconds, the vectors of these rows) -> rows, best first
Fill = Callable[[np.ndarray, float, np.ndarray], np.ndarray]


def fill_quotas(
    pool: PoolView,
    share: np.ndarray,
    budget: Budget,
    rng: np.random.Generator,
    why: Callable[[int], str],
    how: str,
    fill: Fill | None = None,
) -> Selection:
    """Give each cluster its `share` (K,) of the budget in seconds, and let `fill` order the texts inside (None: they are drawn).

    Exhausted clusters pass their surplus on. What rounding leaves at the end goes to draws by `share`. why, how: the
    reason, of a cluster and of the text in it.
    """
    rows_of = members(pool, rng)
    seconds = quotas(share, np.array([float(pool.est_seconds[rows].sum(dtype=np.float64)) for rows in rows_of]), budget.seconds)

    def filled(c: int, vectors: np.ndarray | None) -> np.ndarray:
        order = rows_of[c] if fill is None or vectors is None else fill(rows_of[c], float(seconds[c]), vectors)
        return np.asarray(order[take_within(order, pool.est_seconds, float(seconds[c]))])

    rows = np.zeros(0, np.int64)
    with one_thread_each() as each:
        for group in _groups(np.flatnonzero(seconds > 0).tolist(), rows_of, pool.embeddings):
            vectors = gather(pool.embeddings, [rows_of[c] for c in group]) if fill else [None] * len(group)
            rows = np.concatenate([rows, *each(filled, group, vectors)])
    rows = rows[np.argsort(pool.uniform(rng)[rows])]  # rank order must not favour low cluster numbers

    rest = ~pool.taken
    rest[rows] = False
    free = np.flatnonzero(rest)
    left = budget.seconds - float(pool.est_seconds[rows].sum(dtype=np.float64))
    extra = first_within(draw(share[pool.cluster], pool, rng)[free], free, pool.est_seconds, left)
    rows = np.concatenate([rows, extra])
    ends = [how] * (len(rows) - len(extra)) + ["fills the end of the budget"] * len(extra)
    reasons = [f"{why(c)}; {end}" for c, end in zip(pool.cluster[rows].tolist(), ends, strict=True)]
    return Selection(rows, first_draw(pool, share)[pool.cluster[rows]], reasons)


def _groups(clusters: list[int], rows_of: list[np.ndarray], embeddings: np.ndarray) -> Iterator[list[int]]:
    """The clusters, as many at a time as have `GATHERED` bytes of vectors, or one."""
    group: list[int] = []
    most, held = GATHERED // max(embeddings[:1].nbytes, 1), 0
    for c in clusters:
        if group and held + len(rows_of[c]) > most:
            yield group
            group, held = [], 0
        group.append(c)
        held += len(rows_of[c])
    if group:
        yield group


def gather(embeddings: np.ndarray, parts: list[np.ndarray]) -> list[np.ndarray]:
    """The vectors of each part's rows. One pass over the file for all, in its order: of a file larger than memory every
    row that is read out of order costs a piece of it, and every cluster by itself costs all of it."""
    rows = np.concatenate(parts)
    order = np.argsort(rows)
    found = np.empty((len(rows), embeddings.shape[1]), embeddings.dtype)
    for i in range(0, len(rows), AT_ONCE):
        at = order[i : i + AT_ONCE]
        found[at] = embeddings[rows[at]]
    return np.split(found, np.cumsum([len(part) for part in parts])[:-1])


def by_target(pool: PoolView) -> Callable[[int], str]:
    """Why a text of a cluster was chosen, where P_target decides."""
    table = pool.clusters

    def why(c: int) -> str:
        share = f"{table.p_target[c]:.1%} of the budget for {table.p_web[c]:.1%} of the pool"
        return f"cluster {c}: D {table.divergence[c]:.3f}, {share}"

    return why
