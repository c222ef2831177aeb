"""Texts to speech shards: speak, check, replace what fails from its own cluster, until the budget is met.

Work is done shard by shard. A finished shard's sidecar (`_shards/NNNNN.json`, written last) lets a killed
build go on where it was: the sidecar replays the shard's outcome, so the texts that follow are the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.artifact import checksum, sync_json
from salad.config import Config, Voice
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.card import SHARDS, card
from salad.pipeline.export.facts import speech_facts
from salad.pipeline.ledger import NOT_REACHED, OVER_BUDGET, Ledger, Order, Outcome, Row
from salad.pipeline.models import Models
from salad.pipeline.schema import REJECTED
from salad.pipeline.script import Script, write_script
from salad.tts.quality import character_error_rate, fault
from salad.tts.takes import Take
from salad.tts.workers import Ticket

Progress = Callable[..., None]  # seconds of speech so far, and of how many
HOPELESS = 64  # texts turned down, and none kept, after which something is wrong that is not the texts


@dataclass
class Session:
    """Who speaks a folder's texts, and how they are judged.

    checked: which ids the ASR listens to. judged_by_cer: False keeps what the ASR
    did not understand (probes: their CER is a finding, not a fault).
    """

    models: Models
    voices: Sequence[Voice]
    checked: Callable[[str], bool] = lambda text_id: True
    judged_by_cer: bool = True
    _ahead: tuple[list[Row], _Spoken] | None = field(default=None, init=False)

    @property
    def config(self) -> Config:
        return self.models.config

    def script(self, row: Row) -> Script:
        """What is said of a row, and by whom."""
        listens = self.models.asr is not None and self.checked(row["id"])
        return write_script(row, self.config, self.voices, listens)

    def start(self, rows: list[Row]) -> _Spoken:
        """Hand texts to those who speak."""
        if self._ahead and self._ahead[0] == rows:
            spoken, self._ahead = self._ahead[1], None
            return spoken
        self.stop()
        scripts = [self.script(row) for row in rows]
        return _Spoken(scripts, self.models.speakers.submit([s.job for s in scripts if not s.problem]))

    def start_ahead(self, rows: list[Row]) -> None:
        """Rows that are likely to be the next: said while the ones before them are checked and written."""
        if rows:
            self._ahead = (rows, self.start(rows))

    def stop(self) -> None:
        if self._ahead:
            self._ahead[1].ticket.drop()
            self._ahead = None


@dataclass
class _Spoken:
    scripts: list[Script]
    ticket: Ticket


def build_speech(out: Path, name: str, order: Order, session: Session, progress: Progress) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `rejected.parquet` and a dataset card; returns counts and seconds."""
    (out / "data").mkdir(exist_ok=True)
    (out / "_shards").mkdir(exist_ok=True)
    ledger = Ledger(order)
    reasons: Counter[str] = Counter()
    cers: list[float] = []
    count = accepted = 0
    size = session.config.speech.shard_rows
    total = order.budget or sum(row["est_seconds"] for row in order.rows)
    try:
        while batch := ledger.next_batch(size):
            outcomes = _finished(out, count)
            if outcomes is None:
                spoken = session.start(batch)
                if _finished(out, count + 1) is None:
                    session.start_ahead(ledger.peek(batch, size))
                before = ledger.spent
                takes = spoken.ticket.takes(lambda seconds, before=before: progress(before + seconds, total))  # type: ignore[misc]
                outcomes = _write_shard(out, count, batch, spoken.scripts, takes, ledger, session)
            for outcome in outcomes["outcomes"]:
                ledger.settle(outcome)
                accepted += outcome.rejected is None
                reasons.update([outcome.rejected] if outcome.rejected else [])
            cers += outcomes["cers"]
            count += 1
            progress(ledger.spent, total)
            if not accepted and reasons.total() >= HOPELESS:
                why = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
                raise SaladError(f"{name}: none of the first {reasons.total()} texts could be used ({why})", "see `speech`")
    finally:
        session.stop()
    unreached = [{**row, "rejected": NOT_REACHED} for row in ledger.queue]
    _gather(out, count, unreached, name, session.config, order.budget)
    return {
        "rows": accepted,
        "seconds": round(ledger.spent, 3),
        "budget": order.budget,
        "rejected": dict(reasons),
        "not_reached": len(unreached),
        "cer": round(sum(cers) / len(cers), 4) if cers else None,
        "cer_checked": len(cers),
    }


