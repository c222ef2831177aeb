"""The regression that gives every text its D: exact where it can be checked by hand, sane where it cannot."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import multivariate_normal

from salad.pipeline import surrogate
from salad.pipeline.surrogate import EXPECTED, SPREAD, Features, at_average_layout, cluster_errors, fit, layout_features, predict

SCALES = np.array([0.04, 0.1, 0.5, 0.03, 0.08])
PRIOR = [0, 1, 3]  # of the scales: what a text of layout 0 may vary by, less reach and noise


def features(seed: int, n: int, k: int = 3, d: int = 4) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Features(rng.normal(size=(n, 3)), vectors, rng.integers(0, k, n))


def drawn(seed: int, n: int, k: int = 8, scales: np.ndarray = SCALES) -> tuple[Features, np.ndarray]:
    """Texts whose log D is as the model says."""
    f = features(seed, n, k, 16)
    rng = np.random.default_rng(seed + 1)
    cover = surrogate._kernel(scales, f, f) + scales[4] * np.eye(n)
    return f, np.exp(0.4 + np.linalg.cholesky(cover) @ rng.normal(size=n))


def joined(a: Features, b: Features) -> Features:
    return Features(np.vstack([a.layout, b.layout]), np.vstack([a.vectors, b.vectors]), np.concatenate([a.cluster, b.cluster]))


def covariance(scales: np.ndarray, a: Features, b: Features) -> np.ndarray:
    """Of log D without its noise, one pair at a time."""
    linear, smooth, reach, cluster, _ = scales
    return np.array([
        [
            linear * sum(p * q for p, q in zip(x, z, strict=True))
            + smooth * np.exp(-(1 - sum(p * q for p, q in zip(u, v, strict=True))) / reach)
            + cluster * (c == e)
            for z, v, e in zip(b.layout, b.vectors, b.cluster, strict=True)
        ]
        for x, u, c in zip(a.layout, a.vectors, a.cluster, strict=True)
    ])  # fmt: skip


def conditional(scales: np.ndarray, probes: Features, y: np.ndarray, texts: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean (m,) and covariance (m, m) of the texts' log D given the probes', both without a mean of their own."""
    among = covariance(scales, probes, probes) + scales[4] * np.eye(len(y))
    between = covariance(scales, texts, probes)
    tied = between @ np.linalg.inv(among)
    return tied @ y, covariance(scales, texts, texts) - tied @ between.T


# -- exact ----------------------------------------------------------------------------------------------------


def test_the_posterior_is_the_conditional_gaussian() -> None:
    probes, texts = features(0, 12), features(1, 7)
    d = np.exp(np.random.default_rng(2).normal(size=12))
    fitted = fit(probes, d, scales=SCALES)
    y = np.log(d)
    mean, cover = conditional(SCALES, probes, y - y.mean(), texts)
    expected = np.exp(y.mean() + mean) * fitted.smear
    found = predict(fitted, texts)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected * np.sqrt(np.diag(cover)), rtol=1e-5)


def test_many_texts_are_predicted_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit(features(0, 12), np.arange(1.0, 13.0), scales=SCALES)
    texts = features(1, 7)
    whole = predict(fitted, texts)
    monkeypatch.setattr(surrogate, "BLOCK", 3)
    np.testing.assert_allclose(predict(fitted, texts), whole, rtol=1e-6)


def test_what_is_explained_is_what_refits_without_each_probe_say() -> None:
    probes = features(0, 14)
    y = np.log(np.random.default_rng(3).gamma(4, size=14))
    fitted = fit(probes, np.exp(y), scales=SCALES)
    left_out = np.zeros(14)
    for i in range(14):
        rest = np.delete(np.arange(14), i)
        left_out[i] = y.mean() + conditional(SCALES, probes.take(rest), y[rest] - y.mean(), probes.take(np.array([i])))[0][0]
    assert fitted.explained == pytest.approx(1 - np.var(y - left_out) / np.var(y))
    assert fitted.smear == pytest.approx(np.mean(np.exp(y) / np.exp(left_out)))


