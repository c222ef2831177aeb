"""Speech folders as an exporter sees them: found, checked against their manifests, read one small batch at a time.

Columns of older shards, or of shards that SALAD did not write, may be missing; `REQUIRED` may not (docs/shards.md).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad import audio
from salad.artifact import MANIFEST, Manifest, damage, read_manifest
from salad.errors import SaladError
from salad.pipeline.shards import open_shard, shard_files

REQUIRED = ("id", "text", "audio", "spans")
BATCH = 32  # rows in memory at a time, and in a row group of what is written
EXAMPLE = "name a run such as runs/demo, or a speech folder such as runs/demo/round-000/speech"


@dataclass(frozen=True)
class Span:
    """What is heard between two samples of the sound, `start` included and `end` not."""

    text: str
    spoken: str | None  # what the engine was given to say, where the shard knows
    char_start: int
    char_end: int
    start: int
    end: int


@dataclass(frozen=True)
class Sample:
    """One text with its sound: mono FLAC, whose spans stand one after the other."""

    name: str  # unique, and safe as the name of a file: its number, then its id
    text: str
    flac: bytes
    rate: int
    frames: int
    spans: list[Span]
    facts: dict[str, Any]  # every other column that holds plain values, in the corpus's order


@dataclass(frozen=True)
class Part:
    """One speech folder."""

    name: str
    folder: Path
    files: list[Path]
    manifest: Manifest | None

    @cached_property
    def rows(self) -> int:
        return sum(pq.read_metadata(f).num_rows for f in self.files)


@dataclass
class Corpus:
    """Speech folders that are exported together; `run` is their run's configuration, or empty."""

    name: str
    parts: list[Part]
    run: dict[str, Any] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)  # filled by `samples`: row, id and reason

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> list[Path]:
        return [file for part in self.parts for file in part.files]

    @cached_property
    def schema(self) -> pa.Schema:
        """Every column of every part, without metadata; what a part lacks is null there."""
        try:
            return pa.unify_schemas([pq.read_schema(f).remove_metadata() for f in self.files], promote_options="permissive")
        except pa.ArrowException as e:
            raise SaladError(f"the shards of {self.name} do not fit together ({e})", "export one folder at a time") from e

    @property
    def plain_columns(self) -> list[str]:
        """Columns of one string, number or truth value a row."""
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        return [f.name for f in self.schema if any(of(f.type) for of in kinds)]

    def check(self) -> None:
        """SaladError that names the first file which is not what its stage published; reads every byte."""
        for part in self.parts:
            if part.manifest and (found := damage(part.folder, part.manifest)):
                raise SaladError(found, "remove the folder and run `salad run` again: it speaks the same texts anew")

    def batches(self, part: Part, columns: list[str]) -> Iterator[pa.Table]:
        """A part's rows in order, `BATCH` at a time, each with all of `columns`."""
        wanted = pa.schema([self.schema.field(name) for name in columns])
        for path in part.files:
            with open_shard(path) as file:
                present = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(BATCH, columns=present):
                    batch.validate(full=True)
                    yield _with_columns(pa.Table.from_batches([batch]), wanted)

    def samples(self, progress: Callable[[float], None]) -> Iterator[Sample]:
        """All rows in order. Those without a usable sound are passed over and noted in `left_out`."""
        columns = [*REQUIRED, *(name for name in self.plain_columns if name not in REQUIRED)]
        number, self.left_out = 0, []
        for part in self.parts:
            for table in self.batches(part, columns):
                for row in table.to_pylist():
                    try:
                        yield _sample(row, number)
                    except (RuntimeError, TypeError, ValueError, LookupError) as e:  # libsndfile's errors are RuntimeErrors
                        self.left_out.append({"row": number, "id": str(row["id"]), "reason": str(e)})
                    number += 1
                progress(number)


