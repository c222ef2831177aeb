"""From probes to estimates with honest errors, to P_target, to where the next probes go."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.integrate import quad

from salad.pipeline.estimate import (
    ASSUMED_SD,
    MAX_GAMMA,
    PRIOR_DF,
    Estimates,
    adjusted,
    allocate,
    cluster_estimates,
    effective_number,
    expected_error,
    gamma_for,
    target_distribution,
)

Probes = tuple[np.ndarray, np.ndarray, int]


def log_normal(
    seed: int, n: int, k: int, within: float = 0.51, between: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and clusters of n probes each, and the true log D of the k clusters."""
    rng = np.random.default_rng(seed)
    truth = 0.5 + between * rng.normal(size=k)
    values = np.exp(truth[:, None] + within * rng.normal(size=(k, n)) - within**2 / 2)
    return values.ravel(), np.repeat(np.arange(k), n), truth


@st.composite
def probes(draw: st.DrawFn) -> Probes:
    k = draw(st.integers(1, 8))
    cluster = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=40))
    values = draw(st.lists(st.floats(0, 50), min_size=len(cluster), max_size=len(cluster)))
    return np.array(values), np.array(cluster), k


def posterior_spread(y: np.ndarray, error: np.ndarray) -> float:
    """τ by numerical integration of its flat-prior posterior: the mean of y integrated out."""

    def density(tau: float) -> float:
        v = tau**2 + error
        centre = (y / v).sum() / (1 / v).sum()
        return float(np.exp(-0.5 * (np.log(v).sum() + np.log((1 / v).sum()) + ((y - centre) ** 2 / v).sum())))

    top = 3 * float(np.sqrt(max(y.var(), error.mean())))
    return quad(lambda t: t * density(t), 0, top)[0] / quad(density, 0, top)[0]


def test_mean_and_standard_error() -> None:
    values, cluster = np.array([1.0, 2.0, 4.0, 3.0, 5.0]), np.array([0, 0, 0, 2, 3])
    e = cluster_estimates(values, cluster, 4, seed=0)
    assert e.n.tolist() == [3, 0, 1, 1]
    np.testing.assert_allclose(e.mean, [7 / 3, np.nan, 3, 5])
    np.testing.assert_allclose(e.se, [np.std([1, 2, 4], ddof=1) / np.sqrt(3), np.nan, np.nan, np.nan])
    assert np.isnan(e.low).tolist() == np.isnan(e.high).tolist() == [False, True, True, True]


def test_log_normal_probes_by_hand() -> None:
    rng = np.random.default_rng(3)
    sizes = [4, 8, 8, 5, 12, 8]
    groups = [np.exp(0.3 * rng.normal() + 0.8 * rng.normal(size=n)) for n in sizes]
    e = cluster_estimates(np.concatenate(groups), np.repeat(np.arange(6), sizes), 6, seed=0)

    df = np.array(sizes) - 1
    own = np.array([np.log(g).var(ddof=1) for g in groups])
    variance = (PRIOR_DF * (df @ own) / df.sum() + df * own) / (PRIOR_DF + df)
    y = np.array([np.log(g).mean() for g in groups]) + variance / 2
    y += np.log(sum(g.sum() for g in groups) / (np.array(sizes) @ np.exp(y)))
    error = variance / sizes + variance**2 / (2 * (PRIOR_DF + df))
    tau = posterior_spread(y, error)
    weight = 1 / (tau**2 + error)
    centre = (weight @ y) / weight.sum()
    np.testing.assert_allclose(e.text_log_var, variance)
    np.testing.assert_allclose(e.log_mean, y)
    np.testing.assert_allclose(e.centre, centre, rtol=1e-3)
    np.testing.assert_allclose(np.log(e.shrunk), (y / error + centre / tau**2) / (1 / error + 1 / tau**2), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(e.shrunk_log_sd, (1 / error + 1 / tau**2) ** -0.5, rtol=1e-3)


def test_values_that_pile_up_near_zero_go_by_their_plain_means() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, size=(20, 8)) * np.where(rng.random((20, 8)) < 0.1, 0.01, 1)
    e = cluster_estimates(values.ravel(), np.repeat(np.arange(20), 8), 20, seed=0)
    mean, variance = values.mean(1), values.var(1, ddof=1)
    pooled = variance.sum() / (mean**2 - variance / 8).sum()
    relative = (PRIOR_DF * pooled + 7 * variance / mean**2) / (PRIOR_DF + 7)
    np.testing.assert_allclose(e.text_log_var, relative)
    np.testing.assert_allclose(e.log_mean, np.log(mean) + np.log(1 + relative / 8) / 2)