def test_the_loss_is_the_posterior_density_of_the_scales() -> None:
    probes, y = features(0, 9), np.random.default_rng(1).normal(size=9)
    terms = (probes.layout @ probes.layout.T, 1 - probes.vectors @ probes.vectors.T, probes.cluster[:, None] == probes.cluster)

    def density(log_scales: np.ndarray) -> float:
        scales = np.exp(log_scales)
        cover = covariance(scales, probes, probes) + scales[4] * np.eye(9)
        prior = multivariate_normal(EXPECTED, SPREAD**2 * np.eye(5)).logpdf(log_scales)
        return float(multivariate_normal(np.zeros(9), cover).logpdf(y) + prior)

    points = EXPECTED + np.random.default_rng(2).normal(size=(4, 5))
    losses = [surrogate._loss(p, *terms, y)[0] for p in points]
    np.testing.assert_allclose(np.diff(losses), -np.diff([density(p) for p in points]), rtol=1e-9)
    for p in points:
        assert check_grad(lambda x: surrogate._loss(x, *terms, y)[0], lambda x: surrogate._loss(x, *terms, y)[1], p) < 1e-5


def test_the_scales_learnt_are_better_than_their_neighbours() -> None:
    probes, d = drawn(0, 80)
    y = np.log(d) - np.log(d).mean()
    terms = (probes.layout @ probes.layout.T, 1 - probes.vectors @ probes.vectors.T, probes.cluster[:, None] == probes.cluster)
    best = np.log(surrogate._learn(probes, y))
    least = surrogate._loss(best, *terms, y)[0]
    assert np.abs(surrogate._loss(best, *terms, y)[1]).max() < 0.05
    for i in range(5):
        for step in (-0.3, 0.3):
            assert surrogate._loss(best + step * np.eye(5)[i], *terms, y)[0] > least


def test_a_clusters_error_is_that_of_its_texts_together() -> None:
    probes, texts = features(0, 10), features(1, 24)
    texts.cluster[:] = np.arange(24) % 3
    fitted = fit(probes, np.arange(1.0, 11.0), scales=SCALES)
    found = cluster_errors(fitted, texts, 4)
    for c in range(3):
        inside = texts.take(np.flatnonzero(texts.cluster == c))
        cover = conditional(SCALES, probes, np.zeros(10), inside)[1]
        assert found[c] == pytest.approx(np.sqrt(cover.mean()))
    assert found[3] == pytest.approx(np.sqrt(SCALES[PRIOR].sum())), "without a text it is as unsure as before any probe"


def test_a_sample_of_a_cluster_tells_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit(*drawn(0, 40, 2), scales=SCALES)
    texts = features(1, 1200, 2, 16)
    whole = cluster_errors(fitted, texts.take(np.arange(300)), 2)
    np.testing.assert_allclose(cluster_errors(fitted, texts, 2), whole, rtol=0.1)
    assert np.array_equal(cluster_errors(fitted, texts, 2, seed=3), cluster_errors(fitted, texts, 2, seed=3))


# -- near and far ---------------------------------------------------------------------------------------------


def test_far_from_any_probe_it_is_the_clusters_shrunk_mean() -> None:
    """Vectors at right angles and a short reach: no text is near another, so only clusters tell."""
    scales = np.array([0.04, 0.1, 0.02, 0.03, 0.08])
    cluster = np.array([0] * 8 + [1] * 2 + [0, 1, 2])
    whole = Features(np.zeros((13, 3)), np.eye(13), cluster)
    y = np.array([1.0] * 8 + [-0.5] * 2) + 0.1 * np.random.default_rng(0).normal(size=10)
    fitted = fit(whole.take(np.arange(10)), np.exp(y), scales=scales)
    found = predict(fitted, whole.take(np.arange(10, 13)))
    for c, n in enumerate((8, 2, 0)):
        trust = 0.03 / (0.03 + (0.1 + 0.08) / n) if n else 0.0
        mean = trust * (y[cluster[:10] == c].mean() - y.mean()) if n else 0.0
        assert found[c, 0] == pytest.approx(np.exp(y.mean() + mean) * fitted.smear, rel=1e-5)
        assert found[c, 1] / found[c, 0] == pytest.approx(np.sqrt(0.1 + 0.03 * (1 - trust)), rel=1e-5)


def test_near_many_probes_it_follows_them_and_is_sure() -> None:
    scales = np.array([0.04, 0.1, 0.05, 0.03, 0.08])
    vectors = np.repeat(np.eye(2), 400, axis=0)
    probes = Features(np.zeros((800, 3)), vectors, np.zeros(800, int))
    d = np.where(vectors[:, 0] == 1, 1.5, 0.7)
    found = predict(fit(probes, d, scales=scales), Features(np.zeros((2, 3)), np.eye(2), np.zeros(2, int)))
    np.testing.assert_allclose(found[:, 0], [1.5, 0.7], rtol=0.005)
    assert (found[:, 1] / found[:, 0] < 0.02).all()


