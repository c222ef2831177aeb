"""Intervals that hold what they claim, budgets read off curves, laws found again."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from evidence.analysis import by_domains, crossed, power_laws, reaches


@pytest.mark.parametrize(("of_seeds", "of_texts"), [(0.03, 0.3), (0.1, 0.1), (0.0, 0.3)])
def test_an_interval_over_seeds_and_texts_holds_the_truth_as_often_as_it_says(of_seeds: float, of_texts: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        seeds, texts = rng.normal(0, of_seeds, (3, 1)), rng.normal(0, of_texts, (1, 200))
        found = crossed(0.7 + seeds + texts + rng.normal(0, 0.2, (3, 200)))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7 <= found.high
    assert 0.92 <= held / 2000 <= 1.0


def test_seeds_that_disagree_make_no_difference_however_many_texts_there_are() -> None:
    values = np.array([[-0.3], [0.1], [0.05]]) + np.random.default_rng(0).normal(0, 0.01, (3, 5000))
    assert crossed(values).verdict == "no difference"
    assert crossed(values - 3).verdict == "lower"


def test_one_run_has_no_interval() -> None:
    found = crossed(np.zeros((1, 50)))
    assert (found.low, found.high, found.verdict) == (None, None, "one run")


def test_where_nothing_varies_the_interval_is_a_point() -> None:
    assert crossed(np.full((3, 50), 0.5)) == (0.5, 0.5, 0.5)
    assert crossed(np.zeros((3, 50))).verdict == "no difference"


def test_domains_weigh_what_they_are_given() -> None:
    domain = np.array(["a"] * 10 + ["b"] * 2)
    values = np.where(domain == "a", 1.0, 4.0)[None]
    assert by_domains(values, domain, {"a": 0.5, "b": 0.5}).mean() == pytest.approx(2.5)
    assert by_domains(values, domain, {"a": 0.8, "b": 0.2}).mean() == pytest.approx(1.6)
    assert by_domains(values, domain, {"a": 0.0, "b": 1.0}).mean() == pytest.approx(4.0)


def test_the_budget_that_comes_to_the_same() -> None:
    budgets = np.array([400.0, 800.0, 1600.0])

    def at(*d: float, target: float) -> float:
        return reaches(budgets, np.array(d)[:, None, None] - np.full((3, 3, 50), target)).mean

    assert at(1.5, 1.4, 1.3, target=1.35) == pytest.approx(800 * 2**0.5, rel=0.01)
    assert at(1.5, 1.4, 1.3, target=1.6) == 400
    assert at(1.5, 1.4, 1.3, target=1.2) == inf
    assert at(1.5, 1.2, 1.3, target=1.3) == pytest.approx(400 * 2 ** (2 / 3), rel=0.01)


def test_the_interval_of_a_budget_holds_the_truth_as_often_as_it_says() -> None:
    budgets, rng, held = np.array([400.0, 1600.0]), np.random.default_rng(0), 0
    for _ in range(300):
        noise = rng.normal(0, 0.03, (2, 3, 1)) + rng.normal(0, 0.1, (2, 1, 100)) + rng.normal(0, 0.1, (2, 3, 100))
        found = reaches(budgets, np.array([0.2, -0.2])[:, None, None] + noise, 40)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.mean <= found.high
        held += found.low <= 800 <= found.high
    assert 0.92 <= held / 300 <= 1.0


def test_a_power_law_is_found_again() -> None:
    steps = np.array([20, 40, 80, 160, 320.0])
    (found,) = power_laws(steps, 0.5 + 3 * steps[None] ** -0.7)
    assert found == pytest.approx((0.5, 3.0, 0.7), rel=0.02)
    with pytest.raises(ValueError, match="3 points"):
        power_laws(steps[:3], steps[None, :3])


def test_laws_are_the_least_squares_of_scipy_with_nothing_negative() -> None:
    from scipy.optimize import nnls

    steps = np.array([20, 40, 80, 160, 320.0])
    values = np.random.default_rng(0).uniform(0.5, 2, (30, 5))
    rising = np.linspace(1, 2, 5)
    for row, (floor, scale, beta) in zip([*values, rising], power_laws(steps, np.array([*values, rising])), strict=True):
        fits = [nnls(np.stack([np.ones(5), steps**-b], 1), row) for b in np.geomspace(0.01, 3, 400)]
        (expected, least) = min(fits, key=lambda fit: fit[1])
        assert (floor, scale) == pytest.approx(tuple(expected), abs=1e-6)
        assert np.linalg.norm(floor + scale * steps**-beta - row) == pytest.approx(least)
