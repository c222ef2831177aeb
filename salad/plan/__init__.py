"""What a configuration will take, before it runs: texts, seconds of speech, hours, bytes, each with its formula.

    plan(config, machine()) -> Plan

Formulas count: FLOP are two a weight and token forward, four more where weights learn, two more where gradients only pass
through. Rates of the machine, of the voices and of what is not a network are measured ones (docs/results.md) or said to be
assumed. docs/plan.md says how near that comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from salad.config import Config
from salad.plan.facts import Facts, gather
from salad.plan.machine import Machine, machine
from salad.plan.storage import storage_rows
from salad.plan.times import time_rows

__all__ = ["Machine", "Plan", "Row", "machine", "plan"]


@dataclass(frozen=True)
class Row:
    """So much of something; unit: "s", "bytes", or a word for what is counted."""

    part: str  # pool, speech, training, time or storage
    what: str
    amount: float
    unit: str
    how: str


@dataclass(frozen=True)
class Plan:
    name: str
    machine: Machine
    rows: list[Row]

    def amount(self, part: str, what: str) -> float:
        return next(r.amount for r in self.rows if (r.part, r.what) == (part, what))

    def total(self, part: str) -> float:
        return sum(r.amount for r in self.rows if r.part == part and r.what not in ASIDE)

    @property
    def seconds(self) -> float:
        """Of wall time, one stage after the other."""
        return self.total("time")

    @property
    def gpu_hours(self) -> float | None:
        """Of all networks together; None without a GPU."""
        on_gpu = sum(r.amount for r in self.rows if r.part == "time" and r.what in NETWORKS)
        return on_gpu / 3600 if self.machine.is_gpu else None

    def as_dict(self) -> dict[str, Any]:
        totals = {"seconds": self.seconds, "gpu_hours": self.gpu_hours, "bytes": self.total("storage")}
        return {"name": self.name, "machine": asdict(self.machine), "rows": [asdict(r) for r in self.rows], "totals": totals}


ASIDE = ("while training",)  # gone when the stage is published
NETWORKS = ("embeddings", "speech: ASR", "features", "training", "metrics", "scores: probes")


def plan(config: Config, on: Machine, texts: int | None = None) -> Plan:
    """The accounting of a whole run. texts: passages of the pool, where the sources cannot be asked.

    SaladError for a source or a model of unknown size.
    """
    facts = gather(config, on, texts)
    rows = [*_pool(facts), *_speech(facts), *_training(facts)]
    rows += [Row("time", *row, "s", how) for row, how in time_rows(facts)]
    rows += [Row("storage", *row, "bytes", how) for row, how in storage_rows(facts)]
    return Plan(config.name, on, rows)


def _pool(f: Facts) -> Iterator[Row]:
    pool = f.config.pool
    yield Row("pool", "texts", f.texts, "texts", f.supply.how)
    yield Row("pool", "words", f.texts * f.words, "words", f"{f.words:.0f} a text: {pool.min_words} and half a sentence")
    yield Row(
        "pool", "words heard", f.texts * f.heard, "words", f"{f.heard:.1f} a text, were all spoken: the mean of 256 span plans"
    )


def _speech(f: Facts) -> Iterator[Row]:
    for kind, seconds in f.seconds.items():
        yield Row("speech", kind, seconds, "s", f.how_spoken[kind])
    yield Row("speech", "to be synthesised", f.synthesised, "s", "all but what is recorded")


def _training(f: Facts) -> Iterator[Row]:
    for stage, steps in f.steps.items():
        yield Row("training", f"{stage}: steps", steps, "steps", "stable steps and decay")
        how = f"{f.samples(stage):,.0f} samples of {f.mean_positions(stage):.0f} positions"
        yield Row("training", f"{stage}: positions", f.samples(stage) * f.mean_positions(stage), "positions", how)
