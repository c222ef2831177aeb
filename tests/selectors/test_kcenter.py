"""`kcenter` is the plain greedy algorithm, pick for pick, at a fraction of its distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from salad.selectors import distances, kcenter
from salad.selectors.base import Budget, PoolView
from salad.selectors.distances import Nearest
from salad.selectors.kcenter import KCenter
from salad.selectors.testing import CHECKS, Make, example_pool, reorder


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Callable[[Make], None]) -> None:
    check(KCenter)


def plain_greedy(pool: PoolView, seconds: float, seed: int) -> list[int]:
    """Farthest first among the texts that still fit, with all distances at every step."""
    order = np.argsort(pool.uniform(np.random.default_rng(seed)))
    x, cost = pool.embeddings.astype(np.float64), pool.est_seconds.astype(np.float64)
    d = np.full(len(order), np.inf, np.float32)
    picks: list[int] = []
    for centre in np.flatnonzero(pool.trained):
        d = np.minimum(d, ((x - x[centre]) ** 2).sum(1).astype(np.float32))
    open_ = ~pool.taken
    while len(fitting := order[(open_ & (cost <= seconds - cost[picks].sum() + 5e-7))[order]]):
        picks.append(int(fitting[d[fitting].argmax()]))
        d = np.minimum(d, ((x - x[picks[-1]]) ** 2).sum(1).astype(np.float32))
        open_[picks[-1]] = False
    return picks


def chosen(pool: PoolView, seconds: float, seed: int = 0) -> list[int]:
    return KCenter().select(pool, Budget(seconds), np.random.default_rng(seed)).indices.tolist()


@pytest.mark.parametrize("batch", [4, 4096])
@pytest.mark.parametrize("taken", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_picks_are_those_of_plain_greedy(monkeypatch: pytest.MonkeyPatch, seed: int, taken: float, batch: int) -> None:
    monkeypatch.setattr(kcenter, "BATCH", batch)  # 4: never everything at once
    monkeypatch.setattr(distances, "WORTH", 0 if seed % 2 else 3000)
    pool = example_pool(400, 6, 12, seed, taken=taken)
    assert chosen(pool, 300.0, seed) == plain_greedy(pool, 300.0, seed)


@pytest.mark.parametrize("batch", [4, 4096])
def test_copies_go_by_seed_and_last(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(kcenter, "BATCH", batch)
    pool = example_pool(120, 4, taken=0.0, seconds=(4.0, 4.0))
    pool = replace(pool, embeddings=pool.embeddings[np.arange(120) % 10])
    picks = chosen(pool, 120.0)
    assert picks == plain_greedy(pool, 120.0, 0)
    assert sorted(i % 10 for i in picks[:10]) == list(range(10)), "each distinct text once before any copy"
    assert picks != chosen(pool, 120.0, seed=1)


def test_order_of_the_pool_changes_no_pick_nor_rank() -> None:
    pool = example_pool(500, taken=0.3)
    mixed = reorder(pool, np.random.default_rng(1).permutation(500))
    assert pool.ids[chosen(pool, 300.0)].tolist() == mixed.ids[chosen(mixed, 300.0)].tolist()


def test_seconds_are_spent_to_the_shortest_text() -> None:
    pool = example_pool(300, seconds=(2.0, 8.0))
    picks = chosen(pool, 200.0)
    left = 200.0 - pool.est_seconds[picks].sum(dtype=np.float64)
    rest = np.setdiff1d(pool.free, picks)
    assert 0 <= left + 1e-6 < pool.est_seconds[rest].min() + 1e-6, "a text that fits was left"
    assert len(chosen(pool, 1e6)) == len(pool.free)


def test_covering_radius_is_at_most_twice_the_best() -> None:
    for seed in range(5):
        pool = example_pool(14, 3, 4, seed, taken=0.0, seconds=(1.0, 1.0))
        x = pool.embeddings.astype(np.float64)
        d = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
        best = min(d[:, centres].min(1).max() for centres in combinations(range(14), 4))
        radius = d[:, chosen(pool, 4.0, seed)].min(1).max()
        assert best <= radius <= 2 * best


def test_a_text_the_student_trains_on_is_a_centre() -> None:
    pool = example_pool(200, 5, taken=0.0, seconds=(1.0, 1.0))
    learned = replace(pool, taken=pool.cluster < 4, trained=pool.cluster < 4)
    probes = replace(learned, trained=np.zeros(200, bool))
    reasons = [KCenter().select(p, Budget(3.0), np.random.default_rng(0)).reasons for p in (learned, probes)]
    assert "distance" in reasons[0][0]
    assert reasons[1][0] == "the first text, by seed", "what is set aside to measure is no centre"


def test_reasons_say_the_distance() -> None:
    pool = example_pool(100, taken=0.0)
    found = KCenter().select(pool, Budget(60.0), np.random.default_rng(0))
    x = pool.embeddings[found.indices].astype(np.float64)
    for i in range(1, len(x)):
        far = np.sqrt(((x[:i] - x[i]) ** 2).sum(1).min())
        assert found.reasons[i] == f"farthest from all chosen: distance {far:.2f}"
    assert (found.probabilities == 1).all()


def test_most_distances_are_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Nearest] = []

    def make(pool: PoolView, rng: np.random.Generator) -> Nearest:
        made.append(Nearest(pool, rng))
        return made[-1]

    monkeypatch.setattr(kcenter, "Nearest", make)
    monkeypatch.setattr(kcenter, "BATCH", 256)
    pool = example_pool(6_000, 12, 32, taken=0.0, seconds=(1.0, 1.0))
    assert len(chosen(pool, 600.0)) == 600
    assert made[0].evaluations < 0.25 * 6_000 * 600
