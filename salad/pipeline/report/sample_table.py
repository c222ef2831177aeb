"""The samples page's data: every text that a round chose and spoke, or tried and turned down, and its sound beside the page.

Rows go into scripts of PART rows, so that the first are there before the last are read, and a sound is a file of its own,
which a browser reads when it is played.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from salad.pipeline import summary
from salad.pipeline.ledger import NOT_REACHED
from salad.pipeline.report.samples import playable
from salad.pipeline.report.scripts import rounded, write_script
from salad.pipeline.shards import shard_files

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

PART = 2_000  # rows a script
FOLDER = 1_000  # sounds a folder
SOUNDS = 50_000  # copied beside the page
PLAIN = ("id", "text", "domain", "cluster", "reason", "voice", "rejected", "heard", "rank")
NUMBERS = ("probability", "predicted_divergence", "predicted_se", "cer", "seconds")
FIELDS = ("round", *PLAIN, *NUMBERS, "spans", "sound")


@dataclass
class Written:
    """What the page needs to know before it has read the rows. parts: the scripts' paths, relative to the page."""

    parts: list[str] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    silent: int = 0  # beyond SOUNDS


def write_samples(rows: Iterable[dict[str, Any]], out: Path) -> Written:
    """Scripts in `out`/rows, sounds in `out`/audio/samples, neither of which is there yet. rows: as of `samples_of`."""
    sounds = out / "audio" / "samples"
    written, part, heard = Written(), [], 0
    for row in rows:
        flac = playable((row.pop("audio") or {}).get("bytes"))
        row["sound"] = None
        if flac and heard < SOUNDS:
            name = f"{heard // FOLDER:03d}/{heard % FOLDER:03d}.flac"
            (sounds / name).parent.mkdir(parents=True, exist_ok=True)
            (sounds / name).write_bytes(flac)
            row["sound"], heard = f"audio/samples/{name}", heard + 1
        elif flac:
            written.silent += 1
        written.rows += 1
        written.kept += row["rejected"] is None
        part.append(row)
        if len(part) == PART:
            _write_part(out, written, part)
            part = []
    if part:
        _write_part(out, written, part)
    return written


def _write_part(out: Path, written: Written, rows: list[dict[str, Any]]) -> None:
    (out / "rows").mkdir(exist_ok=True)
    name = f"rows/{len(written.parts):05d}.js"
    write_script(out / name, "addRows", {name: [row[name] for row in rows] for name in FIELDS})
    written.parts.append(name)


def samples_of(run: Run) -> Iterator[dict[str, Any]]:
    """FIELDS with the shard's `audio` for the sound; of each round first what was kept, in the order of the shards."""
    for r in range(run.config.rounds):
        if not summary.published(run, name := f"round-{r:03d}/speech"):
            continue
        speech = run.store.path(name)
        for path in (*shard_files(speech), speech / "rejected.parquet"):
            if path.is_file():
                yield from (_row(row, r) for row in _read(path) if row.get("rejected") != NOT_REACHED)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    wanted = [name for name in (*PLAIN, *NUMBERS, "spans", "audio") if name in file.schema_arrow.names]
    for batch in file.iter_batches(32, columns=wanted):
        yield from batch.to_pylist()


def _row(row: dict[str, Any], round_: int) -> dict[str, Any]:
    return {
        "round": round_,
        **{name: row.get(name) for name in PLAIN},
        **{name: rounded(row.get(name)) for name in NUMBERS},
        "spans": [
            [s["char_start"], s["char_end"], rounded(s["audio_start"], 6), rounded(s["audio_end"], 6)]
            for s in row.get("spans") or []
        ],
        "audio": row.get("audio"),
    }
