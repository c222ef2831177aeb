"""Texts to speech shards: speak, check, replace what fails from its own cluster, until the budget is met.

Work is done shard by shard, several at once (`speak.py`), and settled here in their order. A settled shard's sidecar
(`_shards/NNNNN.json`, written last) lets a killed build go on where it was: it replays the shard's outcome, so the texts that
follow are the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.artifact import checksum, sync_json
from salad.config import Config, Voice
from salad.errors import SaladError
from salad.pipeline import shards, speak
from salad.pipeline.card import card, shards_front
from salad.pipeline.compute import Runner
from salad.pipeline.export.facts import speech_facts
from salad.pipeline.ledger import NOT_REACHED, OVER_BUDGET, Ledger, Order, Outcome, Row
from salad.pipeline.models import Models
from salad.pipeline.schema import REJECTED
from salad.pipeline.script import Script, write_script
from salad.pipeline.speak import Shard
from salad.seeds import happens

Progress = Callable[..., None]  # seconds of speech so far, and of how many
HOPELESS = 64  # texts turned down, and none kept, after which something is wrong that is not the texts


@dataclass
class Session:
    """Who speaks a folder's texts, and how they are judged.

    share: of the texts that the ASR listens to. judged_by_cer: False keeps what the ASR
    did not understand (probes: their CER is a finding, not a fault).
    """

    models: Models
    voices: Sequence[Voice]
    share: float = 1.0
    judged_by_cer: bool = True

    @property
    def config(self) -> Config:
        return self.models.config

    def script(self, row: Row) -> Script:
        """What is said of a row, and by whom."""
        listens = self.models.listens and happens(self.share, self.config.seed, "asr", row["id"])
        return write_script(row, self.config, self.voices, listens)


def build_speech(out: Path, name: str, order: Order, session: Session, progress: Progress) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `rejected.parquet` and a dataset card; returns counts and seconds."""
    for folder in ("data", "_shards", "_spoken"):
        (out / folder).mkdir(exist_ok=True)
    ledger = Ledger(order)
    reasons: Counter[str] = Counter()
    cers: list[float] = []
    count = accepted = 0
    size = session.config.speech.shard_rows
    total = order.budget or sum(row["est_seconds"] for row in order.rows)
    with session.models.compute as compute:
        flight = _Flight(out, session, compute)
        while batch := ledger.next_batch(size):
            outcomes = _finished(out, count)
            if outcomes is None:
                flight.start([batch, *ledger.peek(batch, size, 2 * compute.slots)], count)
                shard = flight.land(count, lambda seconds: progress(ledger.spent + seconds, total))
                outcomes = _settle(out, count, batch, shard, ledger)
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
        flight.clear()
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


class _Flight:
    """Shards that are being spoken, by number; those ahead of their turn are what the ledger very likely asks for next."""

    def __init__(self, out: Path, session: Session, compute: Runner) -> None:
        self._out, self._session, self._compute = out, session, compute
        self._flying: dict[int, tuple[Shard, Any]] = {}  # no task where an earlier build had spoken it

    def start(self, batches: list[list[Row]], first: int) -> None:
        """Have these spoken as the shards from `first` on; what flies under their numbers with other texts is dropped."""
        for number, rows in enumerate(batches, first):
            if number != first and (_sidecar(self._out, number).exists() or number in self._flying):
                continue
            shard = Shard.of(rows, self._out.resolve() / "_spoken", number)
            if number in self._flying:
                if self._flying[number][0] == shard:
                    continue
                self._drop(number)
            scripts = [] if shard.is_spoken() else [self._session.script(row) for row in rows]
            task = (str(shard.stem), rows, scripts, self._session.judged_by_cer)
            needs = self._session.config.compute.speak
            self._flying[number] = (shard, self._compute.submit(speak.speak_shard, task, needs) if scripts else None)

    def land(self, number: int, progress: Callable[[float], object]) -> Shard:
        """Wait for a shard."""
        shard, pending = self._flying.pop(number)
        if pending:
            pending.result(lambda: progress(sum(s.seconds_said() for s in [shard, *(f for f, _ in self._flying.values())])))
        return shard

    def clear(self) -> None:
        """No more are wanted; nothing is written any more once this returns."""
        for number in list(self._flying):
            self._drop(number)

    def _drop(self, number: int) -> None:
        _, pending = self._flying.pop(number)
        if pending:
            pending.drop()


def _settle(out: Path, number: int, batch: list[Row], shard: Shard, ledger: Ledger) -> dict[str, Any]:
    """The shard as its turn finds it: what the budget has no room for is turned down. Its sidecar is written last."""
    spoken = shard.read()
    trial = Ledger(Order([], budget=ledger.order.budget), spent=ledger.spent)
    outcomes = []
    for outcome in spoken["outcomes"]:
        if outcome.rejected is None and not trial.fits(outcome.seconds):
            outcome = replace(outcome, rejected=OVER_BUDGET)
        trial.settle(outcome)
        outcomes.append(outcome)
    targets = (_kept_file(out, number), _rejected_file(out, number))
    if outcomes == spoken["outcomes"]:
        for source, target in zip(shard.files, targets, strict=True):
            target.unlink(missing_ok=True)
            _link(source, target)
    else:
        over = {o.id for o in outcomes if o.rejected == OVER_BUDGET}
        kept, turned_down = (pq.read_table(p).to_pylist() for p in shard.files)
        rows = {r["id"]: r for r in turned_down} | {r["id"]: {**r, "rejected": OVER_BUDGET} for r in kept if r["id"] in over}
        shards.write_speech([r for r in kept if r["id"] not in over], targets[0])
        shards.write_rejected([rows[r["id"]] for r in batch if r["id"] in rows], targets[1])
    sidecar = {
        "outcomes": [[o.id, o.cluster, o.seconds, o.rejected] for o in outcomes],
        "cers": spoken["cers"],
        "files": {p.name: checksum(p) for p in targets},
    }
    sync_json(_sidecar(out, number), sidecar)
    shard.remove()
    return {"outcomes": outcomes, "cers": spoken["cers"]}


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
        (out / "README.md").write_text(card(facts, front=shards_front(kept)), encoding="utf-8")
