"""What holds for every strategy, written once: a pool that makes sense, a choice that is checked, near repeats capped."""

from __future__ import annotations

import traceback
from dataclasses import replace

import numpy as np

from salad.errors import SaladError
from salad.selectors.base import Budget, PoolView, Selection, Selector

CHUNK = 65_536  # rows of embeddings in memory at once
ROUNDING = 1e-3  # how far a product of two float16 rows may be from their cosine: equal texts must count as equal


def choose(
    selector: Selector, pool: PoolView, budget: Budget, rng: np.random.Generator, near: float | None = None, repeats: int = 1
) -> Selection:
    """The strategy's choice within the budget, checked.

    near: cosine from which two texts count as one (None: no two do). Of such texts at most `repeats` are chosen, what the
    student already trains on counted; the strategy is asked again for the seconds that the others leave.
    SaladError when the pool or the choice breaks the contract.
    """
    check_pool(pool)
    cap = None if near is None else RepeatCap(pool, near, repeats)
    asked = replace(pool, taken=pool.taken.copy(), trained=pool.trained.copy())  # grow as texts are kept and dropped
    left = budget.seconds
    chosen = Selection(np.zeros(0, np.int64), np.zeros(0), [])
    while not asked.taken.all():
        found = _ask(selector, asked, Budget(left), rng)
        check_selection(found, asked, Budget(left), selector.name)
        rows = np.asarray(found.indices).astype(np.int64)
        kept = np.ones(len(rows), bool) if cap is None else cap.keep(rows)
        chosen = Selection(
            np.concatenate([chosen.indices, rows[kept]]),
            np.concatenate([chosen.probabilities, np.asarray(found.probabilities, np.float64)[kept]]),
            chosen.reasons + [found.reasons[i] for i in np.flatnonzero(kept).tolist()],
        )
        if kept.all():
            break
        left -= float(pool.est_seconds[rows[kept]].sum(dtype=np.float64))
        asked.taken[rows] = True
        asked.trained[rows[kept]] = True
    return chosen


