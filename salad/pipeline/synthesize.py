"""Texts to speech shards: speak, check, replace what fails from its own cluster, until the budget is met.

Work is done shard by shard. A finished shard's sidecar (`_shards/NNNNN.json`, written last) lets a killed
build go on where it was: the sidecar replays the shard's outcome, so the texts that follow are the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.artifact import checksum, sync_json
from salad.audio import Wave, resample
from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.models import Models
from salad.pipeline.pool import spoken_ranges
from salad.pipeline.schema import REJECTED
from salad.tts.quality import LONGEST, Limits, character_error_rate, fault
from salad.whisper import RATE

TOLERANCE = 0.02  # of the budget, either way

Row = dict[str, Any]


@dataclass
class Order:
    """What to speak: rows in order, replacements by cluster, and the budget in seconds (None: all rows)."""

    rows: list[Row]
    reserve: dict[int, list[Row]] = field(default_factory=dict)
    budget: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One text's fate: its seconds and why it was turned down, if it was."""

    id: str
    cluster: int
    seconds: float
    rejected: str | None


@dataclass
class Ledger:
    """What was spent and what comes next: a function of the order and of the outcomes so far, nothing else."""

    order: Order
    spent: float = 0.0
    by_cluster: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    queue: list[Row] = field(default_factory=list)
    reserve: dict[int, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = list(self.order.rows)
        self.reserve = {c: list(rows) for c, rows in self.order.reserve.items()}
        self.asked: dict[int, float] = defaultdict(float)
        for row in self.order.rows:
            self.asked[row["cluster"]] += row["est_seconds"]

    @property
    def met(self) -> bool:
        return self.order.budget is not None and self.spent >= (1 - TOLERANCE / 2) * self.order.budget

    def fits(self, seconds: float) -> bool:
        return self.order.budget is None or self.spent + seconds <= (1 + TOLERANCE) * self.order.budget

    def next_batch(self, size: int) -> list[Row]:
        """The next texts to speak: the queue, then reserves of the clusters that got least of what they asked."""
        if self.met:
            return []
        if not self.queue and self.order.budget is not None:
            self._top_up()
        limit = None if self.order.budget is None else self.order.budget - self.spent
        batch: list[Row] = []
        while self.queue and len(batch) < size and (limit is None or sum(r["est_seconds"] for r in batch) < limit):
            batch.append(self.queue.pop(0))
        return batch

    def _top_up(self) -> None:
        """Queue reserves whose estimates fit what is missing, first from the clusters that lag most."""
        missing = (self.order.budget or 0.0) - self.spent
        slack = TOLERANCE * (self.order.budget or 0.0)
        expected = dict(self.by_cluster)
        while missing > 0:
            lag = {c: self.asked[c] - expected.get(c, 0.0) for c in self.reserve}
            fitting = (
                (cluster, i)
                for cluster in sorted(lag, key=lambda c: (-lag[c], c))
                for i, row in enumerate(self.reserve[cluster])
                if row["est_seconds"] <= missing + slack
            )
            found = next(fitting, None)
            if found is None:
                return
            cluster, i = found
            row = self.reserve[cluster].pop(i)
            expected[cluster] = expected.get(cluster, 0.0) + row["est_seconds"]
            missing -= row["est_seconds"]
            self.queue.append(row)

    def settle(self, outcome: Outcome) -> None:
        """Book an outcome; a text turned down for its sound is replaced from its own cluster."""
        if outcome.rejected is None:
            self.spent += outcome.seconds
            self.by_cluster[outcome.cluster] += outcome.seconds
        elif outcome.rejected != OVER_BUDGET and self.reserve.get(outcome.cluster):
            self.queue.append(self.reserve[outcome.cluster].pop(0))


OVER_BUDGET = "over budget"
NOT_REACHED = "budget met before its turn"


def turned_down(speech: Path, columns: list[str]) -> pa.Table:
    """Of a published speech folder, the texts that were spoken and not used; those whose turn never came are left out."""
    rows = pq.read_table(speech / "rejected.parquet", columns=[*columns, "rejected"])
    return rows.filter(pc.not_equal(rows["rejected"], NOT_REACHED)).select(columns)


def build_speech(
    out: Path,
    name: str,
    order: Order,
    config: Config,
    models: Models,
    progress: Callable[[float], None],
    checked: Callable[[str], bool] = lambda text_id: True,
    judged_by_cer: bool = True,
) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `rejected.parquet` and a dataset card; returns counts and seconds.

    checked: which ids the ASR listens to. judged_by_cer: False keeps what the ASR did not understand
    (probes: their CER is a finding, not a fault).
    """
    (out / "data").mkdir(exist_ok=True)
    (out / "_shards").mkdir(exist_ok=True)
    ledger = Ledger(order)
    reasons: Counter[str] = Counter()
    cers: list[float] = []
    count = accepted = 0
    while batch := ledger.next_batch(config.speech.shard_rows):
        outcomes = _finished(out, count)
        if outcomes is None:
            outcomes = _speak_shard(out, count, batch, ledger, config, models, checked, judged_by_cer)
        for outcome in outcomes["outcomes"]:
            ledger.settle(outcome)
            accepted += outcome.rejected is None
            reasons.update([outcome.rejected] if outcome.rejected else [])
        cers += outcomes["cers"]
        count += 1
        progress(ledger.spent)
    unreached = [{**row, "rejected": NOT_REACHED} for row in ledger.queue]
    _gather(out, count, unreached, name, config, ledger.spent, accepted)
    return {
        "rows": accepted,
        "seconds": round(ledger.spent, 3),
        "budget": order.budget,
        "rejected": dict(reasons),
        "not_reached": len(unreached),
        "cer": round(sum(cers) / len(cers), 4) if cers else None,
        "cer_checked": len(cers),
    }


def _speak_shard(
    out: Path,
    number: int,
    batch: list[Row],
    ledger: Ledger,
    config: Config,
    models: Models,
    checked: Callable[[str], bool],
    judged_by_cer: bool,
) -> dict[str, Any]:
    kept, turned_down, outcomes, cers = [], [], [], []
    trial = Ledger(Order([], budget=ledger.order.budget), spent=ledger.spent)
    for row, spoken, waves, rate, heard in _speak(batch, config, models, checked):
        texts = [row["text"][a:b].strip() for a, b in spoken]
        cer = None if heard is None else character_error_rate(texts, heard)
        limit = config.speech.max_cer if judged_by_cer else float("inf")
        limits = Limits(limit, config.speech.min_words_per_second, config.speech.max_words_per_second)
        n_words = sum(len(t.split()) for t in texts)
        seconds = sum(map(len, waves)) / rate
        rejected = fault(waves, rate, n_words, cer, limits)
        if rejected is None and not trial.fits(seconds):
            rejected = OVER_BUDGET
        outcome = Outcome(row["id"], row["cluster"], seconds, rejected)
        trial.settle(outcome)
        outcomes.append(outcome)
        if cer is not None:
            cers.append(cer)
        if rejected is None:
            facts = {"engine": config.speech.engine, "voice": config.speech.voice, "cer": cer}
            kept.append(shards.speech_row(row, spoken, waves, rate, words_per_second=n_words / seconds, **facts))
        else:
            heard_text = None if heard is None else " | ".join(heard)
            turned_down.append({**row, "seconds": seconds, "cer": cer, "heard": heard_text, "rejected": rejected})
    shards.write_speech(kept, _kept_file(out, number))
    shards.write_rejected(turned_down, _rejected_file(out, number))
    sidecar = {
        "outcomes": [[o.id, o.cluster, o.seconds, o.rejected] for o in outcomes],
        "cers": cers,
        "files": {p.name: checksum(p) for p in (_kept_file(out, number), _rejected_file(out, number))},
    }
    sync_json(_sidecar(out, number), sidecar)
    return {"outcomes": outcomes, "cers": cers}


def _speak(
    batch: list[Row], config: Config, models: Models, checked: Callable[[str], bool]
) -> Iterator[tuple[Row, list[tuple[int, int]], list[Wave], int, list[str] | None]]:
    """Each row with its spoken ranges, their sounds, and what the ASR heard in them (None: not checked)."""
    ranges = [spoken_ranges(row["text"], row["id"], config) for row in batch]
    texts = [row["text"][a:b].strip() for row, spoken in zip(batch, ranges, strict=True) for a, b in spoken]
    sounds = iter(models.engine.synthesize(texts, config.speech.voice))
    spoken_rows = [[next(sounds) for _ in spoken] for spoken in ranges]
    heard = _listen(batch, spoken_rows, models, checked)
    for row, spoken, sound in zip(batch, ranges, spoken_rows, strict=True):
        rate = sound[0].rate if sound else RATE
        yield row, spoken, [s.wave for s in sound], rate, heard.get(row["id"])


def _listen(batch: list[Row], sounds: list[list[Any]], models: Models, checked: Callable[[str], bool]) -> dict[str, list[str]]:
    if models.asr is None:
        return {}
    members = [
        (row["id"], sound)
        for row, sound in zip(batch, sounds, strict=True)
        if checked(row["id"]) and all(len(s.wave) <= LONGEST * s.rate for s in sound)
    ]
    waves = [resample(s.wave, s.rate, RATE) for _, sound in members for s in sound]
    found = models.asr.transcribe(waves)
    if len(found) != len(waves):
        raise SaladError(f"the ASR gave {len(found)} transcripts of {len(waves)} sounds", "mend or change models.asr")
    transcripts = iter(found)
    return {text_id: [next(transcripts) for _ in sound] for text_id, sound in members}


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


def _gather(out: Path, count: int, unreached: list[Row], name: str, config: Config, seconds: float, rows: int) -> None:
    """Final names, one `rejected.parquet`, and the dataset card. Shards without a row are left out."""
    kept = [p for p in (_kept_file(out, i) for i in range(count)) if pq.read_metadata(p).num_rows]
    for stale in (out / "data").iterdir():
        stale.unlink()
    for i, path in enumerate(kept):
        _link(path, out / "data" / f"train-{i:05d}-of-{len(kept):05d}.parquet")
    tables = [pq.read_table(_rejected_file(out, i)) for i in range(count)]
    tables.append(pa.Table.from_pylist(unreached, REJECTED))
    pq.write_table(pa.concat_tables(tables), out / "rejected.parquet", compression="zstd")
    first = f"train-00000-of-{len(kept):05d}.parquet"
    card = shards.CARD.format(
        name=name, rows=rows, seconds=seconds, engine=config.speech.engine, voice=config.speech.voice, first=first
    )
    (out / "README.md").write_text(card, encoding="utf-8")
