"""Rows of a pool that is larger than memory: by place or by id, a row group at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.pipeline.pool import part_files, read_pool
from salad.pipeline.schema import POOL


def take_rows(folder: Path, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
    """The pool's `rows` (n,), in their order; only the row groups that hold some are read, one in memory at a time.

    IndexError for a row that the pool does not have.
    """
    order = np.argsort(rows, kind="stable")
    wanted = np.asarray(rows, np.int64)[order]
    found, start = [], 0
    for path in part_files(folder):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)] - start
            if len(here):
                found.append(file.read_row_group(group, columns=columns).take(pa.array(here)))
            start = end
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < start:
        raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of a pool of {start}")
    if not found:
        return POOL.empty_table().select(columns or POOL.names)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(found).take(pa.array(back))


def rows_of(folder: Path, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(n,) the row of each id, -1 for one that the pool does not have; the ids are no two alike."""
    rows = np.full(len(ids), -1, np.int64)
    for start, column in _ids(folder):
        at = pc.index_in(column, ids)
        here = np.flatnonzero(at.is_valid())
        rows[at.drop_null().to_numpy()] = start + here
    return rows


def among(folder: Path, ids: Collection[str]) -> np.ndarray:
    """(N,) bool: which of the pool's texts have one of these ids."""
    known = pa.array(sorted(ids), pa.string())
    found = [pc.is_in(column, known).to_numpy(zero_copy_only=False) for _, column in _ids(folder)]
    return np.concatenate([*found, np.zeros(0, bool)])


def _ids(folder: Path) -> Iterator[tuple[int, pa.Array]]:
    """The ids of one file after the other, each with the row that its first one is."""
    start = 0
    for path in part_files(folder):
        column = pq.read_table(path, columns=["id"])["id"].combine_chunks()
        yield start, column
        start += len(column)


class PoolIds:
    """The pool's ids as an array of str looks to those who index it: nothing is read before, then 36 bytes a text are held.

    An integer gives a str; a slice, a mask or an array of rows gives an object array, as from an array of N str objects,
    which would take 90 bytes a text.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.shape = folder, (n,)

    @cached_property
    def _column(self) -> pa.ChunkedArray:
        return read_pool(self.folder, ["id"])["id"]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._column.slice(start, max(stop - start, 0)).to_numpy(zero_copy_only=False)
            rows = np.arange(start, stop, step)
        at = np.asarray(rows)
        if at.ndim == 0:
            return self._column[int(at)].as_py()
        at = np.flatnonzero(at) if at.dtype == bool else np.where(at < 0, at + len(self), at).astype(np.int64)
        return self._column.take(pa.array(at)).to_numpy(zero_copy_only=False)

    def __iter__(self) -> Iterator[str]:
        return (text_id.as_py() for text_id in self._column)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def tolist(self) -> list[str]:
        return list(self._column.to_pylist())
