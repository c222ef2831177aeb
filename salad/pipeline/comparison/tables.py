"""A comparison as rows: the same for the terminal and the page. Numbers are written here, names are as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salad.pipeline.comparison.cost import KINDS, POINT, Cost
from salad.pipeline.comparison.differences import Difference, entrants
from salad.pipeline.comparison.facts import Side, Student
from salad.pipeline.comparison.fairness import Differs
from salad.pipeline.comparison.overlap import Overlap
from salad.pipeline.comparison.strategies import Strategy

Table = tuple[list[str], list[list[Any]]]  # columns and rows, as console.print_table and the page's tables take them
DIFFERENCES = ["run", "student", "measure", "less the base’s", "95 % interval", "so it is", "texts", "compared"]
OVERLAPS = ["runs", "texts", "in common", "Jaccard", "by chance", "clusters alike", "domains alike"]


def runs(sides: Sequence[Side], costs: Sequence[Cost]) -> Table:
    """One row a run, then one for each control."""
    benchmarks = sorted({name for one in entrants(sides) for name in one.student.gaps})
    columns = ["run", "selector", "seed", "rounds", "speech s", "D after Stage I", "D after the last round"]
    columns += [*(f"gap {name}" for name in benchmarks), "wall s of the rounds"]
    rows: list[list[Any]] = []
    for side, cost in zip(sides, costs, strict=True):
        first, last = (side.students[0], side.students[-1]) if side.students else (None, None)
        head = [
            side.label,
            side.config.select.selector,
            side.config.draw,
            _rounds(side),
            f"{last.seconds:,.0f}" if last else None,
        ]
        shown = [_d(first), _d(last if side.rounds else None), *_gaps(last, benchmarks)]
        rows.append([*head, *shown, _whole(cost.wall)])
    for one in entrants(sides):
        if one.student is one.side.control:
            shown = [None, _d(one.student), *_gaps(one.student, benchmarks)]
            rows.append([one.label, "none", one.side.config.draw, None, "0", *shown, None])
    return columns, rows


def _rounds(side: Side) -> str:
    return f"{side.rounds}" if side.rounds == side.config.rounds else f"{side.rounds} of {side.config.rounds}"


def _d(student: Student | None) -> str | None:
    return None if student is None else _with_interval(f"{student.metrics['all']['D']:.3f}", student.interval("D"))


def _gaps(student: Student | None, benchmarks: Sequence[str]) -> list[str | None]:
    found = student.gaps if student else {}
    return [_gap(found.get(name)) for name in benchmarks]


def _gap(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    low, high = found.get("gap_low"), found.get("gap_high")
    return _with_interval(f"{found['gap']:+.3f}", None if low is None or high is None else (low, high))


def _with_interval(value: str, found: tuple[float, float] | None) -> str:
    return value if found is None else f"{value} {interval(found)}"


def _whole(wall: dict[str, float]) -> str | None:
    return f"{total:,.0f}" if (total := sum(wall.values())) else None


def differences(rows: Sequence[Difference]) -> Table:
    return DIFFERENCES, [[row.who, row.student, row.measure, *_difference(row)] for row in rows]


def domains(rows: Sequence[Difference]) -> Table:
    return ["domain", "run", *DIFFERENCES[3:]], [[row.domain, row.who, *_difference(row)] for row in rows]


def _difference(row: Difference) -> list[Any]:
    how = "text by text" if row.paired else "unpaired"
    return [f"{row.mean:+.3f}", interval(row.interval), row.verdict, row.texts, how]


def costs(sides: Sequence[Side], found: Sequence[Cost]) -> Table:
    """What was paid for every 0.1 nats; a dash where it is not defined, because nothing was gained."""
    columns = ["run", "D gained", "so", "beyond its control", f"speech s per {POINT:g}"]
    columns += [f"{kind} s per {POINT:g}" for kind in KINDS]
    rows = []
    for side, cost in zip(sides, found, strict=True):
        paid = [cost.each(cost.speech), *(cost.each(cost.wall[kind]) for kind in KINDS)]
        rows.append([side.label, _fall(cost.change), cost.verdict, _fall(cost.beyond), *map(_amount, paid)])
    return columns, rows


def _fall(change: Difference | None) -> str | None:
    """A difference in D as a fall: above 0 is a gain."""
    if change is None:
        return None
    turned = None if change.interval is None else (-change.interval.high, -change.interval.low)
    return _with_interval(f"{-change.mean:+.3f}", turned)


def _amount(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"


def overlaps(found: Sequence[Overlap]) -> Table:
    return OVERLAPS, [_overlap(one) for one in found]


def _overlap(o: Overlap) -> list[Any]:
    sizes = f"{o.texts[0]:,} × {o.texts[1]:,}"
    return [f"{o.one} × {o.other}", sizes, o.common, o.jaccard, o.by_chance, _share(o.clusters), _share(o.domains)]


def strategies(found: Sequence[Strategy]) -> Table:
    columns = ["strategy", "runs", "mean D", "95 % interval", "less the first’s", "95 % interval", "so it is", "compared"]
    rows: list[list[Any]] = []
    for one in found:
        against: list[str | None] = [None] * 4
        if one.difference is not None:
            how = "seed by seed" if one.paired else "unpaired"
            against = [f"{one.difference:+.3f}", interval(one.difference_interval), one.verdict, how]
        rows.append([one.label, len(one.sides), float(one.values.mean()), interval(one.interval), *against])
    return columns, rows


def differing(sides: Sequence[Side], found: Sequence[Differs]) -> Table:
    return ["what", *(side.label for side in sides)], [[one.what, *one.values] for one in found]


def interval(found: tuple[float, float] | None) -> str | None:
    return None if found is None else f"[{found[0]:.3f}, {found[1]:.3f}]"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"
