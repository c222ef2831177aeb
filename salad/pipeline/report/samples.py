"""What can be read and heard in the report: texts that were chosen and spoken, and texts that were turned down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from salad.pipeline import summary

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SHOWN = 10
OVER_BUDGET = "over budget"  # a reason that finds no fault with the sound


def last_spoken_round(run: Run) -> int | None:
    rounds = [r for r in range(run.config.rounds) if summary.published(run, f"round-{r:03d}/speech")]
    return rounds[-1] if rounds else None


def selected(speech: Path, sounds: Path) -> list[dict[str, Any]]:
    """The first texts of a speech folder, each with the name of its sound, which is written into `sounds`."""
    sounds.mkdir()
    shown = []
    for number, row in zip(range(SHOWN), _rows(speech), strict=False):
        shown.append(with_sound(row, sounds, f"row-{number:05d}.flac"))
    return shown


def with_sound(row: dict[str, Any], sounds: Path, name: str) -> dict[str, Any]:
    """A row of a speech shard as the page shows it; its sound is written into `sounds`."""
    (sounds / name).write_bytes(row["audio"]["bytes"])
    return {**row, "sound": f"{sounds.name}/{name}", "pieces": pieces(row["text"], row["spans"])}


def rejected(speech: Path) -> list[dict[str, Any]]:
    """The first texts that were spoken and turned down, those with a fault before those that did not fit."""
    return sorted(turned_down(speech), key=lambda row: bool(row["rejected"] == OVER_BUDGET))[:SHOWN]


def turned_down(speech: Path, cluster: int | None = None) -> list[dict[str, Any]]:
    """Texts that were spoken and turned down, of one cluster or of all; the turn of the others never came."""
    filters = None if cluster is None else [("cluster", "=", cluster)]
    rows = pq.read_table(speech / "rejected.parquet", filters=filters).to_pylist()
    return [row for row in rows if row["seconds"] is not None]


def pieces(text: str, spans: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """A text cut where hearing and reading alternate: (piece, whether it is heard)."""
    cut, at = [], 0
    for span in spans:
        heard = text[span["char_start"] : span["char_end"]].strip()
        start = text.index(heard, span["char_start"])
        cut += [(text[at:start], False), (heard, True)]
        at = start + len(heard)
    return [(piece, heard) for piece, heard in [*cut, (text[at:], False)] if piece]


def _rows(speech: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((speech / "data").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(SHOWN):
            yield from batch.to_pylist()
