"""By how much one student is better than another: on the same held-out texts text by text, else as two samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salad.intervals import Interval, difference_interval, mean_interval
from salad.pipeline.comparison.facts import Side, Student
from salad.seeds import derive

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A measure of one student less that of the student it is compared with, in nats: below 0, it is better."""

    who: str
    student: str
    domain: str | None  # None: all held-out texts
    measure: str
    mean: float
    interval: Interval | None  # 95 %; None below two texts
    texts: int  # that were compared: pairs, or those of the smaller sample
    paired: bool

    @property
    def verdict(self) -> str:
        """ "better", "worse", "no difference", or "too few texts"."""
        return verdict(self.interval, "better", "worse")


@dataclass(frozen=True)
class Entrant:
    """One student that is compared: the last of a run, or a control."""

    label: str
    side: Side
    student: Student


def verdict(interval: Interval | None, below: str, above: str) -> str:
    if interval is None:
        return "too few texts"
    if interval.low <= 0 <= interval.high:
        return "no difference"
    return below if interval.high < 0 else above


def difference(
    one: Student, base: Student, who: str, student: str = "", domain: str | None = None, measure: str = "D"
) -> Difference | None:
    """One student less the other; None where either has no text of that domain with a finite value."""
    first, second = _values(one, measure, domain), _values(base, measure, domain)
    paired = set(one.ids) == set(base.ids)
    seed = derive(0, "compare", domain or "all", measure)
    if paired:
        found = np.array([value - second[id_] for id_, value in first.items() if id_ in second])
        interval = mean_interval(found, RESAMPLES, seed)
        texts = len(found)
        mean = float(found.mean()) if texts else None
    else:
        a, b = np.array(list(first.values())), np.array(list(second.values()))
        texts = min(len(a), len(b))
        mean = float(a.mean() - b.mean()) if texts else None
        interval = difference_interval(a, b, RESAMPLES, seed)
    if mean is None:
        return None
    return Difference(who, student or one.label, domain, measure, mean, interval, texts, paired)


def _values(student: Student, measure: str, domain: str | None) -> dict[str, float]:
    """Finite values by text."""
    rows = zip(student.ids, student.values[measure].tolist(), student.domains.tolist(), strict=True)
    return {id_: value for id_, value, of in rows if np.isfinite(value) and domain in (None, of)}


def entrants(sides: Sequence[Side]) -> list[Entrant]:
    """The last student of every run that has one, then the controls, each once however many runs share it."""
    found = [Entrant(side.label, side, side.last) for side in sides if side.last]
    shared: dict[str, list[Side]] = {}
    for side in sides:
        if side.control:
            shared.setdefault(side.control.key, []).append(side)
    for of in shared.values():
        control = of[0].control
        assert control is not None
        found.append(Entrant(f"control of {', '.join(side.label for side in of)}", of[0], control))
    return found


def overall(entrants: Sequence[Entrant], base: Entrant, measures: Sequence[str] = ("D",)) -> list[Difference]:
    """Every entrant against the base on all held-out texts, and where its run has other rounds also after the last common one."""
    found: list[Difference | None] = []
    for entrant in entrants:
        if entrant is base:
            continue
        for measure in measures:
            found.append(difference(entrant.student, base.student, entrant.label, measure=measure))
        common = min(entrant.student.rounds, base.student.rounds)
        if entrant.student.rounds != base.student.rounds and common:
            one, other = entrant.side.students[common], base.side.students[common]
            found.append(difference(one, other, entrant.label, f"{one.label}, both"))
    return [row for row in found if row]


def by_domain(entrants: Sequence[Entrant], base: Entrant) -> list[Difference]:
    """D of every entrant against the base's in each domain that both have."""
    domains = sorted(set(base.student.domains.tolist()))
    rows = (difference(e.student, base.student, e.label, domain=d) for d in domains for e in entrants if e is not base)
    return [row for row in rows if row]


def by_round(side: Side, base: Side) -> list[Difference]:
    """D after Stage I and after every round that both have, less the base's there."""
    pairs = zip(side.students, base.students, strict=False)
    return [row for one, other in pairs if (row := difference(one, other, side.label))]
