"""Speech shards: rows and sounds to Parquet that plain pyarrow and `datasets` both open, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad import audio
from salad.artifact import artefact_files
from salad.errors import SaladError
from salad.pipeline.ledger import NOT_REACHED
from salad.pipeline.schema import REJECTED, speech_schema

if TYPE_CHECKING:
    from salad.trainer.data import Utterance


def speech_row(
    row: dict[str, Any],
    ranges: Sequence[tuple[int, int]],
    said: Sequence[str],
    flac: bytes,
    rate: int,
    ends: Sequence[int],
    **facts: Any,
) -> dict[str, Any]:
    """A row of the speech schema: spans with their exact times in the sound.

    ranges: their characters in the text. said: what was spoken for each. flac: their sounds one after the other. ends: the
    sample at which each ends.
    """
    spans = [
        {
            "text": row["text"][start:end].strip(),
            "spoken": spoken,
            "char_start": start,
            "char_end": end,
            "audio_start": begin / rate,
            "audio_end": finish / rate,
        }
        for (start, end), spoken, begin, finish in zip(ranges, said, [0, *ends[:-1]], ends, strict=True)
    ]
    return {
        **row,
        "audio": {"bytes": flac, "path": f"{row['id']}.flac"},
        "sampling_rate": rate,
        "seconds": ends[-1] / rate,
        "spans": spans,
        **facts,
    }


def write_speech(rows: list[dict[str, Any]], path: Path) -> None:
    """Small row groups, so that one sound can be read without its neighbours; FLAC is most of it and does not compress."""
    table = pa.Table.from_pylist(rows, speech_schema())
    pq.write_table(table, path, compression="none", row_group_size=32, write_page_checksum=True)


def write_rejected(rows: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows, REJECTED), path, compression="zstd")


def turned_down(speech: Path, columns: list[str]) -> pa.Table:
    """Of a published speech folder, the texts that were tried and not used; those whose turn never came are left out."""
    rows = pq.read_table(speech / "rejected.parquet", columns=[*columns, "rejected"])
    return rows.filter(pc.not_equal(rows["rejected"], NOT_REACHED)).select(columns)


def shard_files(folder: Path) -> list[Path]:
    return artefact_files(folder, "data/*.parquet")


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard to read from; what is found truncated or altered, now or while it is read, is a SaladError that names it."""
    try:
        yield pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as e:
        why = " ".join(str(e).split())[:200]
        raise SaladError(f"{path} cannot be read to its end ({why})", "the file is damaged: get or make it anew") from e


def read_columns(folder: Path, columns: list[str]) -> pa.Table:
    """Some columns of all shards of a folder, in order; without "audio" this is quick."""
    tables = [pq.read_table(p, columns=columns) for p in shard_files(folder)]
    return pa.concat_tables(tables) if tables else speech_schema().empty_table().select(columns)


def read_utterances(folder: Path, undecodable: list[str] | None = None) -> Iterator[Utterance]:
    """Texts with the sounds of their spans, one row group in memory at a time.

    Texts whose sound cannot be decoded are passed over and their ids added to `undecodable`, where that is given.
    """
    from salad.trainer.data import Utterance

    columns = ["id", "text", "audio", "spans"]
    for path in shard_files(folder):
        for row in _rows(path, columns):
            try:
                wave, rate = audio.from_bytes(row["audio"]["bytes"])
            except (RuntimeError, TypeError):  # libsndfile's errors are RuntimeErrors; no bytes at all
                if undecodable is None:
                    raise
                undecodable.append(row["id"])
                continue
            spans = row["spans"]
            yield Utterance(
                id=row["id"],
                text=row["text"],
                spoken=[(s["char_start"], s["char_end"]) for s in spans],
                waves=[wave[round(s["audio_start"] * rate) : round(s["audio_end"] * rate)] for s in spans],
                rate=rate,
            )


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    with open_shard(path) as shard:
        batches = shard.iter_batches(32, columns=columns)
        while (batch := next(batches, None)) is not None:
            yield from batch.to_pylist()
