"""Texts that between them stand for the pool, where the student diverges most: facility location under a budget of seconds.

    F(S) = Σ_i w_i · max(0, max over j in S ∪ trained of cos(i, j))

i runs over the free texts: what is held out to measure must not steer the choice, and what is trained on represents itself.
w_i is the predicted divergence of content of text i, so F is in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.neighbours import Graph, neighbour_graph
from salad.selectors.tools import first_within

EDGES = 640_000  # so many a level are kept at no cost: up to 800 texts the graph is complete
END = (0.0, -1)  # no gain: where the greedy stops
FULL = "fills the end of the budget: no text left would represent anything that is not"


class FacilityLocation:
    """Divergence-weighted facility location, budgeted by seconds: lazy greedy on a sparse FAISS neighbour graph.

    Lazy greedy (Minoux 1978) by gain per second; where a single text is worth more than all that gives, that text first.
    Guarantee: 0.4 of the best that the seconds can buy (Tang et al. 2021, after Khuller et al. 1999), on the graph. Up to
    800 free texts the graph is complete and this is the plain greedy on F. Above, the edges are each text's k nearest at
    several scales (`neighbours.py`) and other pairs count as 0: the sum found is at most F, and what is lost has no bound
    but a measure, 1 % of the dense greedy's F on 50,000 texts. Cost O(n · levels · cell · d) for n free texts, levels =
    log64(n / cell); memory 8 bytes an edge, n · levels · k edges.

    k: edges of a text to each level. cell: texts of a level that it is compared with.
    """

    name = "facility-location"

    def __init__(self, k: int = 8, cell: int = 512) -> None:
        self.k, self.cell = k, cell

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        u = pool.uniform(rng)
        texts, trained = (rows[np.argsort(u[rows])] for rows in (pool.free, np.flatnonzero(pool.trained)))
        weight = np.maximum(pool.content_divergence[texts], 0)
        seconds = pool.est_seconds[texts].astype(np.float64)
        with np.errstate(divide="ignore"):  # the upper levels: more likely what is worth much and costs little
            draws = -np.log(u[texts]) * (seconds / weight) ** 2
        k = min(max(self.k, EDGES // len(texts)), len(texts))
        graph = neighbour_graph(pool.embeddings, texts, trained, np.argsort(draws), k, self.cell, int(rng.integers(2**31)))

        first = first_gains(graph, weight)
        best = lazy_greedy(graph, weight, seconds, budget.seconds, first / seconds)
        single = int(np.where(seconds <= budget.seconds, first, 0).argmax())
        if first[single] > best.gain.sum() and seconds[single] <= budget.seconds:
            best = lazy_greedy(graph, weight, seconds, budget.seconds, first / seconds, single)
        rows = texts[best.chosen]
        left = budget.seconds - float(seconds[best.chosen].sum())
        rest = np.delete(texts, best.chosen)
        extra = first_within(u[rest], rest, pool.est_seconds, left)
        reasons = [
            f"represents {m} texts like it that nothing chosen did: gain {g:.3g} nats"
            for m, g in zip(best.texts.tolist(), best.gain.tolist(), strict=True)
        ]
        return Selection(np.concatenate([rows, extra]), np.ones(len(rows) + len(extra)), reasons + [FULL] * len(extra))


@dataclass(frozen=True)
class Run:
    """What a greedy run chose, in order: each (m,)."""

    chosen: np.ndarray  # candidates
    gain: np.ndarray  # nats
    texts: np.ndarray  # how many texts it represents better than what was chosen before


def lazy_greedy(
    graph: Graph, weight: np.ndarray, seconds: np.ndarray, budget: float, bound: np.ndarray, begin_with: int = -1
) -> Run:
    """At each step the candidate of the highest gain per second that the budget still pays for; ties by place.

    A gain can only fall as others are chosen, so one computed earlier is a bound, and a candidate whose gain, computed
    anew, is above all other bounds is the best (Minoux 1978). weight, seconds: (n,). bound: (n,) gains per second where
    nothing is chosen. begin_with: a candidate to choose before all.
    """
    covered = graph.covered.copy()
    begin, end, costs = graph.begin.tolist(), graph.end.tolist(), seconds.tolist()
    order = np.argsort(-bound, kind="stable")
    unseen = iter(zip((-bound[order]).tolist(), order.tolist(), strict=True))
    head = next(unseen, END)  # best of those never looked at; `again` holds those that were, with their new bounds
    again = [END] if begin_with < 0 else [(-np.inf, begin_with), END]
    alive: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of a candidate in `again`, the edges that may still gain
    left, found = budget + 1e-9, []
    while True:
        if head < again[0]:
            (least, j), head = head, next(unseen, END)
        else:
            least, j = heappop(again)
        if least >= 0:
            break
        if costs[j] > left:
            continue
        if j in alive:
            rows, similarity = alive.pop(j)
        else:
            rows, similarity = graph.rows[begin[j] : end[j]], graph.similarity[begin[j] : end[j]]
        more = similarity - covered[rows]
        gains = more > 0
        if not gains.all():
            rows, similarity, more = rows[gains], similarity[gains], more[gains]
        gain = float(more @ weight[rows])
        key = (-gain / costs[j], j)
        if least > -np.inf and (head < key or again[0] < key):
            heappush(again, key)
            alive[j] = rows, similarity
        elif gain > 0:
            found.append((j, gain, len(rows)))
            covered[rows] = similarity
            left -= costs[j]
    chosen, gained, texts = zip(*found, strict=True) if found else ((), (), ())
    return Run(np.array(chosen, np.int64), np.array(gained, np.float64), np.array(texts, np.int64))


def first_gains(graph: Graph, weight: np.ndarray) -> np.ndarray:
    """(n,) gain of each candidate were it the only one chosen."""
    gains = np.zeros(len(weight))
    order = np.argsort(graph.begin, kind="stable")
    order = order[graph.end[order] > graph.begin[order]]
    for some in np.array_split(order, len(order) // 32_768 + 1):
        if len(some):
            a, b = int(graph.begin[some[0]]), int(graph.end[some[-1]])
            rows = graph.rows[a:b]
            more = np.maximum(graph.similarity[a:b] - graph.covered[rows], 0) * weight[rows]
            gains[some] = np.add.reduceat(more, graph.begin[some] - a, dtype=np.float64)
    return gains
