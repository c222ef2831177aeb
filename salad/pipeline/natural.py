"""Natural speech that the user brings: a folder of shards in our own format, checked and linked into the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from salad.errors import SaladError
from salad.pipeline import shards

if TYPE_CHECKING:
    from salad.pipeline.stages import Run, Stage

NEEDED = ("id", "text", "audio", "spans")


def stage(run: Run) -> Stage:
    """The "natural" stage of a run whose `natural.shards` names a folder."""
    from salad.pipeline.stages import Stage

    folder = Path(str(run.config.natural.shards))
    listing = {p.name: p.stat().st_size for p in shards.shard_files(folder)}
    return Stage("natural", lambda out, p: build_natural(out, folder, p), {"shards": str(folder), "files": listing})


def build_natural(out: Path, folder: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Copy the shards' data files; SaladError when there are none or a column is missing."""
    import shutil

    files = shards.shard_files(folder)
    if not files:
        raise SaladError(f"natural.shards: no data/*.parquet in {folder}", "prepare speech shards as docs/shards.md says")
    (out / "data").mkdir(exist_ok=True)
    rows = 0
    for path in files:
        names = pq.read_schema(path).names
        if missing := [c for c in NEEDED if c not in names]:
            raise SaladError(f"natural.shards: {path} has no column '{missing[0]}'", "see docs/shards.md for the columns")
        shutil.copy(path, out / "data" / path.name)
        rows += pq.read_metadata(path).num_rows
        progress(rows)
    return {"rows": rows}
