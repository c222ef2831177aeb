"""Balanced k-means: sizes within bounds, every point placed, near what plain k-means would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.pipeline.cluster import balanced_kmeans


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 1000))
def test_sizes_are_bounded(n: int, k: int, seed: int) -> None:
    k = min(k, n)
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float16)
    assignment, centroids = balanced_kmeans(x, k, 1.1, 5, seed)
    assert assignment.shape == (n,)
    assert centroids.shape == (k, 4)
    sizes = np.bincount(assignment, minlength=k)
    assert sizes.max() <= max(np.floor(1.1 * n / k), np.ceil(n / k))


def test_skewed_blobs_are_split_evenly_and_kept_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[10, 0], [-10, 0], [0, 10], [0, -10]])
    x = np.concatenate([c + rng.normal(size=(n, 2)) for c, n in zip(centres, (700, 100, 100, 100), strict=True)])
    assignment, _ = balanced_kmeans(x.astype(np.float16), 4, 1.1, 20, 0)
    assert np.bincount(assignment).max() <= 275
    even, _ = balanced_kmeans(x[600:].astype(np.float16), 4, 1.1, 20, 0)
    blobs = np.repeat(np.arange(4), 100)
    assert all(len(set(even[blobs == b])) == 1 for b in range(4)), "equal blobs are the clusters"


def test_equal_points_still_balance() -> None:
    assignment, _ = balanced_kmeans(np.ones((100, 3), np.float16), 10, 1.1, 3, 0)
    assert np.bincount(assignment, minlength=10).max() <= 11


def test_more_clusters_than_texts_is_a_clear_error(fake_config_path) -> None:  # type: ignore[no-untyped-def]
    from salad.config import load_config
    from salad.errors import SaladError
    from salad.pipeline.stages import Run

    run = Run(load_config(fake_config_path, {"cluster.k": 9_999}))
    for stage in run.stages[:2]:
        run.execute(stage)
    with pytest.raises(SaladError, match=r"cluster\.k is 9999 but the pool has"):
        run.execute(run.stages[2])
