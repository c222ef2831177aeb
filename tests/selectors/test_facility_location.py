"""Facility location: the plain greedy on a small pool, nearly that on a larger one, and what its choice is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.selectors import facility_location
from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.choose import choose
from salad.selectors.facility_location import FULL, FacilityLocation, first_gains, lazy_greedy
from salad.selectors.neighbours import Graph, neighbour_graph
from salad.selectors.testing import CHECKS, example_pool


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_contract(check: Callable[[Any], None]) -> None:
    check(FacilityLocation)


def chosen(pool: PoolView, seconds: float, seed: int = 0, **options: int) -> Selection:
    return choose(FacilityLocation(**options), pool, Budget(seconds), np.random.default_rng(seed))


def similarities(pool: PoolView, rows: np.ndarray) -> np.ndarray:
    x = pool.embeddings.astype(np.float64)
    return np.asarray(np.clip(x[pool.free] @ x[rows].T, 0, 1))


def objective(pool: PoolView, rows: np.ndarray) -> float:
    """F by its definition, over all pairs."""
    s = similarities(pool, np.concatenate([rows, np.flatnonzero(pool.trained)]))
    return float(pool.content_divergence[pool.free] @ s.max(1, initial=0))


def dense_greedy(pool: PoolView, seconds: float) -> list[int]:
    """The plain greedy by gain per second: every gain computed at every step."""
    free, cost = pool.free, pool.est_seconds[pool.free].astype(np.float64)
    s, w = similarities(pool, pool.free), pool.content_divergence[pool.free].astype(np.float64)
    covered = similarities(pool, np.flatnonzero(pool.trained)).max(1, initial=0)
    rows: list[int] = []
    while True:
        gain = w @ np.maximum(s - covered[:, None], 0)
        value = np.where(cost <= seconds, gain / cost, -1)
        value[np.searchsorted(free, rows)] = -1
        j = int(value.argmax())
        if value[j] <= 0:
            return rows
        rows.append(int(free[j]))
        covered = np.maximum(covered, s[:, j])
        seconds -= cost[j]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_dense_greedy_on_a_small_pool(trained: bool, seed: int) -> None:
    pool = example_pool(n=700, seed=seed)
    pool = pool if trained else replace(pool, trained=np.zeros(700, bool))
    assert pool.trained.any() == trained
    assert chosen(pool, 300.0).indices.tolist() == dense_greedy(pool, 300.0)


@pytest.mark.parametrize("texts", [20, 100])
def test_the_sparse_graph_loses_little(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility_location, "EDGES", 0)
    pool = example_pool(n=1_500, k=20, d=32, taken=0.02)
    exact = objective(pool, np.array(dense_greedy(pool, 5.0 * texts)))
    sparse = objective(pool, chosen(pool, 5.0 * texts, k=8, cell=32).indices)
    drawn = pool.free[np.random.default_rng(0).permutation(len(pool.free))]
    at_random = objective(pool, drawn[np.cumsum(pool.est_seconds[drawn]) <= 5.0 * texts])
    assert at_random < 0.93 * exact, "the test could not tell a choice from a draw"
    assert sparse >= 0.96 * exact


def clumps(sizes: list[int], d: int = 32, width: float = 0.1) -> PoolView:
    """Tight clusters of these sizes, all texts of 4 s and D 1."""
    rng, n = np.random.default_rng(0), sum(sizes)
    pool = example_pool(n=n, k=len(sizes), d=d, taken=0.0)
    cluster = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    x = rng.normal(size=(len(sizes), d))[cluster] + width * rng.normal(size=(n, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    even = np.ones(n, np.float32)
    return replace(pool, embeddings=x.astype(np.float16), cluster=cluster, content_divergence=even, est_seconds=4 * even)


@pytest.mark.parametrize("edges", [0, facility_location.EDGES])
def test_clumps_larger_than_k_are_represented_first(edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility_location, "EDGES", edges)
    pool = clumps([400, 300, 200, *[1] * 100])
    first = pool.cluster[chosen(pool, 12.0, k=8, cell=64).indices]
    assert sorted(first.tolist()) == [0, 1, 2], "one text for each clump, before any lone text"


def test_where_divergence_is_high_more_is_chosen() -> None:
    pool = clumps([300, 300], width=1.0)
    heavy = np.where(pool.cluster == 0, 5, 1).astype(np.float32)
    even = np.bincount(pool.cluster[chosen(pool, 160.0).indices], minlength=2)
    told = np.bincount(pool.cluster[chosen(replace(pool, content_divergence=heavy), 160.0).indices], minlength=2)
    assert even.sum() == told.sum() == 40
    assert told[0] > even[0] + 5


@pytest.mark.parametrize("edges", [0, facility_location.EDGES])
def test_what_the_student_trains_on_is_not_represented_again(edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility_location, "EDGES", edges)
    pool = clumps([300, 300])
    known = (pool.cluster == 0) & (np.arange(600) % 2 == 0)
    held_out = replace(pool, taken=known)
    trained = replace(held_out, trained=known)
    assert set(pool.cluster[chosen(held_out, 8.0, k=8, cell=64).indices].tolist()) == {0, 1}
    assert pool.cluster[chosen(trained, 4.0, k=8, cell=64).indices].tolist() == [1]


def test_a_costly_text_that_is_worth_more_than_all_cheap_ones_is_found() -> None:
    pool = clumps([50, 1])
    cost, worth = np.full(51, 10.0, np.float32), np.full(51, 1.0, np.float32)
    cost[50], worth[50] = 0.1, 0.9  # by gain per second the lone one first, and then nothing else can be paid
    pool = replace(pool, est_seconds=cost, content_divergence=worth)
    best = chosen(pool, 10.0)
    assert pool.cluster[best.indices].tolist() == [0]


def test_the_budget_is_filled_when_all_is_represented() -> None:
    pool = clumps([40])
    same = replace(pool, embeddings=np.repeat(pool.embeddings[:1], 40, axis=0))
    found = chosen(same, 42.0)
    assert len(found.indices) == 10
    assert found.reasons[0].startswith("represents 40 texts")
    assert found.reasons[-1] == FULL
    assert set(found.indices.tolist()) != set(chosen(same, 42.0, seed=1).indices.tolist()), "filled by seed"


def random_graph(n: int, seed: int) -> Graph:
    pool = example_pool(n=n, seed=seed, taken=0.0)
    return neighbour_graph(pool.embeddings, np.arange(n), np.zeros(0, np.int64), np.arange(n), 5, 8, seed)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 120), seed=st.integers(0, 1_000), budget=st.floats(1, 200))
def test_a_gain_only_falls_and_the_best_is_taken_at_each_step(n: int, seed: int, budget: float) -> None:
    graph, rng = random_graph(n, seed), np.random.default_rng(seed)
    weight, seconds = rng.random(n).astype(np.float32), rng.uniform(1, 9, n)
    stale = first_gains(graph, weight)
    run = lazy_greedy(graph, weight, seconds, budget, stale / seconds)
    covered, left = graph.covered.copy(), budget
    for j, gain in zip(run.chosen.tolist(), run.gain.tolist(), strict=True):
        now = first_gains(replace(graph, covered=covered), weight)
        assert (now <= stale + 1e-5).all()
        assert gain == pytest.approx(now[j], abs=1e-5)
        assert gain / seconds[j] >= (now / seconds)[seconds <= left].max() - 1e-5
        rows = graph.rows[graph.begin[j] : graph.end[j]]
        covered[rows] = np.maximum(covered[rows], graph.similarity[graph.begin[j] : graph.end[j]])
        left, stale = left - seconds[j], now
    end = first_gains(replace(graph, covered=covered), weight)
    assert end[seconds <= left].max(initial=0) < 1e-5, "it stopped while a text that fits would have gained"


def test_no_pair_twice_and_every_cosine_true() -> None:
    pool = example_pool(n=3_000, d=16, taken=0.0)
    texts = np.random.default_rng(0).permutation(3_000)
    graph = neighbour_graph(pool.embeddings, texts, texts[:0], np.arange(3_000)[::-1], 6, 32, 0)
    assert len(graph.rows) == (graph.end - graph.begin).sum()
    of = np.concatenate([np.full(b - a, j) for j, (a, b) in enumerate(zip(graph.begin, graph.end, strict=True))])
    at = np.concatenate([np.arange(a, b) for a, b in zip(graph.begin, graph.end, strict=True)])
    assert len(np.unique(of * 3_000 + graph.rows[at])) == len(of)
    x = pool.embeddings.astype(np.float32)[texts]
    assert np.allclose(np.einsum("ij,ij->i", x[of], x[graph.rows[at]]), graph.similarity[at], atol=2e-3)
    assert np.bincount(graph.rows, minlength=3_000).max() <= 6 * 3, "k to each level"
