"""Natural speech that the user brings: recordings with transcripts, or a folder of shards in our own format (docs/natural.md).

Recordings become shards like all others: levelled, resampled once to what encoder and ASR hear, a share of them checked by the
ASR, and what cannot be used named with its reason.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad import audio
from salad.audio import HEARD_RATE
from salad.config import Config, Recordings
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.card import card, shards_front
from salad.pipeline.export.facts import speech_facts
from salad.pipeline.models import Models
from salad.pipeline.recordings import Recording, Unusable, read_recordings, recording_files
from salad.pipeline.schema import REJECTED
from salad.pipeline.utterances import Sample, make_samples
from salad.seeds import happens
from salad.tts import sound
from salad.tts.quality import character_error_rate

if TYPE_CHECKING:
    from salad.pipeline.stages import Run, Stage

NEEDED = ("id", "text", "audio", "spans")
ENGINE = "recording"
BATCH = 32  # samples that the ASR hears at once
BUFFER = 64  # rows of rejected.parquet held in memory; a sample that was not understood keeps its sound

Row = dict[str, Any]


def stage(run: Run) -> Stage:
    """The "natural" stage of a run whose `natural.recordings` or `natural.shards` names speech."""
    from salad.pipeline.stages import Stage

    c = run.config
    if c.natural.recordings is None:
        folder = Path(str(c.natural.shards))
        listing = {p.name: p.stat().st_size for p in shards.shard_files(folder)}
        return Stage("natural", lambda out, p: build_natural(out, folder, p), {"shards": str(folder), "files": listing})
    depends = {
        "natural": c.natural.model_dump(mode="json"),
        "files": recording_files(c.natural.recordings),
        "quality": c.speech.quality.model_dump(mode="json"),
        "interleave": c.interleave.model_dump(mode="json"),
        "words": [c.pool.min_words, c.pool.max_words],
        "shard_rows": c.speech.shard_rows,
        "frame_rate": c.student.adapter.frame_rate,
        "asr": c.models.asr,
    }

    def build(out: Path, progress: Callable[[float], None]) -> dict[str, Any]:
        return build_recordings(out, c, run.models, progress)

    return Stage("natural", build, depends, total=c.natural.seconds, unit="s of speech", network=True)


def build_natural(out: Path, folder: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Copy the shards' data files; SaladError when there are none or a column is missing."""
    files = shards.shard_files(folder)
    if not files:
        raise SaladError(f"natural.shards: no data/*.parquet in {folder}", "prepare speech shards as docs/shards.md says")
    (out / "data").mkdir(exist_ok=True)
    rows = 0
    for path in files:
        with shards.open_shard(path) as shard:
            names = shard.schema_arrow.names
            rows += shard.metadata.num_rows
        if missing := [c for c in NEEDED if c not in names]:
            raise SaladError(f"natural.shards: {path} has no column '{missing[0]}'", "see docs/shards.md for the columns")
        shutil.copy(path, out / "data" / path.name)
        progress(rows)
    _write_card(out, folder.name)
    return {"rows": rows}