def test_layout_is_followed_beyond_the_probes() -> None:
    probes, _ = drawn(0, 200)
    d = np.exp(-0.4 * probes.layout[:, 1] + 0.1 * np.random.default_rng(1).normal(size=200))
    texts = features(5, 3, 8, 16)
    texts.layout[:] = [[0, -3, 0], [0, 0, 0], [0, 3, 0]]
    found = predict(fit(probes, d), texts)
    np.testing.assert_allclose(found[:, 0], np.exp([1.2, 0, -1.2]), rtol=0.15)
    assert found[1, 1] / found[1, 0] < found[2, 1] / found[2, 0], "surer where the probes are"


def test_on_texts_of_its_own_kind_its_intervals_cover_and_it_knows_what_it_explains() -> None:
    z, told, gained = [], [], []
    for seed in range(0, 80, 10):
        f, d = drawn(seed, 450)
        fitted = fit(f.take(np.arange(150)), d[:150])
        expected, error = predict(fitted, f.take(np.arange(150, 450))).T.astype(np.float64)
        off = np.log(d[150:] * fitted.smear / expected)
        z.append(off / np.sqrt((error / expected) ** 2 + fitted.scales[4]))
        gained.append(1 - np.var(off) / np.var(np.log(d[150:])))
        told.append(fitted.explained)
        assert np.mean(d[150:]) == pytest.approx(expected.mean(), rel=0.15)
    assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.02)
    assert np.mean(np.abs(z) < 0.674) == pytest.approx(0.5, abs=0.04)
    assert np.mean(gained) > 0.4
    assert np.mean(told) == pytest.approx(np.mean(gained), abs=0.1)


# -- what changes nothing, and what must not break it -----------------------------------------------------------


@st.composite
def some_probes(draw: st.DrawFn) -> tuple[Features, np.ndarray, int]:
    seed, n = draw(st.integers(0, 10_000)), draw(st.integers(2, 20))
    return features(seed, n), np.random.default_rng(seed).lognormal(sigma=0.6, size=n), seed


