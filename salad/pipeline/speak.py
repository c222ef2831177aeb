"""The task that makes a speech shard: its texts spoken, listened to, judged and written, as if the budget had room for all.

What it writes has a name of its texts, so that a shard which was spoken ahead of its turn in vain is never taken for another,
and a sidecar written last: a build that was killed finds it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.config import Quality
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.compute.parts import describe, is_whole, write_whole
from salad.pipeline.ledger import Outcome, Row
from salad.tts.quality import character_error_rate, fault

if TYPE_CHECKING:
    from salad.pipeline.models import Models
    from salad.pipeline.script import Script
    from salad.tts.takes import Take

_said: dict[str, float] = {}  # seconds that this process's tasks have said so far, by stem: for the progress bar


@dataclass(frozen=True)
class Shard:
    """The files of a spoken shard: `stem` and a suffix each."""

    stem: Path

    @classmethod
    def of(cls, rows: Sequence[Row], folder: Path, number: int) -> Shard:
        texts = blake2b("\n".join(row["id"] for row in rows).encode(), digest_size=8).hexdigest()
        return cls(folder / f"{number:05d}-{texts}")

    @property
    def files(self) -> tuple[Path, Path]:
        """What was kept, and what was turned down."""
        return self.stem.with_suffix(".parquet"), self.stem.with_suffix(".rejected.parquet")

    @property
    def sidecar(self) -> Path:
        return self.stem.with_suffix(".json")

    def is_spoken(self) -> bool:
        return is_whole(self.files, self.sidecar)

    def read(self) -> dict[str, Any]:
        """`outcomes` and `cers`. SaladError unless all is here as it was written."""
        if not self.is_spoken():
            advice = "the run's folder must be one file system, mounted at the same path on all machines"
            raise SaladError(f"a shard that a worker spoke is not here, or not as it was written ({self.stem}.*)", advice)
        said = json.loads(self.sidecar.read_text(encoding="utf-8"))
        return {"outcomes": [Outcome(*o) for o in said["outcomes"]], "cers": said["cers"]}

    def seconds_said(self) -> float:
        return _said.get(str(self.stem), 0.0)

    def remove(self) -> None:
        for path in (self.sidecar, *self.files):
            path.unlink(missing_ok=True)


def speak_shard(models: Models, stem: str, rows: list[Row], scripts: list[Script], judged: bool) -> None:
    """The task. judged: False keeps what the ASR did not understand."""

    def progress(seconds: float) -> None:
        models.go_on()
        _said[stem] = seconds

    try:
        takes = models.speakers.submit([s.job for s in scripts if not s.problem]).takes(progress)
        _write(models, Shard(Path(stem)), rows, scripts, takes, judged)
    finally:
        _said.pop(stem, None)


def _write(models: Models, shard: Shard, rows: list[Row], scripts: list[Script], takes: dict[str, Take], judged: bool) -> None:
    """Judge takes and write what was kept, what was turned down and, last, the sidecar that says so."""
    quality = models.config.speech.quality
    listened = {
        t.key: t.heard for t in takes.values() if t.heard is not None and t.measures and t.measures.longest <= quality.max_seconds
    }
    heard = models.transcribe(listened)
    kept, turned_down, outcomes, cers = [], [], [], []
    for row, script in zip(rows, scripts, strict=True):
        facts, rejected = _judge(row, script, takes.get(row["id"]), heard.get(row["id"]), judged, quality)
        outcomes.append(Outcome(row["id"], row["cluster"], facts.get("seconds") or 0.0, rejected))
        if facts.get("cer") is not None:
            cers.append(facts["cer"])
        if rejected is None:
            kept.append(facts)
        else:
            turned_down.append({**facts, "rejected": rejected})
    write_whole(shard.files[0], lambda tmp: shards.write_speech(kept, tmp))
    write_whole(shard.files[1], lambda tmp: shards.write_rejected(turned_down, tmp))
    describe(shard.files, shard.sidecar, outcomes=[astuple(o) for o in outcomes], cers=cers)


def _judge(
    row: Row, script: Script, take: Take | None, heard: list[str] | None, judged: bool, quality: Quality
) -> tuple[dict[str, Any], str | None]:
    """The row of the shard, as far as the text came, and why it cannot be used."""
    voice = script.job.voice
    spoken_by = {**row, "engine": voice.engine, "voice": voice.label}
    if script.problem:
        return spoken_by, f"cannot be spoken: {script.problem}"
    assert take is not None
    if take.fault or take.measures is None:
        return spoken_by, take.fault
    measures = take.measures
    cer = None if heard is None else character_error_rate(script.said, heard)
    n_words = sum(len(text.split()) for text in script.said)
    facts = {
        "cer": cer,
        "heard": None if heard is None else " | ".join(heard),
        "words_per_second": n_words / measures.seconds,
        "edge_silence": measures.edge_silence,
        "pause": measures.pause,
        "clipped": measures.clipped,
        "gain": take.gain,
        "peak": take.peak,
    }

    sample = shards.speech_row(spoken_by, script.ranges, script.said, take.flac, take.rate, take.ends, **facts)
    return sample, fault(measures, n_words, cer if judged else None, quality)
