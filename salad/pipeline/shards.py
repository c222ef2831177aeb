"""Speech shards: rows and sounds to Parquet that plain pyarrow and `datasets` both open, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad import audio
from salad.pipeline.schema import REJECTED, speech_schema

if TYPE_CHECKING:
    from salad.trainer.data import Utterance

CARD = """---
license: other
language: en
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# Speech shards of SALAD

`{name}`: {rows} texts, {seconds:.0f} seconds of synthetic speech by {engine} (voice {voice}).
`spans` lists what is heard, with exact times; the rest of `text` is read. The columns are explained in
docs/shards.md. `rejected.parquet` holds what was not used, each row with its reason.

    datasets.load_dataset("{name}")                                 # decoding needs torchcodec
    pyarrow.parquet.read_table("data/{first}")                      # or plain Parquet with FLAC bytes

The texts and the voice keep their own licences; see docs/licences.md.
"""


def speech_row(
    row: dict[str, Any], spoken: list[tuple[int, int]], waves: list[audio.Wave], rate: int, **facts: Any
) -> dict[str, Any]:
    """A row of the speech schema: the spans' sounds one after the other, with their exact times."""
    import numpy as np

    spans, at = [], 0
    for (start, end), wave in zip(spoken, waves, strict=True):
        begin, at = at, at + len(wave)
        spans.append(
            {
                "text": row["text"][start:end].strip(),
                "char_start": start,
                "char_end": end,
                "audio_start": begin / rate,
                "audio_end": at / rate,
            }
        )
    whole = np.concatenate(waves)
    return {
        **row,
        "audio": {"bytes": audio.to_flac(whole, rate), "path": f"{row['id']}.flac"},
        "sampling_rate": rate,
        "seconds": len(whole) / rate,
        "spans": spans,
        "peak": float(np.abs(whole).max()),
        **facts,
    }


def write_speech(rows: list[dict[str, Any]], path: Path) -> None:
    """Small row groups, so that one sound can be read without its neighbours."""
    pq.write_table(pa.Table.from_pylist(rows, speech_schema()), path, compression="zstd", row_group_size=32)


def write_rejected(rows: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows, REJECTED), path, compression="zstd")


def shard_files(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("*.parquet"))


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
        for batch in pq.ParquetFile(path).iter_batches(32, columns=columns):
            for row in batch.to_pylist():
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
