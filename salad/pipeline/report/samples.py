"""What can be read and heard in the report: texts that were chosen and spoken, and texts that were turned down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from salad.audio import from_bytes, to_flac
from salad.pipeline import summary
from salad.pipeline.ledger import NOT_REACHED, OVER_BUDGET
from salad.pipeline.shards import shard_files

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SHOWN = 10


def last_spoken_round(run: Run) -> int | None:
    rounds = [r for r in range(run.config.rounds) if summary.published(run, f"round-{r:03d}/speech")]
    return rounds[-1] if rounds else None


def selected(speech: Path, sounds: Path) -> list[dict[str, Any]]:
    """The first texts of a speech folder, each with the name of its sound, which is written into `sounds`."""
    rows = zip(range(SHOWN), _rows(speech), strict=False)
    return [with_sound(row, sounds, f"row-{number:05d}.flac") for number, row in rows]


def rejected(speech: Path, sounds: Path) -> list[dict[str, Any]]:
    """The first texts that were tried and turned down, with their sounds as far as they made one."""
    return [with_sound(row, sounds, f"rejected-{i:05d}.flac") for i, row in enumerate(turned_down(speech, SHOWN))]


def turned_down(speech: Path, most: int, cluster: int | None = None) -> list[dict[str, Any]]:
    """Texts that were tried and turned down, of one cluster or of all, those with a fault before those that did not fit."""
    path = speech / "rejected.parquet"
    facts = pq.read_table(path, columns=["rejected", "cluster"]).to_pylist()
    tried = [i for i, row in enumerate(facts) if row["rejected"] != NOT_REACHED and cluster in (None, row["cluster"])]
    tried.sort(key=lambda i: facts[i]["rejected"] == OVER_BUDGET)
    return [read_row(path, i) for i in tried[:most]]


def read_row(path: Path, number: int) -> dict[str, Any]:
    """One row of a Parquet file; only its row group is read."""
    file = pq.ParquetFile(path)
    group = 0
    while number >= (rows := file.metadata.row_group(group).num_rows):
        number, group = number - rows, group + 1
    found: dict[str, Any] = file.read_row_group(group).slice(number, 1).to_pylist()[0]
    return found


def with_sound(row: dict[str, Any], sounds: Path, name: str) -> dict[str, Any]:
    """A row as a page shows it; its sound is written into `sounds`, where it has one that can be decoded."""
    flac = _flac((row.get("audio") or {}).get("bytes"))
    if flac:
        sounds.mkdir(exist_ok=True)
        (sounds / name).write_bytes(flac)
    return {**row, "sound": f"{sounds.name}/{name}" if flac else None, "pieces": pieces(row["text"], row.get("spans") or [])}


def _flac(sound: bytes | None) -> bytes | None:
    """A file of any kind as one that every browser plays by its name."""
    if not sound or sound.startswith(b"fLaC"):
        return sound
    try:
        return to_flac(*from_bytes(sound))
    except RuntimeError:  # libsndfile's errors
        return None


def pieces(text: str, spans: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """A text cut where hearing and reading alternate: (piece, whether it is heard)."""
    cut, at = [], 0
    for span in spans:
        spaced = text[span["char_start"] : span["char_end"]]
        heard, start = spaced.strip(), span["char_start"] + len(spaced) - len(spaced.lstrip())
        cut += [(text[at:start], False), (heard, True)]
        at = start + len(heard)
    return [(piece, heard) for piece, heard in [*cut, (text[at:], False)] if piece]


def _rows(speech: Path) -> Iterator[dict[str, Any]]:
    for path in shard_files(speech):
        for batch in pq.ParquetFile(path).iter_batches(SHOWN):
            yield from batch.to_pylist()
