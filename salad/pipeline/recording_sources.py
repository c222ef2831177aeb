"""Where recorded speech is kept: an audio folder, what `datasets` opens, Lhotse cuts. Each gives utterances still undecoded.

Sound is decoded by libsndfile alone, so no codec library is needed, and nothing that a manifest says is run: Lhotse's own loader
runs a recording that is given as a shell command, and passes file names to a shell for some formats.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from salad.audio import Wave
from salad.config import Recordings
from salad.errors import SaladError, told
from salad.network import failure_of
from salad.pipeline.streams import files_of, guarded

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CUTS = (".jsonl", ".jsonl.gz")
SLACK = 0.1  # seconds by which a manifest's times may lie outside the sound


@dataclass(frozen=True)
class Entry:
    """An utterance as its source has it; its sound is decoded by `sound`."""

    key: str
    text: Any
    group: Any
    words: Any
    sound: Callable[[], tuple[Wave, int]]


class Unreadable(Exception):
    """Its message is the reason that the user is told."""


def open_entries(source: Recordings) -> Iterator[Entry]:
    """Utterances of a source in its order. SaladError when it cannot be read: nothing there, no such column, a damaged file."""
    what = f"natural.recordings: '{source.dataset}' cannot be read"
    return guarded(_reader(source)(source), what, "see docs/natural.md for what can be; mend or replace the file")


def _reader(source: Recordings) -> Callable[[Recordings], Iterator[Entry]]:
    path = Path(source.dataset).expanduser()
    if path.name in METADATA or (path.is_dir() and _metadata(path, source.split)):
        return _audio_folder
    if path.name.endswith(CUTS):
        return _lhotse_cuts
    return _parquet if path.suffix == ".parquet" else _datasets


# -- an audio folder -------------------------------------------------------------------------------------------


def _metadata(folder: Path, split: str) -> Path | None:
    return next((p for base in (folder, folder / split) for name in METADATA if (p := base / name).is_file()), None)


def _audio_folder(source: Recordings) -> Iterator[Entry]:
    path = Path(source.dataset).expanduser()
    found = _metadata(path, source.split) if path.is_dir() else path
    if found is None or not found.is_file():
        raise SaladError(f"natural.recordings: no such file: {path}", "name an audio folder with a metadata file")
    for number, row in enumerate(_rows(found)):
        if number == 0:
            audio = source.audio_column if source.audio_column in row else "file_name"
            _check_columns(source, [*row], audio)
        name = row.get(audio)
        yield _entry(source, row, str(name), lambda name=name: _decode(_inside(found.parent, name)))  # type: ignore[misc]


def _rows(metadata: Path) -> Iterator[dict[str, Any]]:
    if metadata.suffix == ".parquet":
        yield from _parquet_rows(metadata)
        return
    with metadata.open(encoding="utf-8-sig", newline="") as f:
        if metadata.suffix == ".csv":
            yield from csv.DictReader(f)
            return
        for number, line in enumerate(f, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise SaladError(f"natural.recordings: line {number} of {metadata} is no object", "write {…} on every line")
                yield row


def _inside(folder: Path, name: Any) -> Path:
    """The file of that name below `folder`; links are followed, `..` and absolute names are not."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise Unreadable("no file name")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise Unreadable("file outside the folder")
    return folder / relative


# -- tables ----------------------------------------------------------------------------------------------------


def _parquet(source: Recordings) -> Iterator[Entry]:
    """Not by `datasets`, which holds whole files in memory."""
    import pyarrow.parquet as pq

    files = files_of(source.dataset)
    if not files:
        raise SaladError(f"natural.recordings: no such file: {source.dataset}", "name a Parquet file or a glob of some")
    for file in files:
        _check_columns(source, pq.read_schema(file).names, source.audio_column)
    rows = (row for file in files for row in _parquet_rows(file, _columns(source)))
    yield from _table(source, rows)


def _datasets(source: Recordings) -> Iterator[Entry]:
    """A saved folder, a clone of a hub dataset, a hub name."""
    import datasets

    datasets.disable_progress_bars()
    stream, audio = _opened(source), source.audio_column
    _check_columns(source, stream.column_names or [*next(iter(stream), {})], audio)
    stream = stream.select_columns(_columns(source))  # other columns may hold what has to be decoded
    if isinstance((stream.features or {}).get(audio), datasets.Audio):
        stream = stream.cast_column(audio, datasets.Audio(decode=False))
    yield from _table(source, stream)


def _opened(source: Recordings) -> Any:
    """A stream of rows, nothing of it read yet."""
    import datasets
    import pyarrow.dataset as ds

    path, options = Path(source.dataset).expanduser(), {}
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))[source.split].to_iterable_dataset()
        if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
            return datasets.load_from_disk(str(path)).to_iterable_dataset()
        if path.is_dir():
            if not any(path.rglob("*.parquet")):
                raise FileNotFoundError(f"no {', '.join(METADATA)} and no .parquet file there")
            options = {"fragment_scan_options": ds.ParquetFragmentScanOptions(pre_buffer=False)}  # else whole files in memory
        elif path.is_absolute() or source.dataset.startswith((".", "~")) or path.exists():
            raise FileNotFoundError("no kind of file that is read" if path.exists() else "no such file or folder")
        name = str(path) if path.is_dir() else source.dataset
        return datasets.load_dataset(name, source.subset, split=source.split, streaming=True, **options)
    except Exception as e:
        raise failure_of(e)(
            f"natural.recordings: '{source.dataset}' cannot be opened ({told(e)})",
            "name a hub dataset, Parquet files, an audio folder with metadata, or Lhotse cuts (docs/natural.md)",
        ) from e