def _ask(selector: Selector, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
    """What the strategy says; its own mistakes are told with the line that made them."""
    try:
        return selector.select(pool, budget, rng)
    except SaladError:
        raise
    except Exception as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        raise SaladError(
            f"selector '{selector.name}' failed at {at.filename}, line {at.lineno} ({type(e).__name__}: {e})",
            "mend it; nothing was spent (salad --debug shows the traceback)",
        ) from e


def near_any(vectors: np.ndarray, others: np.ndarray, cosine: float) -> np.ndarray:
    """(N,) bool: whether each unit vector (N, d) has a cosine of at least `cosine` with any of `others` (m, d)."""
    found = np.zeros(len(vectors), bool)
    if len(others) == 0:
        return found
    columns = np.ascontiguousarray(np.asarray(others, np.float32).T)
    for i in range(0, len(vectors), CHUNK):
        x = np.asarray(vectors[i : i + CHUNK], np.float32)
        for j in range(0, columns.shape[1], 1024):
            found[i : i + CHUNK] |= (x @ columns[:, j : j + 1024]).max(1) >= cosine - ROUNDING
    return found


class RepeatCap:
    """Counts, for each text that comes, those near it that were kept before or are trained on."""

    def __init__(self, pool: PoolView, near: float, repeats: int) -> None:
        import faiss

        self.pool, self.near, self.repeats = pool, near - ROUNDING, repeats
        self.index = faiss.IndexFlatIP(pool.embeddings.shape[1])
        self.add(np.flatnonzero(pool.trained))

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the rows, in this order, may stay."""
        import faiss

        kept = np.ones(len(rows), bool)
        if len(rows) == 0:
            return kept
        x = self._vectors(rows)
        before, _, _ = self.index.range_search(x, self.near)
        own = faiss.IndexFlatIP(x.shape[1])
        own.add(x)
        limits, _, others = own.range_search(x, self.near)
        for i in np.flatnonzero((np.diff(before) > 0) | (np.diff(limits) > 1)).tolist():
            earlier = others[limits[i] : limits[i + 1]]
            near = int(before[i + 1] - before[i]) + int(kept[earlier[earlier < i]].sum())
            kept[i] = near < self.repeats
        self.add(rows[kept])
        return kept

    def add(self, rows: np.ndarray) -> None:
        if len(rows):
            self.index.add(self._vectors(rows))

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.pool.embeddings[rows], np.float32)


def check_pool(pool: PoolView) -> None:
    """SaladError when a pool cannot be chosen from: it says which column, and which text."""

    def refuse(what: str) -> None:
        raise SaladError(f"the pool cannot be chosen from: {what}", "see the scores and clusters of this round")

    n, k = len(pool.ids), len(pool.clusters.p_web)
    for name in ("predicted_divergence", "predicted_se", "content_divergence", "est_seconds"):
        values = getattr(pool, name)
        if values.shape != (n,):
            refuse(f"{name} has shape {values.shape}, not ({n},)")
        bad = ~np.isfinite(values)
        if name == "est_seconds":
            bad |= values <= 0
        if bad.any():
            i = int(bad.argmax())
            refuse(f"{name} of text {pool.ids[i]} is {values[i]}")
    for name in ("cluster", "taken", "trained"):
        if getattr(pool, name).shape != (n,):
            refuse(f"{name} has shape {getattr(pool, name).shape}, not ({n},)")
    if n and not 0 <= int(pool.cluster.min()) <= int(pool.cluster.max()) < k:
        refuse(f"a cluster number is outside 0..{k - 1}")
    for name in ("p_web", "p_target"):
        p = getattr(pool.clusters, name)
        if p.shape != (k,) or not np.isfinite(p).all() or (p < 0).any():
            refuse(f"clusters.{name} is not {k} probabilities")


def check_selection(chosen: Selection, pool: PoolView, budget: Budget, name: str) -> None:
    """Stop a selector that breaks the contract: SaladError says which row and how."""

    def refuse(what: str) -> None:
        raise SaladError(f"selector '{name}' {what}", "mend the selector; nothing was spent")

    if not all(hasattr(chosen, part) for part in ("indices", "probabilities", "reasons")):
        refuse(f"returned {type(chosen).__name__}, not a Selection")
    n = len(pool.ids)
    indices = np.asarray(chosen.indices)
    if indices.ndim != 1 or (len(indices) and not np.issubdtype(indices.dtype, np.integer)):
        refuse("did not return a 1-d array of integer indices")
    if len(chosen.probabilities) != len(indices) or len(chosen.reasons) != len(indices):
        refuse(f"returned {len(indices)} indices, {len(chosen.probabilities)} probabilities, {len(chosen.reasons)} reasons")
    seen: set[int] = set()
    for row, i in enumerate(indices.tolist()):
        if not 0 <= i < n:
            refuse(f"returned index {i} in row {row}; the pool has {n} texts")
        if pool.taken[i]:
            refuse(f"returned text {pool.ids[i]} in row {row}, which is already taken")
        if i in seen:
            refuse(f"returned text {pool.ids[i]} twice, again in row {row}")
        seen.add(i)
        if not 0 <= chosen.probabilities[row] <= 1 + 1e-9:
            refuse(f"returned probability {chosen.probabilities[row]} in row {row}")
        if not isinstance(chosen.reasons[row], str) or not chosen.reasons[row]:
            refuse(f"gave no reason in row {row}")
    spent = np.cumsum(pool.est_seconds[indices].astype(np.float64)) if len(indices) else np.zeros(0)
    if len(spent) and spent[-1] > budget.seconds + 1e-6:
        row = int(np.searchsorted(spent, budget.seconds, side="right"))
        refuse(f"overspends in row {row}: {spent[-1]:.1f} s of {budget.seconds:.1f} s")
