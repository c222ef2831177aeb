"""What a selector sees and what it gives back. A plug-in needs numpy and this page, nothing else of SALAD."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from salad import plugins
from salad.errors import SaladError, nearest

SELECTORS = {
    "uniform": "salad.selectors.uniform:Uniform",
    "proportional": "salad.selectors.proportional:Proportional",
    "importance": "salad.selectors.importance:Importance",
    "importance-diverse": "salad.selectors.importance_diverse:ImportanceDiverse",
    "uncertainty": "salad.selectors.uncertainty:Uncertainty",
    "kcenter": "salad.selectors.kcenter:KCenter",
    "facility-location": "salad.selectors.facility_location:FacilityLocation",
    "kmeans++": "salad.selectors.kmeans_plus_plus:KMeansPlusPlus",
    "bandit": "salad.selectors.bandit:Bandit",
    "crisp": "salad.selectors.crisp:Crisp",
}


BLOCK = 65_536  # ids in memory at once


class Ids(Protocol):
    """What (N,) ids can do: an array of str, or what looks like one to those who index it and reads them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Any:
        """A str for an integer, an array of str for a slice, a mask (N,) or an array of rows."""

    def tolist(self) -> list[str]: ...


@dataclass(frozen=True)
class ClusterTable:
    """One entry a cluster, each (K,)."""

    p_web: np.ndarray  # share of the pool
    p_target: np.ndarray  # P_target ∝ P_web · D^γ: the share of the budget it should get
    divergence: np.ndarray  # estimated mean D of its texts, nats (what P_target follows from)
    divergence_se: np.ndarray  # standard error of that
    centroids: np.ndarray  # (K, d) float32


@dataclass(frozen=True)
class PastRound:
    """What a finished round fed to each cluster, and what became of D there: each (K,)."""

    seconds: np.ndarray  # of speech
    change: np.ndarray  # of log D, after less before, on the same probes; NaN where a cluster has none
    change_se: np.ndarray


@dataclass(frozen=True)
class PoolView:
    """The pool as a selector sees it: N texts, row i being the same text everywhere."""

    ids: Ids  # (N,) str
    embeddings: np.ndarray  # (N, d) float16, unit length, memory-mapped: read rows, do not copy it whole
    cluster: np.ndarray  # (N,) int32
    predicted_divergence: np.ndarray  # (N,) nats
    predicted_se: np.ndarray  # (N,)
    content_divergence: np.ndarray  # (N,) nats: the same, were as much of each text heard and read as of the average one
    est_seconds: np.ndarray  # (N,) seconds of speech that a text costs
    taken: np.ndarray  # (N,) bool: never to be chosen (spoken before, set aside to measure, or near such a text)
    trained: np.ndarray  # (N,) bool: of those, what the student already learns from: natural speech, earlier rounds
    clusters: ClusterTable
    history: Sequence[PastRound] = ()  # finished rounds, first to last
    target: np.ndarray | None = None  # (m, d) float32, unit length: `select.target`, texts to become good at

    @property
    def free(self) -> np.ndarray:
        """Indices that may be selected."""
        return np.flatnonzero(~self.taken)

    @cached_property
    def keys(self) -> np.ndarray:
        """(N,) uint64, a hash of each id."""
        import xxhash

        n = len(self.ids)
        blocks = (self.ids[i : i + BLOCK] for i in range(0, n, BLOCK))
        return np.fromiter((xxhash.xxh3_64_intdigest(i.encode()) for ids in blocks for i in ids.tolist()), np.uint64, n)

    def uniform(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) numbers in (0, 1), one a text: of its id and one draw of `rng`, so the pool's order does not matter.

        The finaliser of SplitMix64 (Steele, Lea and Flood 2014). Another call gives other numbers.
        """
        z = self.keys + rng.integers(2**64, dtype=np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
        return np.asarray(((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


@dataclass(frozen=True)
class Budget:
    seconds: float


@dataclass(frozen=True)
class Selection:
    """Chosen rows in rank order, with the probability that each had and a reason a person can read."""

    indices: np.ndarray  # (n,) int64
    probabilities: np.ndarray  # (n,) of being the first text drawn; 1 where nothing is drawn
    reasons: list[str] = field(default_factory=list)


class Selector(Protocol):
    """Chooses free texts whose est_seconds sum to at most the budget. Deterministic given `rng`.

    What holds for every strategy is done around it, in `choose.py`: it is asked only when a text is free, its choice is
    checked, near repeats are dropped and it is asked again for the seconds they leave.
    """

    name: str

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection: ...


def make_selector(name: str, options: Mapping[str, Any] | None = None) -> Selector:
    """The strategy by name, `file.py:Class` or `package.module:Class`, made with `options`.

    SaladError for an unknown name (with the known ones and the nearest), an unknown option, or a class that is no selector.
    """
    kind = plugins.find("selector", name, SELECTORS)
    options = options or {}
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as e:
        known = list(inspect.signature(kind).parameters)
        wrong = next((o for o in options if o not in known), None)
        said = f"has no option '{wrong}'{nearest(wrong, known)}" if wrong else f"cannot be made ({e})"
        raise SaladError(f"selector '{name}' {said}", f"select.options: {', '.join(known) or 'it has none'}") from e
    except ValueError:  # no signature: made of C
        pass
    selector: Selector = kind(**options)
    if not callable(getattr(selector, "select", None)) or not isinstance(getattr(selector, "name", None), str):
        raise SaladError(f"selector '{name}' needs a `name` and a method select(pool, budget, rng)", "see docs/selectors.md")
    return selector
