"""Every built-in strategy keeps the contract, and the suite notices those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from salad.selectors.base import SELECTORS, Budget, PoolView, Selection, make_selector
from salad.selectors.testing import CHECKS, check_selector
from salad.selectors.uniform import Uniform


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(name: str, check: str) -> None:
    CHECKS[check](lambda: make_selector(name))


class Spoilt(Uniform):
    """`uniform`, whose choice is spoilt by a function."""

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return self.spoil(pool, super().select(pool, budget, rng), rng)

    def spoil(self, pool: PoolView, chosen: Selection, rng: np.random.Generator) -> Selection:
        return chosen


class Overspends(Spoilt):
    def spoil(self, pool: PoolView, chosen: Selection, rng: np.random.Generator) -> Selection:
        free = pool.free
        return Selection(free, np.full(len(free), 0.5), ["mine"] * len(free))


class Repeats(Spoilt):
    def spoil(self, pool: PoolView, chosen: Selection, rng: np.random.Generator) -> Selection:
        shortest = pool.free[[pool.est_seconds[pool.free].argmin()] * 2]
        return Selection(shortest[: min(2, len(chosen.indices))], np.ones(2)[: len(chosen.indices)], ["mine"] * 2)


class TakesWhatIsTaken(Spoilt):
    def spoil(self, pool: PoolView, chosen: Selection, rng: np.random.Generator) -> Selection:
        away = np.flatnonzero(pool.taken)
        best = away[pool.est_seconds[away].argsort()[:1]] if len(chosen.indices) else away[:0]
        return Selection(best, np.ones(len(best)), ["mine"] * len(best))


class Unseeded(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        return super().select(pool, budget, np.random.default_rng())


class ByRow(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        free = pool.free
        n = int(np.searchsorted(np.cumsum(pool.est_seconds[free]), budget.seconds))
        return Selection(free[:n], np.ones(n), ["the first rows"] * n)


class Quadratic(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        x = np.asarray(pool.embeddings, np.float32)
        assert (x @ x.T).shape == (len(x), len(x))
        return super().select(pool, budget, rng)


class Writes(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        pool.est_seconds[:] = 3.0
        return super().select(pool, budget, rng)


class NeedsHistory(Uniform):
    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        assert pool.history[-1].seconds.sum() > 0
        return super().select(pool, budget, rng)


class Speechless(Spoilt):
    def spoil(self, pool: PoolView, chosen: Selection, rng: np.random.Generator) -> Selection:
        return replace(chosen, reasons=[""] * len(chosen.indices))


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Overspends, "spends_no_more_than_the_budget"),
        (Repeats, "spends_no_more_than_the_budget"),
        (TakesWhatIsTaken, "spends_no_more_than_the_budget"),
        (Writes, "leaves_the_pool_as_it_was"),
        (Unseeded, "gives_the_same_for_the_same_seed"),
        (ByRow, "does_not_depend_on_the_order_of_the_pool"),
        (NeedsHistory, "takes_a_first_round"),
        (Speechless, "spends_no_more_than_the_budget"),
        (Quadratic, "keeps_memory_bounded"),
    ],
)
def test_the_suite_finds_what_is_broken(broken: type[Uniform], check: str) -> None:
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_selector(broken)
