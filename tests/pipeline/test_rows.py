"""Rows of a pool without the pool: the same as if all of it had been read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.pipeline.pool import read_pool
from salad.pipeline.rows import PoolIds, among, rows_of, take_rows
from salad.pipeline.schema import POOL
from salad.selectors.base import PoolView
from salad.selectors.testing import example_pool, reorder

N = 97


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of several row groups each."""
    folder = tmp_path_factory.mktemp("pool")
    ids = [f"{i * 2654435761 % 2**32:08x}" for i in range(N)]
    numbers = {name: np.arange(N) for name in ("n_words", "n_heard", "est_seconds")}
    texts = {"id": ids, "text": [f"text {i}" for i in range(N)], "source": ["s"] * N, "domain": [None, "a", "b"] * 32 + ["a"]}
    table = pa.table(texts | numbers).cast(POOL)
    for part, (start, end) in enumerate(((0, 40), (40, 41), (41, N))):
        pq.write_table(table.slice(start, end - start), folder / f"part-{part:05d}.parquet", row_group_size=13)
    return folder


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), max_size=60), columns=st.sampled_from([None, ["id"], ["text", "n_heard"]]))
def test_rows_are_those_of_the_whole_pool_in_the_order_asked_for(pool: Path, rows: list[int], columns: list[str] | None) -> None:
    found = take_rows(pool, np.array(rows, np.int64), columns)
    assert found.equals(read_pool(pool, columns).take(pa.array(rows, pa.int64())))


def test_only_the_row_groups_that_are_needed_are_read(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **more: read.append(i) or plain(self, i, **more))
    take_rows(pool, np.array([96, 0, 12, 95]))
    assert read == [0, 4]


@pytest.mark.parametrize("row", [-1, N])
def test_a_row_beyond_the_pool_is_an_error(pool: Path, row: int) -> None:
    with pytest.raises(IndexError, match=str(row)):
        take_rows(pool, np.array([3, row]))


def test_texts_are_found_by_their_ids(pool: Path) -> None:
    ids = read_pool(pool, ["id"])["id"].to_pylist()
    asked = [ids[96], "unknown", ids[0], ids[40]]
    assert rows_of(pool, pa.array(asked)).tolist() == [96, -1, 0, 40]
    assert rows_of(pool, pa.chunked_array([asked[:1], asked[1:]])).tolist() == [96, -1, 0, 40]
    assert np.flatnonzero(among(pool, set(asked))).tolist() == [0, 40, 96]
    assert not among(pool, set()).any()


INDEXERS = st.one_of(
    st.integers(-N, N - 1),
    st.lists(st.integers(-N, N - 1), max_size=30).map(lambda rows: np.array(rows, np.int64)),
    st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
    st.slices(N),
)


@settings(max_examples=200, deadline=None)
@given(at=INDEXERS)
def test_ids_are_indexed_as_an_array_of_them_is(pool: Path, at: object) -> None:
    plain = read_pool(pool, ["id"])["id"].to_numpy(zero_copy_only=False)
    ids = PoolIds(pool, N)
    ours, theirs = ids[at], plain[at]
    assert type(ours) is type(theirs)
    assert np.array_equal(ours, theirs)


def test_ids_are_read_when_asked_for_and_do_what_an_array_does(pool: Path, tmp_path: Path) -> None:
    plain = read_pool(pool, ["id"])["id"].to_numpy(zero_copy_only=False)
    ids = PoolIds(pool, N)
    assert len(PoolIds(tmp_path / "nowhere", N)) == N
    assert ids.tolist() == list(ids) == plain.tolist()
    assert np.array_equal(np.asarray(ids), plain)
    for at in (N, -N - 1):
        with pytest.raises(IndexError):
            ids[at]
        with pytest.raises(IndexError):
            ids[np.array([0, at])]


def test_a_pools_keys_are_those_of_its_ids_however_they_are_held(pool: Path) -> None:
    example = example_pool(N)
    plain = read_pool(pool, ["id"])["id"].to_numpy(zero_copy_only=False)

    def view(ids: object) -> PoolView:
        return PoolView(**{**vars(example), "ids": ids})

    assert np.array_equal(view(PoolIds(pool, N)).keys, view(plain).keys)
    assert len(set(view(plain).keys.tolist())) == N
    order = np.random.default_rng(0).permutation(N)
    assert reorder(view(PoolIds(pool, N)), order).ids.tolist() == plain[order].tolist()
