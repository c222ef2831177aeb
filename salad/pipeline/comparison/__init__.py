"""Runs side by side: was one better than the other, by how much, at what cost? Read from published artefacts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salad.errors import SaladError, nearest
from salad.pipeline.comparison import differences, fairness, overlap, strategies
from salad.pipeline.comparison.cost import Cost, cost
from salad.pipeline.comparison.differences import Difference, Entrant
from salad.pipeline.comparison.facts import MEASURES, Side, labels, side_of
from salad.pipeline.stages import Run, existing_run

CONTROL = "control"
RUNS = Path("runs")  # where runs of a strategy are looked for


@dataclass(frozen=True)
class Comparison:
    """Everything that the tables and the page show. base: the entrant that the others are compared with."""

    sides: list[Side]
    base: Entrant
    measures: list[str]
    unfair: list[fairness.Differs]
    chosen_by: list[fairness.Differs]
    overall: list[Difference]
    domains: list[Difference]
    costs: list[Cost]
    overlaps: list[overlap.Overlap]
    rounds: int  # of `strategies`
    strategies: list[strategies.Strategy]


def find_runs(names: Sequence[str], runs: Path = RUNS) -> list[Run]:
    """The runs at these folders and URLs; the name of a strategy stands for every run of it below `runs`.

    SaladError for fewer than two runs, for one that is named twice, and for a name that is neither.
    """
    found: dict[str, Run] = {}
    for name in names:
        strategy = "://" not in name and ("/" not in name or ".py:" in name) and not Path(name).exists()
        for run in _runs_of(name, runs) if strategy else [existing_run(name)]:
            if str(run.store) in found and not strategy:
                raise SaladError(f"run {run.store} is named twice", "a run and itself do not differ: name another one")
            found[str(run.store)] = run
    if len(found) < 2:
        only = f" ({next(iter(found))})" if found else ""
        raise SaladError(f"that is one run{only}, and there is nothing to compare it with", "name two runs or more")
    return list(found.values())


def _runs_of(name: str, runs: Path) -> list[Run]:
    """Every run below a folder whose selector has this name."""
    from salad.pipeline.store import CONFIG

    there = []
    for place in sorted(p.parent for p in runs.glob(f"*/{CONFIG}")):
        try:
            there.append(existing_run(str(place)))
        except SaladError:  # of another version: it is only in the way
            continue
    found = [run for run in there if run.config.select.selector == name]
    if not found:
        known = sorted({run.config.select.selector for run in there} | {str(runs / run.config.name) for run in there})
        close = nearest(name, known) or nearest(str(runs / name), known)
        raise SaladError(
            f"there is no folder {name}, and no run below {runs}/ with a selector of that name{close}",
            "name a run's folder or URL, or the selector of runs that you have",
        )
    return found


def compare(runs: Sequence[Run], to: str | None = None) -> Comparison:
    """to: the run that the others are compared with, by its place or label, or `control`: the first control there is.

    SaladError where no run, or not the base, has a measured student.
    """
    names = labels([str(run.store) for run in runs])
    sides = [side_of(run, name) for run, name in zip(runs, names, strict=True)]
    entrants = differences.entrants(sides)
    base = _base(sides, entrants, to)
    rounds, over_seeds = strategies.strategies(sides, base.side)
    measures = list(MEASURES) if any(side.config.student.lm != "frozen" for side in sides) else ["D"]
    return Comparison(
        sides=sides,
        base=base,
        measures=measures,
        unfair=fairness.unfair(sides),
        chosen_by=fairness.chosen_by(sides),
        overall=differences.overall(entrants, base, measures),
        domains=differences.by_domain(entrants, base),
        costs=[cost(side) for side in sides],
        overlaps=overlap.overlaps(sides),
        rounds=rounds,
        strategies=over_seeds,
    )


def _base(sides: Sequence[Side], entrants: Sequence[Entrant], to: str | None) -> Entrant:
    side = sides[0] if to is None else _named(sides, to)
    if side is None:
        control = next((e for e in entrants if e.student.label == CONTROL), None)
        if control is None:
            raise SaladError("none of these runs has a control that is measured", "leave --to out, or name a run with it")
        return control
    if side.last is None:
        other = next((s for s in sides if s.last), None)
        raise SaladError(
            f"run {side.store} has no student that is measured yet, so there is nothing to compare with",
            f"name another with --to ({other.label}), or go on with it" if other else "go on with it: `salad run` does",
        )
    return next(e for e in entrants if e.side is side and e.student is side.last)


def _named(sides: Sequence[Side], to: str) -> Side | None:
    """The side of that label or place; None for `control`."""
    place = to.removeprefix("file://")
    place = place if "://" in place else str(Path(place).resolve())
    for side in sides:
        if to == side.label or place.rstrip("/") == str(side.store).rstrip("/"):
            return side
    if to == CONTROL:
        return None
    known = [side.label for side in sides]
    raise SaladError(f"--to {to} is none of these runs{nearest(to, known)}", f"name one of: {', '.join(known)}; or {CONTROL}")


def notes(found: Comparison) -> list[str]:
    """What stands at the top: in what the runs differ, what is unfinished, what is the same run under two names."""
    said = []
    if found.unfair:
        said.append(f"These runs differ in: {', '.join(dict.fromkeys(one.what for one in found.unfair))}.")
    if any(one.grave for one in found.unfair):
        grave = ", ".join(one.what for one in found.unfair if one.grave)
        said.append(f"Their D is not the same measure ({grave}): read differences between them with care.")
    for side in found.sides:
        if side.missing:
            what = "nothing is measured yet" if side.last is None else f"not measured yet: {', '.join(side.missing)}"
            said.append(f"{side.label} is unfinished; {what}.")
    keys: dict[str, list[str]] = {}
    for side in found.sides:
        if side.last:
            keys.setdefault(side.last.key, []).append(side.label)
    said += [
        f"{' and '.join(same)} have the same student: copies of one run, it seems." for same in keys.values() if len(same) > 1
    ]
    if any(not row.paired for row in found.overall):
        said.append(
            "Where the held-out texts are not the same, differences are unpaired: their intervals are wider than text by text."
        )
    return said


def verdicts(found: Comparison) -> list[str]:
    """The answer in a sentence a run: D against the base's, and how much more or less speech that took."""
    said = []
    entrants = differences.entrants(found.sides)
    spent = found.base.student.seconds
    base = found.base.label if found.base.student.label == CONTROL else f"{found.base.label} {found.base.student.label}"
    for row in found.overall:
        if row.measure != "D" or row.student.endswith("both"):
            continue
        who = next(e for e in entrants if e.label == row.who)
        words = {
            "better": f"is better than {base}",
            "worse": f"is worse than {base}",
            "no difference": f"shows no difference to {base}",
        }.get(row.verdict, f"cannot be told from {base} on {row.texts} held-out text{'s' * (row.texts != 1)}")
        width = f" [{row.interval.low:+.3f}, {row.interval.high:+.3f}]" if row.interval else ""
        more = who.student.seconds - spent
        speech = (
            f"{abs(more):,.0f} s {'more' if more > 0 else 'less'} synthetic speech"
            if abs(more) >= 0.5
            else "as much synthetic speech"
        )
        how = "text by text" if row.paired else "unpaired"
        named = row.who if row.student == CONTROL else f"{row.who} {row.student}"
        said.append(f"{named} {words}: D {row.mean:+.3f}{width} nats, {how}, with {speech}.")
    return said
