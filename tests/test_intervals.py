"""Bootstrap intervals: by seed, of the right width, and honest where they cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from salad.intervals import Interval, difference_interval, mean_interval


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).gamma(2, size=50)
    assert mean_interval(values, 500, 1) == mean_interval(values, 500, 1)
    assert mean_interval(values, 500, 1) != mean_interval(values, 500, 2)


def test_it_is_as_wide_as_the_normal_one_where_that_is_right() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = mean_interval(values, 2000, 0)
    assert found is not None
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert found.high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)


def test_it_leans_to_the_long_side_of_a_skewed_sample() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 60)
    found = mean_interval(values, 2000, 0)
    assert found is not None
    assert found.high - values.mean() > 1.1 * (values.mean() - found.low)


def test_coverage_of_a_share() -> None:
    """Of 200 samples of 40 items at accuracy 0.7, about 95 % of the intervals hold 0.7."""
    rng = np.random.default_rng(0)
    held = 0
    for i in range(200):
        found = mean_interval(rng.random(40) < 0.7, 300, i)
        assert found is not None
        held += found.low <= 0.7 <= found.high
    assert 0.89 <= held / 200 <= 0.99


def test_nothing_to_go_by() -> None:
    assert mean_interval(np.array([]), 100, 0) is None
    assert mean_interval(np.array([1.0]), 100, 0) is None
    assert mean_interval(np.ones(9), 100, 0) == Interval(1.0, 1.0)


@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e6, 1e6)), st.integers(0, 99))
@example(np.array([np.nextafter(2e5 / 3, 1e9), 2e5 / 3, 2e5 / 3]), 0)  # their means round beyond them
def test_it_is_finite_and_within_the_values(values: np.ndarray, seed: int) -> None:
    found = mean_interval(values, 100, seed)
    assert found is not None
    assert values.min() <= found.low <= found.high <= values.max()


def test_two_samples_that_nothing_pairs_are_as_uncertain_as_both_together() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(3, 1, 300), rng.normal(2, 2, 400)
    found = difference_interval(one, other, 2000, 0)
    assert found is not None
    width = 1.96 * (one.var() / 300 + other.var() / 400) ** 0.5
    middle = one.mean() - other.mean()
    assert (found.low, found.high) == (pytest.approx(middle - width, abs=0.03), pytest.approx(middle + width, abs=0.03))
    assert found == difference_interval(one, other, 2000, 0)


def test_two_samples_of_which_one_cannot_say_anything() -> None:
    assert difference_interval(np.ones(1), np.arange(5.0), 100, 0) is None
    assert difference_interval(np.full(3, 2.5), np.full(4, 1.0), 100, 0) == Interval(1.5, 1.5)
