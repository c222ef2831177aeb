"""Lazy distances: a bound is a bound whatever was asked in whatever order, and exact where exactness was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.selectors import distances
from salad.selectors.distances import Nearest
from salad.selectors.testing import example_pool, reorder

N, K = 40, 4
ROWS_OF = st.lists(st.integers(0, N - 1), max_size=12)  # with repeats
STEPS = st.lists(st.tuples(st.sampled_from(["add", "refresh", "tighten"]), ROWS_OF), max_size=12)


def true_squared(near: Nearest) -> np.ndarray:
    """(n,) float32, by the definition."""
    if not near.centres:
        return np.full(len(near.rows), np.inf, np.float32)
    x = near.embeddings.astype(np.float64)
    gaps = x[near.rows][:, None] - x[near.centres][None]
    return (gaps**2).sum(-1).min(1).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, taken=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 3))
def test_bounds_are_never_below_the_distance_and_exact_when_refreshed(
    steps: list[tuple[str, list[int]]], taken: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "ROWS", 5)  # several blocks each way
        patch.setattr(distances, "CENTRES", 3)
        near = Nearest(example_pool(N, K, 8, seed, taken=taken), np.random.default_rng(seed))
        for what, rows in steps:
            if what == "add":
                near.add(rows)
            else:
                some = np.array(rows, np.int64) % len(near.rows)
                getattr(near, what)(some)
                if what == "refresh":
                    assert np.array_equal(near.bound[some], true_squared(near)[some])
            assert (near.bound >= true_squared(near)).all()
        near.refresh(np.arange(len(near.rows)))
        assert np.array_equal(near.bound, true_squared(near))


def test_every_text_has_a_finite_bound_once_there_is_a_centre() -> None:
    near = Nearest(example_pool(N, K, taken=0.0), np.random.default_rng(0))
    assert np.isinf(near.bound).all()
    near.add([0])
    near.tighten(np.arange(N))
    assert np.isfinite(near.bound).all(), "also in clusters without a centre of their own"


def test_no_distance_is_computed_twice_and_none_below_zero() -> None:
    pool = example_pool(300, K, taken=0.0)
    near, everyone = Nearest(pool, np.random.default_rng(0)), np.arange(300)
    for first in range(0, 60, 20):
        near.add(range(first, first + 20))
        near.refresh(everyone)
        near.refresh(everyone)
    assert near.evaluations <= 300 * 60
    copies = Nearest(replace(pool, embeddings=np.repeat(pool.embeddings[:1], 300, axis=0)), np.random.default_rng(0))
    copies.add([0])
    copies.refresh(everyone)
    spent = copies.evaluations
    copies.add(range(1, 300))
    copies.refresh(everyone)
    assert (copies.bound == 0).all()
    assert copies.evaluations == spent, "a copy of a centre is looked at once"


def test_texts_come_in_an_order_of_ids() -> None:
    pool = example_pool(200)
    mixed = reorder(pool, np.random.default_rng(1).permutation(200))
    one, other = Nearest(pool, np.random.default_rng(3)), Nearest(mixed, np.random.default_rng(3))
    assert pool.ids[one.rows].tolist() == mixed.ids[other.rows].tolist()
    assert pool.ids[one.centres].tolist() == mixed.ids[other.centres].tolist()
    assert np.array_equal(one.bound, other.bound)
    assert set(one.centres) == set(np.flatnonzero(pool.trained))
    assert pool.ids[Nearest(pool, np.random.default_rng(4)).rows].tolist() != pool.ids[one.rows].tolist()
