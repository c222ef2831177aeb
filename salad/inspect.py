"""`salad inspect`: what is in a shard, a selection or a speech folder. Needs pyarrow and nothing heavier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.errors import SaladError, visible

HIDDEN = ("audio", "spans", "embedding")
TALLIES = ("domain", "cluster", "voice", "selector", "rejected")


def show(path: Path, limit: int) -> None:
    """Print row count, seconds, tallies of the columns that sort rows, and the first rows."""
    from rich.markup import escape

    from salad.console import console

    files = parquet_files(path)
    columns = [n for n in pq.read_schema(files[0]).names if n not in HIDDEN]
    table = pa.concat_tables([pq.read_table(f, columns=columns) for f in files], promote_options="default")
    seconds = sum(s or 0.0 for s in table["seconds"].to_pylist()) if "seconds" in columns else None
    spoken = f", {seconds:,.1f} s of speech" if seconds is not None else ""
    console.print(f"[bold]{escape(str(path))}[/]: {table.num_rows:,} rows in {len(files)} files{spoken}", soft_wrap=True)
    for name in TALLIES:
        if name in columns:
            console.print(f"  {name}: {escape(_tally(table[name]))}", soft_wrap=True)
    for row in table.slice(0, limit).to_pylist():
        console.print()
        for key, value in row.items():
            console.print(f"  [dim]{key:<26}[/]{escape(_cell(value))}", soft_wrap=True)


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder (a speech folder's `data/` first); SaladError when there are none."""
    inside = sorted((path / "data").glob("*.parquet")) or sorted(path.glob("*.parquet"))
    files = [path] if path.is_file() else inside
    if not files:
        raise SaladError(f"{path} holds no Parquet file", "name a shard, or a folder such as runs/demo/round-000/speech")
    for file in files:
        try:
            pq.read_schema(file)
        except (OSError, pa.ArrowException) as e:
            raise SaladError(f"{file} is not a Parquet file ({e})", "the file is damaged or of another kind") from e
    return files


def _tally(column: pa.ChunkedArray) -> str:
    counts = sorted(column.value_counts().to_pylist(), key=lambda c: -c["counts"])
    shown = ", ".join(f"{_cell(c['values'])} {c['counts']:,}" for c in counts[:8])
    return shown + (f", and {len(counts) - 8} more" if len(counts) > 8 else "")


def _cell(value: Any) -> str:
    text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return visible(text).replace("\n", "�")
