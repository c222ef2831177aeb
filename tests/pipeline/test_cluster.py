"""Balanced k-means: sizes within bounds, every point placed, near what plain k-means would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.pipeline import balance
from salad.pipeline.balance import balanced_kmeans


def inertia(x: np.ndarray, at: np.ndarray, centroids: np.ndarray) -> float:
    return float(((x.astype(np.float64) - centroids[at]) ** 2).sum())


def plain(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    kmeans = faiss.Kmeans(x.shape[1], k, niter=20, seed=0)
    kmeans.train(x.astype(np.float32))
    _, at = kmeans.index.search(x.astype(np.float32), 1)
    return at[:, 0], np.array(kmeans.centroids)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 1000), st.sampled_from([1.001, 1.05, 1.1, 3.0]), st.booleans())
def test_sizes_are_bounded_and_every_point_is_placed(n: int, k: int, seed: int, most: float, copies: bool) -> None:
    k = min(k, n)
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float16)
    if copies:
        x = x[np.random.default_rng(seed).integers(0, max(n // 10, 1), n)]
    assignment, centroids = balanced_kmeans(x, k, most, 5, seed)
    assert assignment.shape == (n,)
    assert assignment.dtype == np.int32
    assert centroids.shape == (k, 4)
    assert np.isfinite(centroids).all()
    sizes = np.bincount(assignment, minlength=k)
    assert len(sizes) == k
    assert sizes.max() <= max(np.floor(most * n / k), np.ceil(n / k))
    assert sizes.min() > 0
    for c in range(k):
        np.testing.assert_allclose(centroids[c], x[assignment == c].astype(np.float64).mean(0), atol=1e-3)


def test_skewed_blobs_are_split_evenly_and_kept_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[10, 0], [-10, 0], [0, 10], [0, -10]])
    x = np.concatenate([c + rng.normal(size=(n, 2)) for c, n in zip(centres, (700, 100, 100, 100), strict=True)])
    assignment, _ = balanced_kmeans(x.astype(np.float16), 4, 1.1, 20, 0)
    assert np.bincount(assignment).max() <= 275
    even, _ = balanced_kmeans(x[600:].astype(np.float16), 4, 1.1, 20, 0)
    blobs = np.repeat(np.arange(4), 100)
    assert all(len(set(even[blobs == b])) == 1 for b in range(4)), "equal blobs are the clusters"


def test_balance_costs_little_where_points_lie_in_blobs_of_unequal_size() -> None:
    rng = np.random.default_rng(0)
    weight = np.arange(1, 41) ** -0.5
    at = rng.choice(40, 30_000, p=weight / weight.sum())
    x = rng.normal(size=(40, 64))[at] / 8 + rng.normal(size=(30_000, 64)) / 8
    assignment, centroids = balanced_kmeans(x.astype(np.float16), 16, 1.05, 20, 0)
    usual, means = plain(x, 16)
    assert np.bincount(usual, minlength=16).max() > 1.5 * 30_000 / 16, "the test could not tell"
    assert np.bincount(assignment, minlength=16).max() <= 1.05 * 30_000 / 16
    assert inertia(x, assignment, centroids) < 1.03 * inertia(x, usual, means)


def test_more_than_the_sample_is_assigned_as_the_sample_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(12, 16))[rng.integers(0, 12, 20_000)] + rng.normal(size=(20_000, 16))).astype(np.float16)
    whole, means = balanced_kmeans(x, 8, 1.05, 20, 0)
    monkeypatch.setattr(balance, "SAMPLE", 128)
    monkeypatch.setattr(balance, "BLOCK", 999)
    some, other = balanced_kmeans(x, 8, 1.05, 20, 0)
    assert np.bincount(some).max() <= 1.05 * 20_000 / 8
    assert inertia(x, some, other) < 1.03 * inertia(x, whole, means)


def test_who_loses_least_elsewhere_leaves_and_empty_clusters_are_filled() -> None:
    x = np.array([[0.0], [0.1], [0.2], [0.3], [9.0], [20.0]], np.float32)
    centroids = np.array([[0.0], [1.0], [9.0], [50.0]], np.float32)
    assignment = np.array([0, 0, 0, 0, 2, 2], np.int32)
    regret = np.array([1.0, 0.8, 0.6, 0.4, 60.0, 5.0], np.float32)
    balance._repair(x, assignment, regret, centroids, np.zeros(4, np.float32), 2)
    assert assignment.tolist() == [0, 0, 1, 3, 2, 2], (
        "two moved to the next cluster; of them the one that loses least fills the empty one"
    )


def test_prices_balance_the_expected_loads() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(700, 2)), rng.normal(size=(300, 2)) + 8]).astype(np.float32)
    centroids = np.array([[-0.2, 0], [1.5, 0], [8, 8]], np.float32)
    free = np.bincount(balance._scores(x, centroids).argmax(1), minlength=3)
    prices = balance._prices(x, centroids, 1.2)
    at = np.bincount(balance._scores(x, centroids, prices).argmax(1), minlength=3)
    assert free.max() > 1.25 * 1000 / 3
    assert at.max() <= 1.25 * 1000 / 3
    assert (prices >= 0).all()
    assert prices[2] == 0, "who has room asks nothing"


def test_the_same_seed_gives_the_same_bytes_and_a_memory_map_is_read(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5_000, 8)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    first, again = balanced_kmeans(x, 7, 1.05, 10, 3), balanced_kmeans(mapped, 7, 1.05, 10, 3)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    other, _ = balanced_kmeans(x, 7, 1.05, 10, 4)
    assert (first[0] != other).any()


def test_equal_points_still_balance() -> None:
    assignment, _ = balanced_kmeans(np.ones((100, 3), np.float16), 10, 1.1, 3, 0)
    assert np.bincount(assignment, minlength=10).max() <= 11


def test_one_cluster_and_as_many_as_points() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float16)
    assert balanced_kmeans(x, 1, 1.05, 3, 0)[0].tolist() == [0] * 30
    assert sorted(balanced_kmeans(x, 30, 1.05, 3, 0)[0].tolist()) == list(range(30))


def test_progress_counts_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "BLOCK", 40)
    seen: list[int] = []
    balanced_kmeans(np.random.default_rng(0).normal(size=(100, 3)), 4, 1.05, 3, 0, seen.append)
    assert seen == [40, 80, 100]


def test_more_clusters_than_texts_is_a_clear_error(fake_config_path) -> None:  # type: ignore[no-untyped-def]
    from salad.config import load_config
    from salad.errors import SaladError
    from salad.pipeline.stages import Run

    run = Run(load_config(fake_config_path, {"cluster.k": 9_999}))
    for stage in run.stages[:2]:
        run.execute(stage)
    with pytest.raises(SaladError, match=r"cluster\.k is 9999 but the pool has"):
        run.execute(run.stages[2])
