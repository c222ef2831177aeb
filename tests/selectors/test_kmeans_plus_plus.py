"""`kmeans++` draws by D of content and squared distance, exactly, from a few distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from salad.selectors import kmeans_plus_plus
from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.distances import Nearest
from salad.selectors.kmeans_plus_plus import KMeansPlusPlus
from salad.selectors.testing import CHECKS, Make, example_pool, reorder

SEEDS = 1500


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check: Callable[[Make], None]) -> None:
    check(KMeansPlusPlus)


def select(pool: PoolView, seconds: float, seed: int = 0) -> Selection:
    return KMeansPlusPlus().select(pool, Budget(seconds), np.random.default_rng(seed))


def exact_chances(pool: PoolView, draws: int) -> np.ndarray:
    """(draws, N) probability of each text to be drawn first, second, …, summed over all ways to get there."""
    x, n = pool.embeddings.astype(np.float64), len(pool.ids)
    d2 = ((x[:, None] - x[None]) ** 2).sum(-1)
    hard, trained = pool.content_divergence.astype(np.float64), np.flatnonzero(pool.trained).tolist()
    chances = np.zeros((draws, n))
    for way in permutations(pool.free.tolist(), draws):
        p = 1.0
        for t, i in enumerate(way):
            centres = trained + list(way[:t])
            weight = np.where(pool.taken, 0.0, hard * (d2[:, centres].min(1) if centres else 1.0))
            p *= weight[i] / weight.sum()
        for t, i in enumerate(way):
            chances[t, i] += p
    return chances


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 512])
@pytest.mark.parametrize("trained", [0, 3])
def test_draws_have_the_distribution_of_exact_sampling(monkeypatch: pytest.MonkeyPatch, trained: int, batch: int) -> None:
    """The second pick and the third, for which bounds are stale."""
    monkeypatch.setattr(kmeans_plus_plus, "BATCH", batch)
    pool = example_pool(9 + trained, 3, 4, seed=2, taken=0.0, seconds=(1.0, 1.0))
    away = np.arange(len(pool.ids)) >= 9
    pool = replace(pool, taken=away, trained=away)
    counts = np.zeros((3, len(pool.ids)))
    for seed in range(SEEDS):
        for t, i in enumerate(select(pool, 3.0, seed).indices.tolist()):
            counts[t, i] += 1
    expected = exact_chances(pool, 3)
    for t in range(3):
        assert chisquare(counts[t, :9], SEEDS * expected[t, :9]).pvalue > 1e-3, f"pick {t}"
    without_d = exact_chances(replace(pool, content_divergence=np.ones(len(pool.ids), np.float32)), 3)
    assert chisquare(counts[1, :9], SEEDS * without_d[1, :9]).pvalue < 1e-6, "the test would see that D is ignored"


def test_probability_is_that_of_the_first_draw() -> None:
    pool = example_pool(50, taken=0.0)
    found = select(pool, 40.0)
    hard = pool.content_divergence.astype(np.float64)
    assert np.allclose(found.probabilities, hard[found.indices] / hard.sum())


def test_hard_texts_are_chosen_more_often() -> None:
    pool = example_pool(400, taken=0.0, seconds=(1.0, 1.0))
    hard = replace(pool, content_divergence=np.where(np.arange(400) < 40, 50.0, 0.5).astype(np.float32))
    easy = replace(pool, content_divergence=np.ones(400, np.float32))
    share = [np.mean(select(p, 30.0).indices < 40) for p in (hard, easy)]
    assert share[0] > 0.7
    assert share[1] < 0.3


def test_far_texts_are_chosen_more_often() -> None:
    """One cluster far away of 2 % of the texts: draws by distance find it at once."""
    pool = example_pool(500, 1, 8, taken=0.0, seconds=(1.0, 1.0))
    x = np.tile(np.eye(8)[0], (500, 1)) + 0.05 * np.random.default_rng(0).normal(size=(500, 8))
    x[:10] *= -1
    pool = replace(pool, embeddings=(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16))
    found = np.mean([(select(pool, 3.0, seed).indices < 10).any() for seed in range(40)])
    assert found > 0.9, "uniform draws find it in 6 % of the cases"


def test_copies_are_drawn_when_nothing_else_is_left() -> None:
    pool = example_pool(200, taken=0.0, seconds=(1.0, 1.0))
    pool = replace(pool, embeddings=pool.embeddings[np.arange(200) % 10])
    found = select(pool, 30.0)
    assert len(found.indices) == 30
    assert sorted((found.indices[:10] % 10).tolist()) == list(range(10))
    assert found.reasons[-1].endswith("distance 0.00 from all chosen")


def test_texts_of_no_divergence_come_last_but_come() -> None:
    pool = example_pool(60, taken=0.0, seconds=(1.0, 1.0))
    pool = replace(pool, content_divergence=(np.arange(60) < 20).astype(np.float32))
    assert sorted(select(pool, 20.0).indices.tolist()) == list(range(20))
    assert len(select(pool, 60.0).indices) == 60
    nothing = replace(pool, content_divergence=np.zeros(60, np.float32))
    assert len(select(nothing, 30.0).indices) == 30


def test_seconds_are_spent_to_the_shortest_text() -> None:
    pool = example_pool(300, seconds=(2.0, 8.0))
    picks = select(pool, 200.0).indices
    left = 200.0 - pool.est_seconds[picks].sum(dtype=np.float64)
    assert 0 <= left + 1e-6 < pool.est_seconds[np.setdiff1d(pool.free, picks)].min() + 1e-6
    assert len(select(pool, 1e6).indices) == len(pool.free)


def test_order_of_the_pool_changes_no_pick_nor_rank() -> None:
    pool = example_pool(500, taken=0.3)
    mixed = reorder(pool, np.random.default_rng(1).permutation(500))
    assert pool.ids[select(pool, 300.0).indices].tolist() == mixed.ids[select(mixed, 300.0).indices].tolist()


@pytest.mark.parametrize("copies", [1, 40])
def test_rejections_are_bounded(monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    """Also where most texts are copies, whose bounds say nothing of their distance 0."""
    made: list[Nearest] = []
    proposals: list[int] = []

    def make(pool: PoolView, rng: np.random.Generator) -> Nearest:
        made.append(Nearest(pool, rng))
        return made[-1]

    def draw(weight: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        proposals.append(n)
        return original(weight, n, rng)

    original = kmeans_plus_plus._draw
    monkeypatch.setattr(kmeans_plus_plus, "Nearest", make)
    monkeypatch.setattr(kmeans_plus_plus, "_draw", draw)
    pool = example_pool(8_000, 12, 16, taken=0.0, seconds=(1.0, 1.0))
    pool = replace(pool, embeddings=pool.embeddings[np.arange(8_000) // copies])
    k = 1_000 // copies
    found = select(pool, float(k))
    assert len(np.unique(found.indices // copies)) == k
    assert sum(proposals) < 6 * k + 8 * kmeans_plus_plus.BATCH
    assert made[0].evaluations < 0.5 * 8_000 * k + 8_000 * 12
