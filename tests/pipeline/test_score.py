"""From probe divergences to P_target: the formula, shrinkage, flags, prediction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.pipeline.score import cluster_table, predict, shrink, target_distribution


def test_target_distribution_is_the_formula() -> None:
    p_web, d = np.array([0.5, 0.3, 0.2]), np.array([0.5, 1.0, 2.0])
    expected = p_web * d**5
    np.testing.assert_allclose(target_distribution(p_web, d, 5.0), expected / expected.sum())


def test_gamma_zero_is_p_web() -> None:
    p_web = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(target_distribution(p_web, np.array([0.0, 1.0, 9.0]), 0.0), p_web)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.floats(0, 300))
def test_target_distribution_is_always_one(d: list[float], gamma: float) -> None:
    p = target_distribution(np.full(len(d), 1 / len(d)), np.array(d), gamma)
    assert p.sum() == pytest.approx(1)
    assert np.isfinite(p).all()


def test_flagged_clusters_leave_the_distribution() -> None:
    divergence = np.array([1.0, 1.2, 3.0, 3.2, 2.0, 2.2])
    cluster = np.array([0, 0, 1, 1, 2, 2])
    cer = np.array([0.0, 0.1, 0.9, 0.8, 0.0, np.nan])
    table = cluster_table(divergence, cluster, cer, np.array([10, 10, 20]), 5.0, max_cer=0.3)
    assert table["flag"].tolist() == ["", "cer", ""]
    assert table["p_target"][1] == 0
    assert table["p_target"].sum() == pytest.approx(1)
    np.testing.assert_allclose(table["divergence"], [1.1, 3.1, 2.1])
    np.testing.assert_allclose(table["divergence_se"], [0.1, 0.1, 0.1])
    np.testing.assert_allclose(table["p_web"], [0.25, 0.25, 0.5])


def test_a_cluster_without_probe_stands_at_the_mean() -> None:
    table = cluster_table(
        np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]), np.full(4, np.nan), np.array([5, 5, 5]), 1.0, 0.3
    )
    assert table["flag"][2] == "no probe"
    assert table["divergence"][2] == 2.0
    assert np.isnan(table["divergence_se"][2])


def test_shrinkage_pulls_noise_in_and_leaves_signal() -> None:
    rng = np.random.default_rng(0)
    n = np.full(200, 8)

    def shrunk_error(spread: float) -> tuple[float, float]:
        truth = 2 + spread * rng.normal(size=200)
        probes = truth[:, None] + rng.normal(size=(200, 8))
        mean = probes.mean(1)
        squares = ((probes - mean[:, None]) ** 2).sum(1)
        found = shrink(mean, squares, n)
        return float(np.mean((found - truth) ** 2)), float(np.mean((mean - truth) ** 2))

    better, plain = shrunk_error(0.2)
    assert better < 0.6 * plain
    better, plain = shrunk_error(5.0)
    assert better == pytest.approx(plain, rel=0.05)


def test_prediction_follows_the_neighbours_and_the_cluster() -> None:
    vectors = np.eye(4, dtype=np.float16)[[0] * 10 + [1] * 10]
    found = predict(
        vectors, list(range(8)) + list(range(10, 18)), np.array([1.0] * 8 + [5.0] * 8), np.array([2.0] * 10 + [4.0] * 10)
    )
    np.testing.assert_allclose(found[:10, 0], 1.5)
    np.testing.assert_allclose(found[10:, 0], 4.5)
    assert (found[:, 1] == 0).all()
