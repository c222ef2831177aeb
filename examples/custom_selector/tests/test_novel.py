"""`pytest` in this folder: the contract that every strategy keeps, and what this one promises of its own."""

from __future__ import annotations

import numpy as np
from salad_novel import Novel

from salad.selectors.base import Budget
from salad.selectors.testing import check_selector, example_pool


def test_contract() -> None:
    check_selector(Novel)


def test_it_goes_away_from_what_was_heard() -> None:
    pool = example_pool(2_000)
    centre = np.asarray(pool.embeddings[pool.trained], np.float32).mean(axis=0)

    def mean_distance(power: float) -> float:
        chosen = Novel(power).select(pool, Budget(500.0), np.random.default_rng(0)).indices
        return float(np.linalg.norm(np.asarray(pool.embeddings[chosen], np.float32) - centre, axis=1).mean())

    assert mean_distance(power=16.0) > mean_distance(power=0.0) + 0.02
