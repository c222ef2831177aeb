"""When enough rounds are made: D is low enough, it no longer falls, the speech is spent, or there were so many.

A round more is worth it while the held-out texts say so, each compared with itself after the round before: the plateau is
judged with its interval, because D of one text differs from another's by far more than a round changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from salad.errors import SaladError
from salad.intervals import Interval, mean_interval
from salad.pipeline import summary
from salad.pipeline.ledger import TOLERANCE
from salad.seeds import derive

if TYPE_CHECKING:
    from salad.pipeline.stages import Run


@dataclass(frozen=True)
class Limits:
    """What ends a run of rounds, whichever comes first; None: this does not."""

    rounds: int
    seconds: float | None = None  # of synthetic speech, all rounds together
    divergence: float | None = None  # D of the held-out texts, nats
    least_fall: float | None = 0.0  # nats: a plateau is a fall of D in the last round that may be 0, or is surely less


@dataclass(frozen=True)
class Measured:
    """Where a run is after so many rounds."""

    rounds: int
    seconds: float  # of synthetic speech in all of them
    divergence: float  # D of the held-out texts
    fall: float | None  # of D in the last round, the mean over texts; None: not the same texts
    interval: Interval | None  # of that mean, 95 %


def measured(run: Run, rounds: int) -> Measured:
    """The published figures after that many rounds; the first is compared with Stage I."""
    names = ["stage-one", *(f"round-{r:03d}" for r in range(rounds))]
    before, last = (f"{name}/metrics" for name in names[-2:])
    falls = summary.paired_differences(run, before, last)
    return Measured(
        rounds,
        sum(run.store.manifest(f"{name}/speech").meta["seconds"] for name in names[1:]),
        summary.metrics(run, last)["all"]["D"],
        float(falls.mean()) if len(falls) else None,
        mean_interval(falls, run.config.evaluate.bootstrap, derive(run.config.seed, "bootstrap", "fall", rounds)),
    )


def why_stop(now: Measured, limits: Limits, a_round: float) -> str | None:
    """Why no further round is made, in words; None: go on. a_round: seconds of speech that one more may take."""
    if limits.divergence is not None and now.divergence <= limits.divergence:
        return f"target: D is {now.divergence:.3f}, which is at most {limits.divergence:g}"
    if limits.least_fall is not None and now.interval is not None:
        low, high = now.interval
        told = f"plateau: the fall of D in the last round, {now.fall:.3f} [{low:.3f}, {high:.3f}]"
        if low <= 0:
            return f"{told}, may be nothing"
        if high < limits.least_fall:
            return f"{told}, is less than {limits.least_fall:g}"
    if limits.seconds is not None and not _fits(now.seconds + a_round, limits.seconds):
        return f"budget: {now.seconds:.0f} of {limits.seconds:g} s are spoken, and a round takes {a_round:g}"
    if now.rounds >= limits.rounds:
        return f"rounds: {now.rounds} of at most {limits.rounds}"
    return None


def check(limits: Limits, a_round: float) -> None:
    """SaladError for limits that leave no room for a single round."""
    if limits.seconds is not None and not _fits(a_round, limits.seconds):
        raise SaladError(
            f"{limits.seconds:g} s of speech in all are less than one round's {a_round:g}",
            "raise the total, or lower select.budget",
        )


def _fits(seconds: float, budget: float) -> bool:
    return seconds <= (1 + TOLERANCE) * budget
