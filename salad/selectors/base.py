"""What a selector sees and what it gives back. A plug-in needs numpy and this page, nothing else of SALAD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from salad import plugins
from salad.errors import SaladError

SELECTORS = {
    "uniform": "salad.selectors.uniform:Uniform",
    "importance": "salad.selectors.importance:Importance",
    "importance-diverse": "salad.selectors.importance_diverse:ImportanceDiverse",
}


@dataclass(frozen=True)
class ClusterTable:
    """One entry a cluster, each (K,)."""

    p_web: np.ndarray  # share of the pool
    p_target: np.ndarray  # P_target ∝ P_web · D^γ: the share of the budget it should get
    divergence: np.ndarray  # estimated mean D of its texts, nats (what P_target follows from)
    divergence_se: np.ndarray  # standard error of that


@dataclass(frozen=True)
class PoolView:
    """The pool as a selector sees it: N texts, row i being the same text everywhere."""

    ids: np.ndarray  # (N,) str
    embeddings: np.ndarray  # (N, d) float16, unit length, memory-mapped: read rows, do not copy it whole
    cluster: np.ndarray  # (N,) int32
    predicted_divergence: np.ndarray  # (N,) nats
    predicted_se: np.ndarray  # (N,)
    content_divergence: np.ndarray  # (N,) nats: the same, were as much of each text heard and read as of the average one
    est_seconds: np.ndarray  # (N,) seconds of speech that a text costs
    taken: np.ndarray  # (N,) bool: probes, held-out texts, natural speech, earlier rounds
    clusters: ClusterTable

    @property
    def free(self) -> np.ndarray:
        """Indices that may be selected."""
        return np.flatnonzero(~self.taken)


@dataclass(frozen=True)
class Budget:
    seconds: float


@dataclass(frozen=True)
class Selection:
    """Chosen rows in rank order, with the probability that each had and a reason a person can read."""

    indices: np.ndarray  # (n,) int64
    probabilities: np.ndarray  # (n,) float64
    reasons: list[str] = field(default_factory=list)


class Selector(Protocol):
    """Chooses free texts whose est_seconds sum to at most the budget. Deterministic given `rng`."""

    name: str

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection: ...


def make_selector(name: str) -> Selector:
    """The strategy by name or `file.py:Class`; SaladError lists the known ones and the nearest."""
    selector: Selector = plugins.find("selector", name, SELECTORS)()
    if not callable(getattr(selector, "select", None)):
        raise SaladError(f"selector '{name}' has no method select(pool, budget, rng)", "see docs/selectors.md")
    return selector


def take_within(order: np.ndarray, est_seconds: np.ndarray, budget: float) -> np.ndarray:
    """Positions of `order` that fit the budget, first come first served.

    What no longer fits is passed over, so the end of the budget is filled with shorter texts.
    """
    costs = est_seconds[order].astype(np.float64)
    whole = np.searchsorted(np.cumsum(costs), budget, side="right")
    taken = list(range(whole))
    left = budget - costs[:whole].sum()
    shortest = costs.min(initial=np.inf)
    for i in range(whole, len(order)):
        if left < shortest:
            break
        if costs[i] <= left:
            taken.append(i)
            left -= costs[i]
    return np.array(taken, dtype=np.int64)


def check_selection(chosen: Selection, pool: PoolView, budget: Budget, name: str) -> None:
    """Stop a selector that breaks the contract: SaladError says which row and how."""
    n = len(pool.ids)
    indices = np.asarray(chosen.indices)

    def refuse(what: str) -> None:
        raise SaladError(f"selector '{name}' {what}", "mend the selector; nothing was spent")

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
        if not np.isfinite(chosen.probabilities[row]):
            refuse(f"returned probability {chosen.probabilities[row]} in row {row}")
    spent = np.cumsum(pool.est_seconds[indices].astype(np.float64))
    if len(spent) and spent[-1] > budget.seconds + 1e-6:
        row = int(np.searchsorted(spent, budget.seconds, side="right"))
        refuse(f"overspends in row {row}: {spent[-1]:.1f} s of {budget.seconds:.1f} s")
