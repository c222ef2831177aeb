"""A few texts as a page shows them: what is heard of each marked, with its sound beside the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from salad.audio import from_bytes, to_flac
from salad.pipeline.ledger import NOT_REACHED, OVER_BUDGET


def turned_down(speech: Path, most: int, cluster: int) -> list[dict[str, Any]]:
    """Texts of a cluster that were tried and turned down, those with a fault before those that did not fit."""
    path = speech / "rejected.parquet"
    facts = pq.read_table(path, columns=["rejected", "cluster"]).to_pylist()
    tried = [i for i, row in enumerate(facts) if row["rejected"] != NOT_REACHED and row["cluster"] == cluster]
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
    flac = playable((row.get("audio") or {}).get("bytes"))
    if flac:
        sounds.mkdir(exist_ok=True)
        (sounds / name).write_bytes(flac)
    return {**row, "sound": f"{sounds.name}/{name}" if flac else None, "pieces": pieces(row["text"], row.get("spans") or [])}


def playable(sound: bytes | None) -> bytes | None:
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