def _write_shard(
    out: Path, number: int, batch: list[Row], scripts: list[Script], takes: dict[str, Take], ledger: Ledger, session: Session
) -> dict[str, Any]:
    """Judge a batch's takes and write its shard, its rejected rows and, last, the sidecar that says so."""
    longest = session.config.speech.quality.max_seconds
    listened = {t.key: t.heard for t in takes.values() if t.heard is not None and t.measures and t.measures.longest <= longest}
    heard = session.models.transcribe(listened)
    trial = Ledger(Order([], budget=ledger.order.budget), spent=ledger.spent)
    kept, turned_down, outcomes, cers = [], [], [], []
    for row, script in zip(batch, scripts, strict=True):
        take = takes.get(row["id"])
        facts, rejected = _judge(row, script, take, heard.get(row["id"]), session)
        seconds = facts.get("seconds") or 0.0
        if rejected is None and not trial.fits(seconds):
            rejected = OVER_BUDGET
        outcome = Outcome(row["id"], row["cluster"], seconds, rejected)
        trial.settle(outcome)
        outcomes.append(outcome)
        if facts.get("cer") is not None:
            cers.append(facts["cer"])
        if rejected is None:
            kept.append(facts)
        else:
            turned_down.append({**facts, "rejected": rejected})
    shards.write_speech(kept, _kept_file(out, number))
    shards.write_rejected(turned_down, _rejected_file(out, number))
    sidecar = {
        "outcomes": [[o.id, o.cluster, o.seconds, o.rejected] for o in outcomes],
        "cers": cers,
        "files": {p.name: checksum(p) for p in (_kept_file(out, number), _rejected_file(out, number))},
    }
    sync_json(_sidecar(out, number), sidecar)
    return {"outcomes": outcomes, "cers": cers}


def _judge(
    row: Row, script: Script, take: Take | None, heard: list[str] | None, session: Session
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
    judged = cer if session.judged_by_cer else None
    sample = shards.speech_row(spoken_by, script.ranges, script.said, take.flac, take.rate, take.ends, **facts)
    return sample, fault(measures, n_words, judged, session.config.speech.quality)


def _kept_file(out: Path, number: int) -> Path:
    return out / "_shards" / f"{number:05d}.parquet"


def _rejected_file(out: Path, number: int) -> Path:
    return out / "_shards" / f"{number:05d}.rejected.parquet"


def _sidecar(out: Path, number: int) -> Path:
    return out / "_shards" / f"{number:05d}.json"


def _finished(out: Path, number: int) -> dict[str, Any] | None:
    """What an earlier, killed build finished as this shard; None unless its files are what it wrote."""
    try:
        found = json.loads(_sidecar(out, number).read_text(encoding="utf-8"))
        if any(checksum(out / "_shards" / name) != value for name, value in found["files"].items()):
            return None
        return {"outcomes": [Outcome(*o) for o in found["outcomes"]], "cers": found["cers"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy on file systems that have no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy(source, target)


def _gather(out: Path, count: int, unreached: list[Row], name: str, config: Config, budget: float | None) -> None:
    """Final names, one `rejected.parquet`, and the dataset card. Shards without a row are left out."""
    kept = [p for p in (_kept_file(out, i) for i in range(count)) if pq.read_metadata(p).num_rows]
    for stale in (out / "data").iterdir():
        stale.unlink()
    for i, path in enumerate(kept):
        _link(path, out / "data" / f"train-{i:05d}-of-{len(kept):05d}.parquet")
    with pq.ParquetWriter(out / "rejected.parquet", REJECTED, compression="zstd") as writer:
        for i in range(count):
            writer.write_table(pq.read_table(_rejected_file(out, i)))
        writer.write_table(pa.Table.from_pylist(unreached, REJECTED))
    if kept:
        judge = config.models.asr
        circular = judge == config.models.encoder
        facts = speech_facts(name, kept, [out / "rejected.parquet"], budget=budget, judge=judge, judge_hears_as_student=circular)
        (out / "README.md").write_text(card(facts, front=SHARDS), encoding="utf-8")