def find_corpus(path: Path) -> Corpus:
    """The speech of a folder, or of all rounds of a run. SaladError where there is none."""
    if not path.exists():
        raise SaladError(f"{path} does not exist", EXAMPLE)
    path = path.resolve()
    if (path / "_run.json").is_file():
        folders = {p.parent.name: p for p in sorted(path.glob("round-*/speech")) if (p / MANIFEST).is_file()}
        if not folders:
            raise SaladError(f"run {path.name} has no round whose speech is finished", "run `salad run` first")
        parts = [_part(name, folder) for name, folder in folders.items()]
        return _with_required(Corpus(path.name, [p for p in parts if p.files], _run_of(path)))
    folder = path / "speech" if (path / "speech" / "data").is_dir() else path
    run = next((p for p in path.parents[:2] if (p / "_run.json").is_file()), None)
    name = f"{run.name}, {folder.relative_to(run)}" if run else folder.name
    return _with_required(Corpus(name, [_part(folder.relative_to(run).parts[0] if run else folder.name, folder)], _run_of(run)))


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder; SaladError when there are none, or one is of another kind."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise SaladError(f"{path} holds no Parquet file", EXAMPLE)
    for file in files:
        try:
            pq.read_schema(file)
        except (OSError, pa.ArrowException) as e:
            raise SaladError(f"{file} is not a Parquet file ({e})", "the file is damaged or of another kind") from e
    return files


def _part(name: str, folder: Path) -> Part:
    inside = folder / "data"
    files = shard_files(folder) if inside.is_dir() else parquet_files(folder)
    for file in files:
        parquet_files(file)  # says which is not Parquet
    return Part(name, folder, files, read_manifest(folder))


def _with_required(corpus: Corpus) -> Corpus:
    if not corpus.rows:
        raise SaladError(f"{corpus.name} holds no speech: not one row", EXAMPLE)
    for file in corpus.files:
        names = pq.read_schema(file).names
        if missing := [c for c in REQUIRED if c not in names]:
            raise SaladError(f"{file} is not a speech shard: it has no column {', '.join(missing)}", EXAMPLE)
    return corpus


def _run_of(folder: Path | None) -> dict[str, Any]:
    """The run's configuration as it was written, which may be by another version of SALAD."""
    try:
        found = json.loads((folder / "_run.json").read_text(encoding="utf-8"))["config"] if folder else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    for new in schema:
        if new.name not in table.column_names:
            table = table.append_column(new, pa.nulls(table.num_rows, new.type))
    return table.select(schema.names).cast(schema)


def _sample(row: dict[str, Any], number: int) -> Sample:
    flac, rate, frames = _flac((row["audio"] or {}).get("bytes"))
    spans = [_span(span, rate) for span in row["spans"] or []]
    if not isinstance(row["text"], str) or not spans:
        raise ValueError("no text" if spans else "no span is spoken")
    edges = [edge for span in spans for edge in (span.start, span.end)]
    if edges != sorted(edges) or edges[0] < 0 or edges[-1] > frames or any(s.start == s.end for s in spans):
        raise ValueError("the times of its spans are not in order, or not within its sound")
    facts = {name: _plain(value) for name, value in row.items() if name not in ("text", "audio", "spans")}
    return Sample(safe_name(number, row["id"]), row["text"], flac, rate, frames, spans, facts)


def _span(span: dict[str, Any], rate: int) -> Span:
    start, end = (round(span[name] * rate) for name in ("audio_start", "audio_end"))
    return Span(span["text"], span.get("spoken"), span["char_start"], span["char_end"], start, end)


def _flac(data: bytes | None) -> tuple[bytes, int, int]:
    """(mono FLAC, rate, samples) of any sound that libsndfile reads; what is mono FLAC already stays so, byte for byte."""
    import soundfile as sf

    if not data:
        raise ValueError("no sound")
    info = sf.info(io.BytesIO(data))
    wave, rate = audio.from_bytes(data)  # 3,000 times as fast as speech, and finds sounds that break off
    if (info.format, info.channels, info.frames) == ("FLAC", 1, len(wave)):
        return data, rate, len(wave)
    return audio.to_flac(wave, rate), rate, len(wave)


def safe_name(number: int, text_id: object) -> str:
    """A file's stem: the row's number, and its id where that is what SALAD writes (hexadecimal digits), never other text."""
    harmless = isinstance(text_id, str) and re.fullmatch(r"[0-9a-f]{1,64}", text_id)
    return f"{number:08d}-{text_id}" if harmless else f"{number:08d}"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and value - value != 0 else value
