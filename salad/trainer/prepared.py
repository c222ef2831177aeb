"""A prepared folder: written row by row, mapped back into memory, its sizes checked against each other.

`examples.parquet` holds tokens, their character ranges, spans and counts; `frames.npy` the encoder's features in
float16, all spans of all texts in one column; `targets.npy` what is kept of the teacher at every text position: its
final hidden state as bfloat16 bits, a row of `kept_dtype`, or no such file. Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad.errors import SaladError
from salad.trainer.examples import Example, Targets, partition

_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("offsets", pa.list_(pa.int32())),
        ("spoken", pa.list_(pa.int32())),
        ("n_chars", pa.int32()),
        ("frames", pa.list_(pa.int32())),  # of each spoken span
        ("n_targets", pa.int32()),
    ]
)
_ABOUT = b"salad.targets"


def kept_dtype(k: int, vocabulary: int) -> np.dtype[Any]:
    """A position of `sparse.Kept` on disk: 4k + 4 bytes where the vocabulary has at most 65,536 tokens, else 6k + 4."""
    ids = np.uint16 if vocabulary <= 2**16 else np.int32
    return np.dtype([("ids", ids, (k,)), ("log_q", np.float16, (k,)), ("log_floor", np.float32)])


@contextmanager
def growing(path: Path, dtype: np.dtype[Any], columns: tuple[int, ...] = ()) -> Iterator[BinaryIO]:
    """A .npy of (as many rows as are written, *columns): write their bytes, in C order."""
    with path.open("w+b") as f:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(f, {**header, "shape": (0, *columns)})
        start = f.tell()
        yield f
        rows = (f.tell() - start) // (dtype.itemsize * int(np.prod(columns)))
        f.seek(0)  # numpy leaves room for a longer shape
        np.lib.format.write_array_header_1_0(f, {**header, "shape": (rows, *columns)})
        assert f.tell() == start


@contextmanager
def growing_table(out: Path, about: Targets) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """`examples.parquet`, some rows at a time."""
    schema = _ROWS.with_metadata({_ABOUT: json.dumps(asdict(about)).encode()})
    with pq.ParquetWriter(out / "examples.parquet", schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def load_examples(folder: Path) -> list[Example]:
    """The examples of a prepared folder; features and targets stay on disk until they are used.

    SaladError that names the file for one that is missing, cut short, of another length or type, or pickled.
    """
    try:
        table = pq.read_table(folder / "examples.parquet", schema=None)
        rows = table.select(_ROWS.names).to_pylist()
        about = Targets(**json.loads((table.schema.metadata or {}).get(_ABOUT, b"{}")))
    except (OSError, KeyError, ValueError, TypeError) as e:  # of pyarrow: ArrowInvalid is a ValueError
        raise _broken(folder / "examples.parquet", str(e)) from e
    n_frames = sum(n for row in rows for n in row["frames"])
    n_targets = sum(row["n_targets"] for row in rows)
    frames = _mapped(folder / "frames.npy", n_frames, [np.dtype(np.float16)])
    if about.kind == "none":
        targets = np.zeros((n_targets, 0), np.int16)
    else:
        targets = _mapped(folder / "targets.npy", n_targets, [np.dtype(np.int16)] if about.kind == "states" else None)
    examples, frame_at, target_at = [], 0, 0
    for row in rows:
        ends = frame_at + np.cumsum([0, *row["frames"]])
        examples.append(
            Example(
                id=row["id"],
                tokens=np.array(row["tokens"], np.int32),
                offsets=_pairs(row["offsets"]),
                spans=partition(_pairs(row["spoken"]), row["n_chars"]),
                frames=[frames[a:b] for a, b in pairwise(ends)],
                targets=targets[target_at : target_at + row["n_targets"]],
                about=about,
            )
        )
        frame_at, target_at = int(ends[-1]), target_at + row["n_targets"]
    return examples


def _mapped(path: Path, rows: int, dtypes: Sequence[np.dtype[Any]] | None) -> np.ndarray:
    """A .npy of so many rows and one of the dtypes (None: of `kept_dtype`), on disk; an empty one cannot be mapped."""
    try:
        array = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as e:
        raise _broken(path, str(e)) from e
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise _broken(path, "not an array")
    known = array.dtype in dtypes if dtypes else array.dtype.names == ("ids", "log_q", "log_floor")
    if not known:
        raise _broken(path, f"holds {array.dtype}")
    if len(array) != rows:
        raise _broken(path, f"{len(array)} rows, where examples.parquet counts {rows}")
    return np.asarray(array)


def _broken(path: Path, why: str) -> SaladError:
    return SaladError(f"{path} is not what was prepared ({why})", f"delete {path.parent} and run again: it is made anew")


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