def test_log_normal_sums_know_their_error_and_bias() -> None:
    """The approximation that plain means stand on: log(1 + CV²/n), half of it bias, at a CV of 1."""
    rng = np.random.default_rng(0)
    sd = np.sqrt(np.log(2))
    logs = np.log(np.exp(sd * rng.normal(size=(40_000, 8)) - sd**2 / 2).mean(1))
    assert logs.var() == pytest.approx(np.log(1 + 1 / 8), rel=0.1)
    assert logs.mean() == pytest.approx(-np.log(1 + 1 / 8) / 2, rel=0.1)


def test_shrinkage_pulls_noise_in_and_leaves_signal() -> None:
    def errors(between: float) -> tuple[float, float]:
        values, cluster, truth = log_normal(0, 8, 200, between=between)
        e = cluster_estimates(values, cluster, 200, seed=0, draws=0)
        return float(np.var(np.log(e.shrunk) - truth)), float(np.var(np.log(e.mean) - truth))

    shrunk, plain = errors(0.1)
    assert shrunk < 0.4 * plain
    shrunk, plain = errors(1.0)
    assert shrunk < plain


def test_the_posterior_sd_is_the_error_that_is_made() -> None:
    z = []
    for seed in range(20):
        values, cluster, truth = log_normal(seed, 8, 64)
        e = cluster_estimates(values, cluster, 64, seed=0, draws=0)
        z.append((np.log(e.shrunk) - truth) / e.shrunk_log_sd)
    assert np.std(z) == pytest.approx(1, abs=0.1)


def test_a_cluster_without_probe_stands_at_the_centre_with_the_spread() -> None:
    values, cluster, _ = log_normal(1, 8, 10)
    e = cluster_estimates(values, cluster, 11, seed=0)
    assert e.shrunk[10] == pytest.approx(np.exp(e.centre[10]))
    assert e.shrunk_log_sd[10] > e.shrunk_log_sd[:10].max()
    assert np.isnan(e.log_mean[10])


