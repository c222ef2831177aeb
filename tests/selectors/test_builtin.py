"""What every built-in strategy keeps to, and what each promises of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.selectors.base import SELECTORS, Budget, ClusterTable, PoolView, Selection, check_selection, make_selector, take_within

K = 6


def make_pool(n: int = 600, seed: int = 0, p_target: np.ndarray | None = None, seconds: tuple[float, float] = (2, 8)) -> PoolView:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster = rng.integers(0, K, n).astype(np.int32)
    p_web = np.bincount(cluster, minlength=K) / n
    d = np.linspace(0.5, 2, K)
    target = p_web * d**5 if p_target is None else p_target
    return PoolView(
        ids=np.array([f"t{i}" for i in range(n)]),
        embeddings=vectors.astype(np.float16),
        cluster=cluster,
        predicted_divergence=rng.uniform(0, 2, n).astype(np.float32),
        predicted_se=np.full(n, 0.1, np.float32),
        content_divergence=rng.uniform(0.5, 3.0, n).astype(np.float32),
        est_seconds=rng.uniform(*seconds, n).astype(np.float32),
        taken=rng.random(n) < 0.2,
        clusters=ClusterTable(p_web, target / target.sum(), d, np.full(K, 0.1)),
    )


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("budget", [1.0, 30.0, 300.0, 5_000.0])
def test_contract(name: str, budget: float) -> None:
    pool = make_pool()
    chosen = make_selector(name).select(pool, Budget(budget), np.random.default_rng(1))
    check_selection(chosen, pool, Budget(budget), name)
    again = make_selector(name).select(pool, Budget(budget), np.random.default_rng(1))
    assert chosen.indices.tolist() == again.indices.tolist()
    other = make_selector(name).select(pool, Budget(budget), np.random.default_rng(2))
    if 10 < budget < 1000:
        assert chosen.indices.tolist() != other.indices.tolist()
    supply = float(pool.est_seconds[pool.free].sum())
    spent = float(pool.est_seconds[chosen.indices].sum())
    if 30 <= budget <= supply:
        assert spent >= 0.9 * budget
    if budget > supply:
        assert len(chosen.indices) == len(pool.free), "a budget above the pool takes all of it"


@pytest.mark.parametrize("name", SELECTORS)
def test_nothing_free_gives_nothing(name: str) -> None:
    pool = make_pool(50)
    pool.taken[:] = True
    assert len(make_selector(name).select(pool, Budget(100.0), np.random.default_rng(0)).indices) == 0


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of a chi-square test."""
    from scipy.stats import chisquare

    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize(("name", "distribution"), [("uniform", "p_web"), ("importance", "p_target")])
def test_clusters_are_drawn_with_their_probabilities(name: str, distribution: str) -> None:
    pool = make_pool(60_000, seconds=(5, 5))
    pool.taken[:] = False
    first = np.concatenate([make_selector(name).select(pool, Budget(500.0), np.random.default_rng(s)).indices for s in range(20)])
    counts = np.bincount(pool.cluster[first], minlength=K)
    assert chi_square(counts, getattr(pool.clusters, distribution)) > 1e-3
    wrong = pool.clusters.p_target if distribution == "p_web" else pool.clusters.p_web
    assert chi_square(counts, wrong) < 1e-6, "the test could not tell the two apart"


def test_importance_diverse_keeps_the_quotas_and_spreads_out() -> None:
    pool = make_pool(6_000, seconds=(4, 4))
    diverse = make_selector("importance-diverse").select(pool, Budget(800.0), np.random.default_rng(0)).indices
    plain = make_selector("importance").select(pool, Budget(800.0), np.random.default_rng(0)).indices
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
    target = np.array([0.96, 0.04, 0, 0, 0, 0])
    pool = make_pool(600, p_target=target, seconds=(4, 4))
    only = int(((pool.cluster == 0) & ~pool.taken).sum())
    for name in ("importance", "importance-diverse"):
        chosen = make_selector(name).select(pool, Budget(4.0 * (only + 10)), np.random.default_rng(0)).indices
        assert np.bincount(pool.cluster[chosen], minlength=K).tolist() == [only, 10, 0, 0, 0, 0]


@given(st.lists(st.floats(0.1, 20), max_size=40), st.floats(0, 200))
def test_take_within_never_exceeds_and_leaves_no_room(costs: list[float], budget: float) -> None:
    est = np.array(costs, dtype=np.float32)
    order = np.arange(len(est))
    taken = take_within(order, est, budget)
    spent = est[taken].astype(np.float64).sum()
    assert spent <= budget + 1e-6
    left = np.setdiff1d(order, taken)
    assert all(est[i] > budget - spent - 1e-6 for i in left)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (Selection(np.array([1, 1]), np.ones(2), ["", ""]), "twice, again in row 1"),
        (Selection(np.array([1, 999]), np.ones(2), ["", ""]), "index 999 in row 1"),
        (Selection(np.array([-1]), np.ones(1), [""]), "index -1 in row 0"),
        (Selection(np.array([0]), np.ones(1), [""]), "already taken"),
        (Selection(np.array([1]), np.array([np.nan]), [""]), "probability nan in row 0"),
        (Selection(np.array([1, 2, 3]), np.ones(3), ["", "", ""]), "overspends in row 2"),
        (Selection(np.array([1]), np.ones(2), [""]), "2 probabilities"),
        (Selection(np.array([1.5]), np.ones(1), [""]), "integer"),
    ],
)
def test_a_broken_selector_is_stopped(chosen: Selection, said: str) -> None:
    pool = make_pool(10, seconds=(4, 4))
    pool.taken[:] = [True] + [False] * 9
    with pytest.raises(SaladError, match=said):
        check_selection(chosen, pool, Budget(8.5), "mine")


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(SaladError, match="unknown selector 'importence'; did you mean 'importance'"):
        make_selector("importence")
    with pytest.raises(SaladError, match="no file"):
        make_selector("nowhere.py:Mine")
    (tmp_path / "mine.py").write_text("class Mine:\n    name = 'mine'\n    def select(self, pool, budget, rng): ...\n")
    assert make_selector(f"{tmp_path}/mine.py:Mine").name == "mine"
    with pytest.raises(SaladError, match="cannot be loaded"):
        make_selector(f"{tmp_path}/mine.py:Other")