def _parquet_rows(file: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:  # with it, the whole file comes into memory
        for batch in parquet.iter_batches(16, columns=columns):
            yield from batch.to_pylist()


def _table(source: Recordings, rows: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    """Rows whose sound is {bytes, path}, bytes or a path."""
    for number, row in enumerate(rows):
        given = row[source.audio_column]
        audio = given if isinstance(given, dict) else {"bytes" if isinstance(given, bytes) else "path": given}
        name = PurePosixPath(str(audio.get("path") or "")).name
        yield _entry(source, row, f"{number} {name}".strip(), lambda audio=audio: _decode_struct(audio))  # type: ignore[misc]


def _decode_struct(audio: dict[str, Any]) -> tuple[Wave, int]:
    """`bytes` where the row has them, else the file at `path`, which may be inside a hub dataset."""
    if isinstance(audio.get("bytes"), bytes):
        return _decode(io.BytesIO(audio["bytes"]))
    path = audio.get("path")
    if not isinstance(path, str) or not path or "\0" in path:
        raise Unreadable("no sound")
    if path.rpartition("::")[2].startswith("hf://"):
        import fsspec

        with fsspec.open(path, "rb") as f:
            return _decode(io.BytesIO(f.read()))
    return _decode(Path(path))


# -- Lhotse cuts -----------------------------------------------------------------------------------------------


def _lhotse_cuts(source: Recordings) -> Iterator[Entry]:
    """An entry a supervision. Its times count from the cut's start, those of its words from the recording's (lhotse #1193)."""
    try:
        from lhotse import CutSet
        from lhotse.cut import MixedCut, MonoCut, MultiCut
    except ImportError as e:
        raise SaladError("natural.recordings: Lhotse cuts need lhotse", "pip install 'salad-speech[lhotse]'") from e
    path = Path(source.dataset).expanduser()
    if not path.is_file():
        raise SaladError(f"natural.recordings: no such file: {path}", "name the .jsonl or .jsonl.gz of a Lhotse CutSet")
    for cut in CutSet.from_jsonl_lazy(path):
        if not isinstance(cut, MonoCut | MultiCut | MixedCut):
            raise SaladError(
                f"natural.recordings: {path} holds {type(cut).__name__}s and no cuts",
                "make cuts of them: lhotse cut simple; metadata of an audio folder is called metadata.jsonl",
            )
        if not cut.supervisions:
            yield Entry(cut.id, None, None, None, lambda: (np.zeros(0, np.float32), 0))
        for said in sorted(cut.supervisions, key=lambda s: float(s.start)):
            aligned, start = (said.alignment or {}).get("word") or [], cut.start + said.start
            words = [{"word": w.symbol, "start": w.start - start, "end": w.end - start} for w in aligned]
            sound = lambda cut=cut, said=said: _decode_cut(cut, said)  # noqa: E731
            yield Entry(said.id, said.text, said.speaker or said.recording_id, words, sound)


def _decode_cut(cut: Any, said: Any) -> tuple[Wave, int]:
    """The sound of a supervision, read from the file by its times."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        raise Unreadable("cut is mixed or has no recording")
    if recording.transforms:
        raise Unreadable("cut is transformed")  # its sound exists nowhere: CutSet.save_audios writes it
    channels = said.channel if isinstance(said.channel, list) else [said.channel]
    holds = next((s for s in recording.sources if set(channels) & set(s.channels)), None)
    if holds is None:
        raise Unreadable("no such channel")
    if holds.type != "file":  # a command would be run, a URL fetched
        raise Unreadable("sound is not in a file")
    start = cut.start + said.start
    if not (start > -SLACK and said.duration > 0):
        raise Unreadable("no sound")
    columns = [holds.channels.index(c) for c in channels if c in holds.channels]
    return _decode(Path(holds.source), max(start, 0.0), said.duration, columns)


# -- what the readers share -------------------------------------------------------------------------------------


def _columns(source: Recordings) -> list[str]:
    named = source.audio_column, source.text_column, source.words_column, source.group_column
    return list(dict.fromkeys(filter(None, named)))


def _check_columns(source: Recordings, columns: Sequence[str], audio: str) -> None:
    for column in filter(None, (audio, source.text_column, source.words_column, source.group_column)):
        if column not in columns:
            known = ", ".join(map(str, columns))
            raise SaladError(f"natural.recordings: '{source.dataset}' has no column '{column}'", f"its columns: {known}")


def _entry(source: Recordings, row: dict[str, Any], key: str, sound: Callable[[], tuple[Wave, int]]) -> Entry:
    group, words = (row.get(name) if name else None for name in (source.group_column, source.words_column))
    return Entry(key, row.get(source.text_column), group, words, sound)


def _decode(file: Path | io.BytesIO, start: float = 0.0, seconds: float | None = None, channels: Sequence[int] = ()) -> Any:
    """(wave, rate) of a part of a file in any format of libsndfile, its channels (all, unless named) mixed down."""
    import soundfile as sf

    if isinstance(file, Path) and not file.is_file():
        raise Unreadable("no such file")
    with sf.SoundFile(file) as f:
        if start:
            f.seek(min(round(start * f.samplerate), f.frames))
        samples = f.read(-1 if seconds is None else round(seconds * f.samplerate), dtype="float32", always_2d=True)
        rate = f.samplerate
    return (samples[:, list(channels)] if channels else samples).mean(axis=1, dtype=np.float32), rate