@given(some_probes(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_probes_does_not_matter(given_probes: tuple[Features, np.ndarray, int], random: object) -> None:
    probes, d, seed = given_probes
    order = np.array(random.sample(range(len(d)), len(d)))  # type: ignore[attr-defined]
    texts = features(seed + 1, 5)
    for scales, close in ((SCALES, 1e-5), (None, 1e-2)):
        one, other = (predict(fit(p, v, scales=scales), texts) for p, v in ((probes, d), (probes.take(order), d[order])))
        np.testing.assert_allclose(one, other, rtol=close)


@given(some_probes(), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_a_unit_is_a_unit(given_probes: tuple[Features, np.ndarray, int], unit: float) -> None:
    probes, d, seed = given_probes
    texts = features(seed + 1, 5)
    for scales, close in ((SCALES, 1e-5), (None, 1e-2)):
        one, other = (predict(fit(probes, v, scales=scales), texts) for v in (d, unit * d))
        np.testing.assert_allclose(unit * one, other, rtol=close)


@given(some_probes())
@settings(max_examples=50, deadline=None)
def test_a_probe_more_never_makes_it_less_sure(given_probes: tuple[Features, np.ndarray, int]) -> None:
    probes, d, seed = given_probes
    texts = features(seed + 1, 9)
    fewer, more = (fit(probes.take(np.arange(n)), d[:n], scales=SCALES) for n in (len(d) - 1, len(d)))
    before, after = (predict(s, texts) for s in (fewer, more))
    assert (after[:, 1] / after[:, 0] <= before[:, 1] / before[:, 0] * (1 + 1e-5)).all()
    assert (cluster_errors(more, texts, 3) <= cluster_errors(fewer, texts, 3) + 1e-9).all()


def degenerate() -> dict[str, tuple[Features, np.ndarray]]:
    f, d = features(0, 12), np.random.default_rng(0).lognormal(size=12)
    flat, alone = np.zeros((12, 3)), np.zeros(12, int)
    return {
        "one probe": (f.take(np.arange(1)), d[:1]),
        "two probes": (f.take(np.arange(2)), np.array([0.1, 9.0])),
        "equal D": (f, np.full(12, 1.7)),
        "no D": (f, np.zeros(12)),
        "some D of 0": (f, np.where(np.arange(12) < 4, 0, d)),
        "negative excess": (f, d - 1.5),
        "an outlier": (f, np.where(np.arange(12) == 3, 1e6, d)),
        "one cluster": (Features(f.layout, f.vectors, alone), d),
        "equal layout": (Features(flat, f.vectors, f.cluster), d),
        "one text many times": (Features(flat, np.tile(f.vectors[:1], (12, 1)), alone), d),
        "half precision": (Features(f.layout, f.vectors.astype(np.float16), f.cluster), d),
    }


@pytest.mark.parametrize("name", degenerate())
def test_whatever_the_probes_the_answer_is_positive_and_finite(name: str) -> None:
    probes, d = degenerate()[name]
    texts = joined(probes, features(1, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(probes.take(np.arange(len(d))), d)
        found = predict(fitted, texts)
        errors = cluster_errors(fitted, texts, 4)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (np.isfinite(errors) & (errors > 0)).all()
    assert np.isfinite(fitted.explained)
    assert fitted.explained <= 1


def test_equal_probes_explain_nothing() -> None:
    fitted = fit(features(0, 12), np.full(12, 1.7))
    assert fitted.explained == pytest.approx(0)
    np.testing.assert_allclose(predict(fitted, features(1, 5))[:, 0], 1.7, rtol=1e-5)


def test_scales_are_learnt_from_a_part_and_all_probes_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    probes, d = drawn(0, 60)
    monkeypatch.setattr(surrogate, "LEARN_FROM", 20)
    fitted, again, other = (fit(probes, d, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(fitted.scales, again.scales)
    assert (fitted.scales != other.scales).any()
    assert len(fitted.weights) == 60


# -- layout -----------------------------------------------------------------------------------------------------


def test_layout_is_words_heard_and_words_read() -> None:
    n_words, n_heard = np.array([20, 20, 30, 12]), np.array([5, 15, 10, 12])
    found = layout_features(n_words, n_heard)
    raw = np.stack([np.log1p([5, 15, 10, 12]), np.log1p([15, 5, 20, 0]), [15, 5, 20, 0]], axis=1)
    np.testing.assert_allclose(found, (raw - raw.mean(0)) / raw.std(0))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 60)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_layout_is_standard_whatever_the_words(words: list[tuple[int, int]]) -> None:
    n_words, n_heard = np.array(words).T
    found = layout_features(n_words, n_heard)
    assert found.shape == (len(words), 3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    spread = found.std(0)
    assert ((np.abs(spread - 1) < 1e-9) | (spread == 0)).all()


def test_at_the_average_layout_is_the_prediction_for_texts_of_that_layout() -> None:
    texts, d = drawn(3, 80)
    fitted = fit(texts.take(np.arange(50)), d[:50], scales=SCALES)
    even = Features(np.zeros_like(texts.layout), texts.vectors, texts.cluster)
    found = at_average_layout(fitted, texts, predict(fitted, texts)[:, 0])
    np.testing.assert_allclose(found, predict(fitted, even)[:, 0], rtol=1e-5)
    assert not np.allclose(found, predict(fitted, texts)[:, 0], rtol=0.05)


def test_content_is_what_clusters_differ_in_when_all_texts_are_laid_out_alike() -> None:
    rng = np.random.default_rng(0)
    n, k = 1200, 4
    cluster = np.arange(n) % k
    centres = np.eye(k, 8)
    vectors = centres[cluster] + 0.05 * rng.normal(size=(n, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    read = np.where(cluster < 2, rng.integers(2, 6, n), rng.integers(20, 30, n))  # the first two have little to read
    layout = layout_features(read + 10, np.full(n, 10))
    log_d = 0.5 * (cluster % 2) - 0.4 * layout[:, 1] + 0.2 * rng.normal(size=n)  # every second one is harder
    texts, rows = Features(layout, vectors, cluster), rng.permutation(n)[:240]
    own, content = (surrogate.estimate(texts, rows, np.exp(log_d[rows]), how, k, 0)[0] for how in ("surrogate", "content"))
    assert own.shrunk[0] > own.shrunk[3], "as they are, what is short to read comes before what is hard"
    assert max(content.shrunk[[0, 2]]) < min(content.shrunk[[1, 3]])
    np.testing.assert_allclose(np.log(content.shrunk[[1, 3]] / content.shrunk[[0, 2]]), 0.5, atol=0.2)
    assert (content.shrunk_log_sd > 0).all()


def test_the_error_of_content_is_that_of_its_texts_at_the_average_layout() -> None:
    probes, texts = features(0, 20, k=2), features(1, 30, k=2)
    fitted = fit(probes, np.exp(np.random.default_rng(2).normal(size=20)), scales=SCALES)
    average = Features(np.zeros_like(texts.layout), texts.vectors, texts.cluster)
    np.testing.assert_allclose(cluster_errors(fitted, texts, 2, content=True), cluster_errors(fitted, average, 2))
    empty = cluster_errors(fitted, texts, 3, content=True)[2]
    assert empty == pytest.approx((SCALES[1] + SCALES[3]) ** 0.5)