def build_recordings(out: Path, config: Config, models: Models, progress: Callable[[float], None]) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `rejected.parquet` and a card until `natural.seconds` are heard or no recording is left.

    One shard is in memory at a time. Returns counts, seconds, reasons and CER; SaladError when nothing can be used.
    """
    source, wanted = config.natural.recordings, config.natural.seconds
    assert source is not None
    read, kept = _Read(), _Shards(out / "data", config.speech.shard_rows)
    spent, timed = 0.0, 0
    reasons: Counter[str] = Counter()
    example: dict[str, str] = {}
    cers: list[float] = []
    samples = make_samples(read.counted(read_recordings(source)), config)
    with _Rejects(out / "rejected.parquet") as rejects:
        for item, row in _judged(samples, config, models):
            if row["cer"] is not None:
                cers.append(row["cer"])
            if reason := row["rejected"]:
                reasons[reason] += 1
                example.setdefault(reason, item.key)
                rejects.add(row)
                continue
            kept.add({**row, "rank": kept.rows})
            timed += isinstance(item, Sample) and item.timed
            spent += row["seconds"]
            progress(min(spent, wanted))
            if spent >= wanted:
                break
    if not kept.rows:
        raise SaladError(
            _nothing(source, read.utterances, reasons, example), "mend what it names; docs/natural.md says what is needed"
        )
    kept.finish()
    judge = config.models.asr
    _write_card(out, source.dataset, judge=judge, judge_hears_as_student=judge == config.models.encoder)
    return {
        "rows": kept.rows,
        "seconds": round(spent, 3),
        "utterances": read.utterances,
        "groups": len(read.groups),
        "by_word_times": timed,
        "rejected": dict(reasons.most_common()),
        "cer": round(sum(cers) / len(cers), 4) if cers else None,
        "cer_checked": len(cers),
    }


def _write_card(out: Path, source: str, **facts: Any) -> None:
    """The dataset card of the shards in `out`, beside them."""
    rejected = [path] if (path := out / "rejected.parquet").is_file() else []
    files = shards.shard_files(out)
    told = speech_facts("natural speech", files, rejected, chosen={"recordings": source}, **facts)
    front = {**shards_front(files), "task_categories": ["automatic-speech-recognition"], "tags": ["audio", "salad"]}
    (out / "README.md").write_text(card(told, front=front), encoding="utf-8")


def _judged(items: Iterator[Sample | Unusable], config: Config, models: Models) -> Iterator[tuple[Sample | Unusable, Row]]:
    """Each with its row: of a shard, or of rejected.parquet where `rejected` has a reason. The ASR hears `asr_share` of them."""
    source, share = config.natural.recordings, config.natural.asr_share if config.models.asr else 0.0
    assert source is not None
    while batch := list(islice(items, BATCH)):
        listen = [s for s in batch if isinstance(s, Sample) and models.asr and happens(share, config.seed, "asr", s.id)]
        heard = models.transcribe({s.id: [wave for _, wave in s.spans] for s in listen})
        for item in batch:
            row = {"text": item.text, "source": source.dataset, "engine": ENGINE, "voice": item.group, "cer": None}
            if isinstance(item, Unusable):
                yield item, {**row, "id": item.key, "rejected": item.reason}
            else:
                yield item, {**row, **_facts(item, heard.get(item.id), config)}


def _facts(sample: Sample, heard: Sequence[str] | None, config: Config) -> Row:
    """The rest of a sample's row."""
    ranges = [span for span, _ in sample.spans]
    given = [wave for _, wave in sample.spans]
    said = [sample.text[a:b].strip() for a, b in ranges]
    cer = None if heard is None else character_error_rate(said, list(heard))
    measures = sound.measure(given, HEARD_RATE)
    waves, gain = sound.level(given, HEARD_RATE, config.speech.quality.level)
    whole = np.concatenate(waves)
    row = {"id": sample.id, "text": sample.text, "selector": ENGINE, "reason": f"recorded: {sample.key}"}
    return shards.speech_row(
        row,
        ranges,
        said,
        audio.to_flac(whole, HEARD_RATE),
        HEARD_RATE,
        list(accumulate(map(len, waves))),
        cer=cer,
        heard=None if heard is None else " | ".join(heard),
        words_per_second=sum(len(s.split()) for s in said) / sample.seconds,
        edge_silence=measures.edge_silence,
        pause=measures.pause,
        clipped=sample.clipped,
        gain=gain,
        peak=float(np.abs(whole).max()),
        rejected="not understood" if cer is not None and cer > config.speech.quality.max_cer else None,
    )


def _nothing(source: Recordings, utterances: int, reasons: Counter[str], example: dict[str, str]) -> str:
    named = ", ".join(f"{n} {reason} (first: {example[reason]})" for reason, n in reasons.most_common(3))
    return (
        f"natural.recordings: none of the {utterances} utterances of '{source.dataset}' can be used: {named or 'it holds none'}"
    )


@dataclass
class _Read:
    """What was read so far."""

    utterances: int = 0
    groups: set[str] = field(default_factory=set)

    def counted(self, recordings: Iterable[Recording | Unusable]) -> Iterator[Recording | Unusable]:
        for item in recordings:
            self.utterances += 1
            self.groups.add(item.group)
            yield item


class _Shards:
    """Rows to `train-*.parquet`, a shard in memory; what an attempt that was killed had written goes first."""

    def __init__(self, folder: Path, shard_rows: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.folder, self.shard_rows, self.rows = folder, shard_rows, 0
        self._waiting: list[Row] = []
        self._files: list[Path] = []

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) == self.shard_rows:
            self._write()

    def finish(self) -> None:
        """Final names, which tell how many there are."""
        if self._waiting:
            self._write()
        for i, path in enumerate(self._files):
            path.rename(self.folder / f"train-{i:05d}-of-{len(self._files):05d}.parquet")

    def _write(self) -> None:
        self._files.append(self.folder / f"{len(self._files):05d}.parquet")
        shards.write_speech(self._waiting, self._files[-1])
        self._waiting = []


class _Rejects:
    """Rows to `rejected.parquet`, which there is even without one."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, REJECTED, compression="zstd")
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        if len(self._waiting) == BUFFER:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, REJECTED))
        self._waiting = []

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        self._writer.close()
