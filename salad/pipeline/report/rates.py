"""Rates of quality control: of the texts that were tried, how many were kept, and why the others were turned down.

A text whose turn never came was not tried, and one that only did not fit the budget has no fault: neither counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from salad.pipeline import summary
from salad.pipeline.ledger import NOT_REACHED, OVER_BUDGET
from salad.pipeline.shards import shard_files

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

Table = tuple[list[str], list[list[Any]]]  # columns and rows, as the page's tables take them
FAULTLESS = (NOT_REACHED, OVER_BUDGET)
FACTS = ("id", "cluster", "engine", "voice", "seconds", "cer", "words_per_second", "rejected")


@dataclass(frozen=True)
class Tried:
    """A text that was tried: what is known of it without its sound, and the file and row where the rest lies."""

    stage: str
    file: Path
    row: int
    id: str
    cluster: int | None
    engine: str | None
    voice: str | None
    seconds: float | None
    cer: float | None
    words_per_second: float | None
    rejected: str | None  # why it was turned down; None: it was kept

    @property
    def reason(self) -> str | None:
        """What kind of fault it has: `rejected` without the particulars that may follow a colon or stand in brackets."""
        return self.rejected and re.split(r":| \(", self.rejected, maxsplit=1)[0]

    @property
    def who(self) -> str:
        """Voice and engine; of an engine that is a file, the file's name. A dash where a shard does not say."""
        engine = (self.engine or "").rsplit("/", 1)[-1]
        return " · ".join(filter(None, (self.voice, engine))) or "–"


@dataclass(frozen=True)
class Rate:
    """What became of some texts. cer: mean of those checked; words_per_second: mean of those spoken."""

    tried: int
    kept: int
    reasons: Counter[str]
    seconds: float  # of those kept
    cer: float | None
    words_per_second: float | None

    @property
    def turned_down(self) -> float:
        """The share of them."""
        return 1 - self.kept / self.tried


def synthesised(run: Run) -> list[str]:
    """Published speech that the run's voices spoke."""
    return [name for name in run.spoken(run.config.rounds) if summary.published(run, name)]


def tried(run: Run, stages: Iterable[str]) -> list[Tried]:
    """The texts of these speech artefacts, in order, those kept before those turned down. No sound is read."""
    return [text for stage in stages for path in _files(run.store.path(stage)) for text in _texts(stage, path)]


def _files(folder: Path) -> list[Path]:
    return [path for path in (*shard_files(folder), folder / "rejected.parquet") if path.is_file()]


def _texts(stage: str, path: Path) -> Iterable[Tried]:
    names = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in FACTS if name in names])
    for name in FACTS:
        if name not in names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    texts = (Tried(stage, path, i, **row) for i, row in enumerate(table.to_pylist()))
    return (text for text in texts if text.rejected not in FAULTLESS)


def rate(texts: list[Tried]) -> Rate:
    kept = [text for text in texts if text.rejected is None]
    return Rate(
        tried=len(texts),
        kept=len(kept),
        reasons=Counter(text.reason for text in texts if text.reason),
        seconds=sum(text.seconds or 0.0 for text in kept),
        cer=_mean(text.cer for text in texts),
        words_per_second=_mean(text.words_per_second for text in texts),
    )


def by_voice(texts: Iterable[Tried]) -> Table:
    """One row a voice and a column for each reason, the commonest first."""
    voices = grouped(texts, lambda text: text.who)
    return _table(["voice"], [([who], rate(some)) for who, some in sorted(voices.items())])


def by_cluster(texts: Iterable[Tried], mostly: list[str]) -> Table:
    """One row a cluster, the worst first. mostly: what each cluster holds most of."""
    rates = {c: rate(some) for c, some in grouped(texts, lambda text: text.cluster).items() if c is not None}
    worst = sorted(rates.items(), key=lambda item: (-item[1].turned_down, -(item[1].cer or 0.0), item[0]))
    return _table(["cluster", "mostly"], [([str(c), mostly[c]], of_cluster) for c, of_cluster in worst])


def grouped(texts: Iterable[Tried], by: Callable[[Tried], Any]) -> dict[Any, list[Tried]]:
    found: dict[Any, list[Tried]] = {}
    for text in texts:
        found.setdefault(by(text), []).append(text)
    return found


def _table(named: list[str], rates: list[tuple[list[str], Rate]]) -> Table:
    total: Counter[str] = sum((of.reasons for _, of in rates), Counter())
    reasons = [reason for reason, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))]
    columns = [*named, "tried", "kept", "seconds", "CER", "words/s", "turned down", *reasons]
    rows = [
        [
            *names,
            of.tried,
            of.kept,
            f"{of.seconds:,.0f}",
            of.cer,
            None if of.words_per_second is None else f"{of.words_per_second:.2f}",
            f"{of.turned_down:.1%}",
            *(of.reasons[reason] for reason in reasons),
        ]
        for names, of in rates
    ]
    return columns, rows


def _mean(values: Iterable[float | None]) -> float | None:
    """Of the values that there are; None of none. NaN is none."""
    known = [value for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else None