@pytest.mark.parametrize(
    ("values", "cluster", "k"),
    [
        ([1.3], [0], 1),
        ([1.0, 2.0, 3.0], [0, 0, 0], 1),
        ([2.0] * 6, [0, 0, 1, 1, 2, 2], 3),
        ([1.0, 2.0, 3.0], [0, 1, 2], 4),
        ([0.0] * 4, [0, 0, 1, 1], 2),
        ([0.0, 0.0, 1.0, 2.0], [0, 0, 1, 1], 2),
        ([0.0, 5.0, 1.0], [0, 1, 2], 3),
    ],
)
def test_degenerate_probes_give_finite_estimates(values: list[float], cluster: list[int], k: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = cluster_estimates(np.array(values), np.array(cluster), k, seed=0)
    assert np.isfinite(e.shrunk).all()
    assert (e.shrunk > 0).all()
    assert np.isfinite(e.shrunk_log_sd).all()
    assert np.isfinite(e.low[e.n > 1]).all()


def test_equal_probes_are_certain() -> None:
    e = cluster_estimates(np.full(6, 2.0), np.repeat([0, 1], 3), 2, seed=0)
    np.testing.assert_allclose([e.shrunk, e.low, e.high], 2.0, rtol=1e-5)


def test_one_probe_each_borrows_an_assumed_noise() -> None:
    e = cluster_estimates(np.array([1.0, 2.0, 3.0]), np.arange(3), 3, seed=0)
    np.testing.assert_allclose(e.text_log_var, ASSUMED_SD**2)
    assert 1 < e.shrunk[0] < e.shrunk[1] < e.shrunk[2] < 3


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_no_probe_and_no_number_are_errors(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        cluster_estimates(np.array(values), np.zeros(len(values), dtype=int), 1, seed=0)


@example((np.array([0.0, 1e-9]), np.array([0, 0]), 1))  # the upper end of its interval was infinite
@given(probes())
def test_shrunk_lies_between_the_clusters_own_and_the_centre(given_probes: Probes) -> None:
    values, cluster, k = given_probes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = cluster_estimates(values, cluster, k, seed=0, draws=20)
    has = e.n > 0
    own, centre, shrunk = e.log_mean[has], e.centre[has], np.log(e.shrunk[has])
    assert (shrunk >= np.minimum(own, centre) - 1e-9).all()
    assert (shrunk <= np.maximum(own, centre) + 1e-9).all()
    assert np.isfinite(e.shrunk).all()
    assert (e.low[e.n > 1] <= e.high[e.n > 1]).all()


@given(probes(), st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(given_probes: Probes, random: object) -> None:
    values, cluster, k = given_probes
    order = np.array(random.sample(range(len(values)), len(values)))  # type: ignore[attr-defined]
    name = np.array(random.sample(range(k), k))  # type: ignore[attr-defined]
    e = cluster_estimates(values, cluster, k, seed=0, draws=20)
    other = cluster_estimates(values[order], name[cluster[order]], k, seed=0, draws=20)
    for field in ("n", "mean", "se", "shrunk", "shrunk_log_sd", "low", "high"):
        np.testing.assert_allclose(getattr(other, field)[name], getattr(e, field), rtol=1e-6, atol=1e-9, err_msg=field)


@given(st.floats(0.05, 20), st.floats(0.05, 20), st.floats(0.1, 10))
def test_more_probes_never_raise_the_posterior_sd(low: float, high: float, other: float) -> None:
    sizes = [2, 4, 8, 16, 32]
    values = [v for n in sizes for v in [low, high] * (n // 2)] + [other, 2 * other]
    cluster = [c for c, n in enumerate(sizes) for _ in range(n)] + [5, 5]
    e = cluster_estimates(np.array(values), np.array(cluster), 6, seed=0, draws=0)
    assert (np.diff(e.shrunk_log_sd[:5]) <= 1e-12).all()


@given(st.floats(1e-3, 1e3))
def test_a_unit_is_a_unit(scale: float) -> None:
    values, cluster, _ = log_normal(5, 4, 6)
    e, scaled = (cluster_estimates(v, cluster, 6, seed=0, draws=20) for v in (values, scale * values))
    for field in ("mean", "se", "low", "high", "shrunk"):
        np.testing.assert_allclose(getattr(scaled, field), scale * getattr(e, field), rtol=1e-6)
    np.testing.assert_allclose(scaled.shrunk_log_sd, e.shrunk_log_sd, rtol=1e-6)


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("within", [0.51, 0.83])
def test_the_interval_covers_what_it_says(n: int, within: float) -> None:
    covered = []
    for seed in range(20):
        values, cluster, truth = log_normal(seed, n, 32, within=within)
        e = cluster_estimates(values, cluster, 32, seed, draws=500)
        covered.append((e.low <= np.exp(truth)) & (np.exp(truth) <= e.high))
    assert 0.925 < np.mean(covered) < 0.975  # 640 intervals: ± 0.009


def test_the_interval_is_the_seeds() -> None:
    values, cluster, _ = log_normal(0, 8, 5)
    e, again, other = (cluster_estimates(values, cluster, 5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(e.low, again.low)
    assert (e.low != other.low).any()
    assert ((e.low < e.mean) & (e.mean < e.high)).all()


def test_adjusting_is_exact_where_x_explains_all() -> None:
    rng = np.random.default_rng(0)
    pool_x, pool_cluster = rng.normal(size=60), np.repeat(np.arange(3), 20)
    d = np.array([1.0, 2.0, 0.5])[pool_cluster] * np.exp(-0.5 * pool_x)
    rows = np.array([0, 1, 2, 20, 25, 41, 42, 43])
    found = adjusted(d[rows], pool_cluster[rows], pool_x[rows], pool_x, pool_cluster)
    expected = np.array([d[pool_cluster == c].mean() for c in range(3)])
    np.testing.assert_allclose(found, expected[pool_cluster[rows]])


def test_adjusting_takes_out_what_x_explains_and_keeps_the_mean() -> None:
    rng = np.random.default_rng(1)
    k, size, n = 200, 50, 8
    x = rng.normal(size=(k, size))
    d = np.exp(-0.4 * x + 0.3 * rng.normal(size=(k, size)))
    truth = d.mean(1)
    found = adjusted(d[:, :n].ravel(), np.repeat(np.arange(k), n), x[:, :n].ravel(), x.ravel(), np.repeat(np.arange(k), size))
    plain, better = d[:, :n].mean(1) - truth, found.reshape(k, n).mean(1) - truth
    assert np.std(better) < 0.75 * np.std(plain)
    assert abs(better.mean()) < 0.03


def test_adjusting_for_nothing_changes_nothing() -> None:
    values, cluster, _ = log_normal(0, 4, 3)
    np.testing.assert_allclose(adjusted(values, cluster, np.ones(12), np.ones(30), np.repeat([0, 1, 2], 10)), values)


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


def test_clusters_that_are_not_allowed_get_nothing() -> None:
    p_web, d = np.array([0.5, 0.5, 0.0]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(target_distribution(p_web, d, 1.0, np.array([True, False, True])), [1, 0, 0])
    everything = [1 / 3, 2 / 3, 0]
    np.testing.assert_allclose(target_distribution(p_web, d, 1.0, np.array([False, False, False])), everything)
    np.testing.assert_allclose(target_distribution(p_web, d, 1.0, np.array([False, False, True])), everything)


def test_effective_number() -> None:
    assert effective_number(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_number(np.array([0.5, 0.5, 0.0])) == pytest.approx(2)


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=20), st.integers(0, 100), st.floats(0, 1))
def test_gamma_for_hits_its_target(d: list[float], seed: int, share: float) -> None:
    p_web = np.random.default_rng(seed).dirichlet(np.full(len(d), 5.0))
    divergence = np.array(d)
    start = effective_number(p_web)
    target = 1 + share * (start - 1)
    gamma = gamma_for(p_web, divergence, target)
    reached = effective_number(target_distribution(p_web, divergence, gamma))
    if 0 < gamma < MAX_GAMMA:
        assert reached == pytest.approx(target, rel=1e-6)
        below = [effective_number(target_distribution(p_web, divergence, g)) for g in np.arange(0, gamma, 0.05)]
        assert min(below, default=np.inf) >= target * (1 - 1e-9)
    else:
        assert target >= start if gamma == 0 else reached > target * (1 - 1e-6)


def test_gamma_for_at_its_ends() -> None:
    p_web = np.array([0.25, 0.25, 0.5])
    assert gamma_for(p_web, np.array([1.0, 2.0, 3.0]), 3.0) == 0
    assert gamma_for(p_web, np.full(3, 2.0), 2.0) == MAX_GAMMA
    only = np.array([True, True, False])
    gamma = gamma_for(p_web, np.array([1.0, 2.0, 3.0]), 1.5, only)
    assert effective_number(target_distribution(p_web, np.array([1.0, 2.0, 3.0]), gamma, only)) == pytest.approx(1.5)


def test_expected_error_is_0_for_what_is_known_and_grows_with_what_is_not() -> None:
    rng = np.random.default_rng(0)
    p_web, d, all_ = rng.dirichlet(np.ones(12)), rng.uniform(1, 2, 12), np.ones(12, bool)
    found = [expected_error(p_web, d, np.full(12, sd), 5.0, all_, seed=1) for sd in (0.0, 0.05, 0.1, 0.2)]
    assert found[0] == 0
    assert found == sorted(found)
    assert expected_error(p_web, d, np.full(12, 0.2), 0.0, all_, seed=1) == 0, "γ = 0 does not ask"
    ideal = target_distribution(p_web, d, 5.0)
    drawn = [target_distribution(p_web, d * np.exp(0.1 * rng.normal(size=12)), 5.0) for _ in range(4000)]
    assert found[2] == pytest.approx(np.mean([np.abs(p - ideal).sum() / 2 for p in drawn]), rel=0.05)
    only = np.arange(12) == 3
    assert expected_error(p_web, d, np.full(12, 0.2), 5.0, only, seed=1) == 0, "one cluster gets all of it"


def state(shrunk: np.ndarray, sd: np.ndarray, text_var: np.ndarray) -> Estimates:
    """Estimates of which only what `allocate` reads is set."""
    rest = {f: np.zeros(len(sd)) for f in ("n", "mean", "se", "low", "high", "log_mean", "centre")}
    return Estimates(**rest, shrunk=shrunk, shrunk_log_sd=sd, text_log_var=text_var)


@st.composite
def allocations(draw: st.DrawFn) -> tuple[Estimates, np.ndarray, np.ndarray, np.ndarray, float]:
    k = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    e = state(rng.uniform(0.5, 3, k), rng.uniform(0.01, 0.4, k), rng.uniform(0.05, 1.5, k))
    return e, rng.dirichlet(np.ones(k)), rng.uniform(1, 8, k), rng.integers(0, 12, k), draw(st.floats(0, 120))


def allocated(e: Estimates, *given: object) -> np.ndarray:
    return allocate(e.shrunk, e.shrunk_log_sd, e.text_log_var, *given)  # type: ignore[arg-type]


@given(allocations(), st.floats(0.5, 10))
def test_allocation_is_the_plain_greedy_one(given_state: tuple, gamma: float) -> None:
    e, p_web, seconds, available, budget = given_state
    extra = allocated(e, p_web, gamma, seconds, available, budget)
    assert (extra >= 0).all()
    assert (extra <= available).all()
    assert extra @ seconds <= budget + 1e-9

    p = p_web * e.shrunk**gamma * np.exp((gamma * e.shrunk_log_sd) ** 2 / 2)
    p /= p.sum()

    def error(more: np.ndarray) -> np.ndarray:
        return gamma * p / 2 / np.sqrt(1 / e.shrunk_log_sd**2 + more / e.text_log_var)

    expected, left = np.zeros(len(p), dtype=int), budget
    while (fits := (expected < available) & (seconds <= left)).any():
        c = int(np.where(fits, (error(expected) - error(expected + 1)) / seconds, -1).argmax())
        expected[c] += 1
        left -= seconds[c]
    assert error(extra).sum() == pytest.approx(error(expected).sum(), rel=1e-6)


@given(allocations(), st.randoms(use_true_random=False))
def test_allocation_does_not_know_names(given_state: tuple, random: object) -> None:
    e, p_web, seconds, available, budget = given_state
    order = np.array(random.sample(range(len(p_web)), len(p_web)))  # type: ignore[attr-defined]
    there = state(e.shrunk[order], e.shrunk_log_sd[order], e.text_log_var[order])
    extra = allocated(e, p_web, 5.0, seconds, available, budget)
    np.testing.assert_array_equal(allocated(there, p_web[order], 5.0, seconds[order], available[order], budget), extra[order])


def test_probes_go_where_they_tell_most() -> None:
    same, half = np.full(2, 1.0), np.full(2, 0.5)
    sd, text_var, price, plenty = np.full(2, 0.2), np.full(2, 0.3), np.full(2, 4.0), np.full(2, 100)

    def shares(**changed: np.ndarray) -> np.ndarray:
        given_state = {"shrunk": same, "sd": sd, "text_var": text_var, "seconds": price} | changed
        seconds = given_state.pop("seconds")
        return allocated(state(**given_state), half, 5.0, seconds, plenty, 200.0)

    assert shares().tolist() == [25, 25]
    for name, values in {"shrunk": [1.0, 2.0], "sd": [0.1, 0.2], "text_var": [0.1, 0.3], "seconds": [4.0, 2.0]}.items():
        first, second = shares(**{name: np.array(values)})
        assert first < second, name


def test_what_p_target_does_not_need_is_not_probed() -> None:
    e = state(np.ones(2), np.full(2, 0.2), np.full(2, 0.3))
    for p_web, gamma, expected in (([0.5, 0.5], 5.0, [9, 9]), ([0.5, 0.5], 0.0, [0, 0]), ([0.0, 1.0], 5.0, [0, 9])):
        assert allocated(e, np.array(p_web), gamma, np.ones(2), np.full(2, 9), 100.0).tolist() == expected


def test_adaptive_probes_and_shrinkage_beat_equal_and_plain() -> None:
    """The promise of bench/probe_allocation.py, small: same seconds, P_target nearer to the truth."""
    gamma, k, ratios = 5.0, 64, []
    p_web = np.full(k, 1 / k)
    for seed in range(8):
        values, _, truth = log_normal(seed, 200, k, within=0.8, between=0.35)
        texts = values.reshape(k, 200)
        ideal = target_distribution(p_web, np.exp(truth), gamma)
        n = np.full(k, 4)
        for _ in range(2):
            e = cluster_estimates(texts[np.arange(200) < n[:, None]], np.repeat(np.arange(k), n), k, seed=0, draws=0)
            n = n + allocated(e, p_web, gamma, np.ones(k), 200 - n, 2.0 * k)
        assert n.sum() == 8 * k
        e = cluster_estimates(texts[np.arange(200) < n[:, None]], np.repeat(np.arange(k), n), k, seed=0, draws=0)
        found, plain = (target_distribution(p_web, d, gamma) for d in (e.shrunk, texts[:, :8].mean(1)))
        ratios.append(np.abs(found - ideal).sum() / np.abs(plain - ideal).sum())
    assert np.mean(ratios) < 0.7
