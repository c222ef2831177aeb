"""What each built-in strategy promises of its own; the contract that all keep is `test_contract.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from salad.errors import SaladError
from salad.selectors.bandit import yields
from salad.selectors.base import SELECTORS, Budget, PastRound, PoolView, Selection, make_selector
from salad.selectors.choose import choose
from salad.selectors.testing import example_pool, reorder

K = 6


def chosen_by(name: str, pool: PoolView, seconds: float, seed: int = 0, **options: object) -> Selection:
    return choose(make_selector(name, options), pool, Budget(seconds), np.random.default_rng(seed))


def test_a_strategy_that_draws_depends_on_the_seed() -> None:
    pool = example_pool()
    deterministic = {"uncertainty", "kcenter", "facility-location"}  # the pool has texts trained on to start from
    for name in SELECTORS:
        first, other = (set(chosen_by(name, pool, 300.0, seed).indices.tolist()) for seed in (1, 2))
        assert (first == other) == (name in deterministic), name


@pytest.mark.parametrize("name", [n for n in SELECTORS if n != "crisp"])
def test_the_budget_is_used_up(name: str) -> None:
    pool = example_pool()
    for seconds in (30.0, 300.0, 1_000.0):
        chosen = chosen_by(name, pool, seconds)
        spent = float(pool.est_seconds[chosen.indices].sum())
        left = ~pool.taken
        left[chosen.indices] = False
        assert spent > seconds - max(2.0, float(pool.est_seconds[left].min())), "a text that fits was left"
    assert len(chosen_by(name, pool, 5_000.0).indices) == len(pool.free), "a budget above the pool takes all of it"


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of a chi-square test."""
    from scipy.stats import chisquare

    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize(("name", "distribution"), [("uniform", "p_web"), ("importance", "p_target")])
def test_clusters_are_drawn_with_their_probabilities(name: str, distribution: str) -> None:
    pool = example_pool(60_000, seconds=(5, 5), taken=0)
    first = np.concatenate([chosen_by(name, pool, 500.0, seed).indices for seed in range(20)])
    counts = np.bincount(pool.cluster[first], minlength=K)
    assert chi_square(counts, getattr(pool.clusters, distribution)) > 1e-3
    wrong = pool.clusters.p_target if distribution == "p_web" else pool.clusters.p_web
    assert chi_square(counts, wrong) < 1e-6, "the test could not tell the two apart"


def test_importance_diverse_keeps_the_quotas_and_spreads_out() -> None:
    pool = example_pool(6_000, seconds=(4, 4))
    diverse = chosen_by("importance-diverse", pool, 800.0).indices
    plain = chosen_by("importance", pool, 800.0).indices
    share = np.bincount(pool.cluster[diverse], minlength=K) / len(diverse)
    np.testing.assert_allclose(share, pool.clusters.p_target, atol=0.02)

    def uncovered(chosen: np.ndarray) -> float:
        """Mean distance of the free texts of a fed cluster to the nearest chosen one."""
        c = K - 1
        members = np.flatnonzero((pool.cluster == c) & ~pool.taken)
        mine = chosen[pool.cluster[chosen] == c]
        x = pool.embeddings.astype(np.float32)
        return float(np.linalg.norm(x[members][:, None] - x[mine][None], axis=2).min(1).mean())

    assert uncovered(diverse) < uncovered(plain)


def test_an_exhausted_cluster_gives_its_share_to_the_others() -> None:
    pool = example_pool(600, seconds=(4, 4))
    share = np.array([1 - 1e-6, 1e-6, 0, 0, 0, 0])
    pool = replace(pool, clusters=replace(pool.clusters, p_target=share), history=())
    only = int(((pool.cluster == 0) & ~pool.taken).sum())
    for name in ("importance", "importance-diverse", "bandit"):
        chosen = chosen_by(name, pool, 4.0 * (only + 10)).indices
        assert np.bincount(pool.cluster[chosen], minlength=K).tolist() == [only, 10, 0, 0, 0, 0]


def test_proportional_is_the_pool_in_small() -> None:
    pool = example_pool(6_000, seconds=(4, 4), taken=0)
    chosen = chosen_by("proportional", pool, 1_200.0).indices
    seconds = np.bincount(pool.cluster[chosen], minlength=K) * 4.0
    assert np.abs(seconds - 1_200 * pool.clusters.p_web).max() <= 8.0


