"""What is done around every strategy: near repeats, the checks, and what is near a text that measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.choose import check_selection, choose, near_any
from salad.selectors.testing import example_pool
from salad.selectors.uniform import Uniform


def with_repeats(n: int, copies: int, seed: int = 0) -> PoolView:
    """n texts, each standing there `copies` times, the vectors a little apart."""
    pool = example_pool(n * copies, taken=0, seconds=(4, 4), seed=seed)
    rng = np.random.default_rng(seed)
    x = np.repeat(np.asarray(pool.embeddings[:n], np.float64), copies, axis=0) + 0.01 * rng.normal(size=(n * copies, 16))
    return replace(pool, embeddings=(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 20))
def test_of_near_texts_only_so_many_are_chosen_and_the_budget_is_used(repeats: int, copies: int, seed: int) -> None:
    pool = with_repeats(100, copies, seed)
    chosen = choose(Uniform(), pool, Budget(160.0), np.random.default_rng(seed), near=0.99, repeats=repeats).indices
    x = pool.embeddings[chosen].astype(np.float32)
    earlier_near = np.tril(x @ x.T >= 0.99, -1).sum(1)
    assert len(chosen) == 40
    assert earlier_near.max() < repeats


def test_near_texts_that_were_trained_on_count() -> None:
    pool = with_repeats(50, 4)
    heard = np.zeros(200, bool)
    heard[::4] = np.arange(50) < 40
    pool = replace(pool, taken=heard, trained=heard)
    chosen = choose(Uniform(), pool, Budget(1e4), np.random.default_rng(0), near=0.99).indices
    assert sorted((chosen // 4).tolist()) == list(range(40, 50))
    assert len(choose(Uniform(), pool, Budget(1e4), np.random.default_rng(0)).indices) == 160, "without `near` no two are one"


def test_the_pool_that_was_given_stays_as_it_was() -> None:
    pool = with_repeats(30, 3)
    choose(Uniform(), pool, Budget(100.0), np.random.default_rng(0), near=0.99)
    assert not pool.taken.any()
    assert not pool.trained.any()


def test_near_any_finds_what_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    others = x[:2500:7]
    expected = (x @ others.T >= 0.9).any(1)
    np.testing.assert_array_equal(near_any(x.astype(np.float32), others.astype(np.float32), 0.9), expected)
    assert 43 < expected.sum() < 300
    assert not near_any(x, x[:0], 0.9).any()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (Selection(np.array([1, 1]), np.ones(2), ["a", "b"]), "twice, again in row 1"),
        (Selection(np.array([1, 999]), np.ones(2), ["a", "b"]), "index 999 in row 1"),
        (Selection(np.array([-1]), np.ones(1), ["a"]), "index -1 in row 0"),
        (Selection(np.array([0]), np.ones(1), ["a"]), "already taken"),
        (Selection(np.array([1]), np.array([np.nan]), ["a"]), "probability nan in row 0"),
        (Selection(np.array([1]), np.array([1.5]), ["a"]), "probability 1.5 in row 0"),
        (Selection(np.array([1, 2]), np.ones(2), ["a", ""]), "no reason in row 1"),
        (Selection(np.array([1, 2, 3]), np.ones(3), ["a", "b", "c"]), "overspends in row 2"),
        (Selection(np.array([1]), np.ones(2), ["a"]), "2 probabilities"),
        (Selection(np.array([1.5]), np.ones(1), ["a"]), "integer"),
    ],
)
def test_a_broken_choice_is_stopped(chosen: Selection, said: str) -> None:
    pool = example_pool(10, seconds=(4, 4))
    pool.taken[:] = [True] + [False] * 9
    with pytest.raises(SaladError, match=said):
        check_selection(chosen, pool, Budget(8.5), "mine")


class Mistaken(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return [][0]


class Silent(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Mistaken, r"'uniform' failed at .*test_choose\.py, line \d+ .IndexError: list index out of range"),
        (Silent, "'uniform' returned NoneType, not a Selection"),
    ],
)
def test_a_mistake_in_a_plugin_is_one_line(broken: type[Uniform], said: str) -> None:
    with pytest.raises(SaladError, match=said):
        choose(broken(), example_pool(10), Budget(10.0), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cluster": np.full(10, 99, np.int32)}, "a cluster number is outside 0..5"),
        ({"taken": np.zeros(3, bool)}, r"taken has shape \(3,\), not \(10,\)"),
        ({"est_seconds": np.zeros(10)}, "est_seconds of text text-0 is 0.0"),
        ({"predicted_se": np.full(10, np.inf)}, "predicted_se of text text-0 is inf"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(SaladError, match=said):
        choose(Uniform(), replace(example_pool(10), **change), Budget(10.0), np.random.default_rng(0))
