"""Budgets, draws and quotas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.selectors import tools
from salad.selectors.base import Budget
from salad.selectors.importance_diverse import ImportanceDiverse
from salad.selectors.testing import example_pool
from salad.selectors.tools import first_within, members, quotas, take_within


@given(st.lists(st.floats(0.1, 20), max_size=40), st.floats(0, 200))
def test_take_within_never_exceeds_and_leaves_no_room(costs: list[float], budget: float) -> None:
    est = np.array(costs, dtype=np.float32)
    order = np.arange(len(est))
    taken = take_within(order, est, budget)
    spent = est[taken].astype(np.float64).sum()
    assert spent <= budget + 1e-6
    left = np.setdiff1d(order, taken)
    assert all(est[i] > budget - spent - 1e-6 for i in left)


@given(st.integers(1, 3_000), st.floats(1, 4_000), st.integers(0, 50))
def test_first_within_is_take_within_of_the_sorted(n: int, budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys, est = rng.random(n), rng.uniform(2, 8, n).astype(np.float32)
    keys[rng.random(n) < 0.1] = np.inf
    rows = rng.permutation(n)
    found = first_within(keys, rows, est, budget)
    order = rows[np.argsort(keys)][: int(np.isfinite(keys).sum())]
    whole = order[take_within(order, est, budget)]
    sure = int(np.searchsorted(np.cumsum(est[order].astype(np.float64)), budget + 1e-6, side="right"))
    assert found[:sure].tolist() == whole[:sure].tolist()
    spent = float(est[found].sum(dtype=np.float64))
    assert spent <= budget + 1e-6
    assert len(found) == len(order) or spent > budget - 8.0


@given(st.integers(1, 20), st.floats(0.01, 500), st.integers(0, 100))
def test_quotas_give_what_there_is(k: int, budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    share, supply = rng.random(k) * (rng.random(k) < 0.7), rng.uniform(0, 100, k) * (rng.random(k) < 0.8)
    given_ = quotas(share, supply, budget)
    can = supply[(share > 0)].sum()
    assert given_.sum() == pytest.approx(min(budget, can))
    assert (given_ <= supply + 1e-9).all()
    assert (given_[share == 0] == 0).all()
    open_ = (given_ < supply - 1e-9) & (share > 0)
    if open_.sum() > 1:
        rate = given_[open_] / share[open_]
        np.testing.assert_allclose(rate, rate[0], rtol=1e-9)


def test_members_are_the_free_texts_of_each_cluster() -> None:
    pool = example_pool(500)
    found = members(pool, np.random.default_rng(0))
    for c, rows in enumerate(found):
        assert sorted(rows.tolist()) == np.flatnonzero((pool.cluster == c) & ~pool.taken).tolist()
        assert rows.tolist() != sorted(rows.tolist()), "in random order"


def test_clusters_filled_a_few_at_a_time_are_filled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = example_pool(600)

    def chosen() -> list[int]:
        return ImportanceDiverse().select(pool, Budget(300.0), np.random.default_rng(0)).indices.tolist()

    whole = chosen()
    monkeypatch.setattr(tools, "AT_ONCE", 7)
    for most in (1, 200 * 16 * 2):
        monkeypatch.setattr(tools, "GATHERED", most)
        assert chosen() == whole


def test_vectors_are_gathered_by_part_and_read_in_the_files_order() -> None:
    read: list[np.ndarray] = []

    class File(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            read.append(rows)
            return np.asarray(self)[rows]

    file = np.arange(40.0).reshape(20, 2).view(File)
    parts = [np.array([7, 3, 19]), np.array([], np.int64), np.array([0, 5])]
    found = tools.gather(file, parts)
    assert [v[:, 0].tolist() for v in found] == [[14.0, 6.0, 38.0], [], [0.0, 10.0]]
    assert np.concatenate(read).tolist() == [0, 3, 5, 7, 19]