def test_uncertainty_takes_the_highest_and_breaks_ties_by_seed() -> None:
    pool = example_pool(500, seconds=(4, 4))
    chosen = chosen_by("uncertainty", pool, 80.0).indices
    left = np.setdiff1d(pool.free, chosen)
    assert len(chosen) == 20
    assert pool.content_divergence[chosen].min() >= pool.content_divergence[left].max()
    even = replace(pool, content_divergence=np.ones(500, np.float32))
    sets = [set(chosen_by("uncertainty", even, 80.0, seed).indices.tolist()) for seed in range(3)]
    assert len(sets[0] | sets[1] | sets[2]) > 40, "equal texts are drawn, not taken by row"


def test_crisp_resamples_the_pool_to_look_like_the_target() -> None:
    pool = example_pool(30_000, seconds=(4, 4), taken=0)
    target = np.concatenate([np.repeat(pool.clusters.centroids[[1]], 30, 0), np.repeat(pool.clusters.centroids[[4]], 10, 0)])
    pool = replace(pool, target=target)
    counts = np.bincount(pool.cluster[chosen_by("crisp", pool, 4_000.0).indices], minlength=K)
    assert counts.sum() == counts[1] + counts[4]
    assert abs(counts[1] / counts.sum() - 0.75) < 0.05
    half = np.bincount(pool.cluster[chosen_by("crisp", pool, 4_000.0, generic=0.5).indices], minlength=K)
    np.testing.assert_allclose(half / half.sum(), 0.5 * np.array([0, 0.75, 0, 0, 0.25, 0]) + 0.5 * pool.clusters.p_web, atol=0.05)
    with pytest.raises(SaladError, match="name texts to become good at"):
        chosen_by("crisp", replace(pool, target=None), 100.0)


def test_bandit_turns_away_from_what_was_fed_and_did_not_improve() -> None:
    p_web = np.full(K, 1 / K)
    seconds = np.array([400.0, 400.0, 100.0, 50.0, 25.0, 25.0])
    fall = 0.05 + 0.1 * seconds / seconds.sum() / p_web
    stuck = fall.copy()
    stuck[0] = 0.05  # as much as what was not fed
    mean, sd = yields([PastRound(seconds, -stuck, np.full(K, 0.01))], p_web, spread=0.5)
    assert mean[0] < 0.6
    assert mean[1] > 1.1
    assert sd[0] < 0.2 < 0.4 < sd[5], "a cluster that was hardly fed tells little"
    vague, _ = yields([PastRound(seconds, -stuck, np.full(K, 1.0))], p_web, spread=0.5)
    assert np.abs(vague - 1).max() < 0.05, "errors as large as that say nothing"

    pool = example_pool(6_000, seconds=(4, 4))
    table = replace(pool.clusters, p_web=p_web, p_target=p_web)
    pool = replace(pool, clusters=table, history=[PastRound(seconds, -stuck, np.full(K, 0.01))])
    for rule in ("thompson", "ucb", "mean"):
        counts = np.bincount(pool.cluster[chosen_by("bandit", pool, 1_200.0, rule=rule).indices], minlength=K)
        assert counts[0] < 0.7 * counts[1], rule


def test_bandit_learns_nothing_from_a_round_that_helped_nowhere_more_than_elsewhere() -> None:
    p_web = np.full(K, 1 / K)
    seconds = np.arange(1.0, K + 1)
    for change in (np.full(K, -0.1), seconds / 100):
        mean, _ = yields([PastRound(seconds, change, np.full(K, 0.01))], p_web, spread=0.5)
        np.testing.assert_allclose(mean, 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bandit", {"rule": "greedy"}, "unknown rule 'greedy'"),
        ("bandit", {"spread": 0}, "spread is 0"),
        ("bandit", {"spraed": 1}, "has no option 'spraed'; did you mean 'spread'"),
        ("crisp", {"generic": 2}, "generic is 2"),
        ("uniform", {"x": 1}, "has no option 'x'.*it has none"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(SaladError, match=said):
        make_selector(name, options)


def test_reordering_keeps_what_belongs_together() -> None:
    pool = example_pool(50)
    order = np.random.default_rng(0).permutation(50)
    mixed = reorder(pool, order)
    assert mixed.ids[3] == pool.ids[order[3]]
    assert mixed.keys[3] == pool.keys[order[3]]
    first, again = mixed.uniform(np.random.default_rng(5)), pool.uniform(np.random.default_rng(5))
    np.testing.assert_array_equal(first, again[order])
