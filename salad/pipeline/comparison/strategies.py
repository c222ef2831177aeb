"""Strategies over seeds: runs that differ in nothing but their seed are one strategy, tried so often.

The spread over seeds holds what an interval over held-out texts cannot: other draws, other probes, other training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salad.intervals import Interval
from salad.pipeline.comparison.differences import verdict
from salad.pipeline.comparison.facts import Side
from salad.pipeline.comparison.fairness import SILENT


@dataclass(frozen=True)
class Strategy:
    """Runs of one configuration. values: D of each after so many rounds; the difference is to the first strategy, in nats."""

    label: str
    sides: list[Side]
    values: np.ndarray
    interval: Interval | None  # of their mean, 95 %, Student's t over runs
    difference: float | None  # None: it is the first
    difference_interval: Interval | None
    paired: bool  # seed by seed

    @property
    def verdict(self) -> str:
        if self.difference is None:
            return ""
        return "too few runs" if self.difference_interval is None else verdict(self.difference_interval, "better", "worse")


def strategies(sides: Sequence[Side], base: Side) -> tuple[int, list[Strategy]]:
    """(rounds, strategies after so many, the base's first); none where no strategy has two runs."""
    groups: dict[str, list[Side]] = {}
    for side in [base, *(side for side in sides if side is not base)]:
        group = groups.setdefault(_alike(side), []) if side.students else []
        if side.config.draw not in [other.config.draw for other in group]:  # a copy of a run is no second try
            group.append(side)
    rounds = min((side.rounds for of in groups.values() for side in of), default=0)
    if not rounds or all(len(of) < 2 for of in groups.values()):
        return 0, []
    names = _names(list(groups.values()))
    first = next(iter(groups.values()))
    return rounds, [
        _strategy(name, of, None if of is first else first, rounds) for name, of in zip(names, groups.values(), strict=True)
    ]


def _strategy(label: str, sides: list[Side], first: list[Side] | None, rounds: int) -> Strategy:
    values = _values(sides, rounds)
    if first is None:
        return Strategy(label, sides, values, _mean_interval(values), None, None, False)
    ours, theirs = (dict(zip((s.config.draw for s in of), _values(of, rounds), strict=True)) for of in (sides, first))
    if ours.keys() == theirs.keys():
        each = np.array([value - theirs[seed] for seed, value in ours.items()])
        return Strategy(label, sides, values, _mean_interval(values), float(each.mean()), _mean_interval(each), True)
    other = _values(first, rounds)
    difference = float(values.mean() - other.mean())
    return Strategy(label, sides, values, _mean_interval(values), difference, _welch(values, other), False)


def _values(sides: Sequence[Side], rounds: int) -> np.ndarray:
    return np.array([side.students[rounds].metrics["all"]["D"] for side in sides], np.float64)


def _mean_interval(values: np.ndarray) -> Interval | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    width = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return Interval(float(values.mean()) - width, float(values.mean()) + width)


def _welch(one: np.ndarray, other: np.ndarray) -> Interval | None:
    if min(len(one), len(other)) < 2:
        return None
    from scipy.stats import ttest_ind

    difference = float(one.mean() - other.mean())
    if one.std() == 0 and other.std() == 0:
        return Interval(difference, difference)
    found = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return Interval(float(found.low), float(found.high))


def _alike(side: Side) -> str:
    """The configuration without its seed and what changes no figure."""
    whole = side.config.model_dump(mode="json")
    whole = {key: value for key, value in whole.items() if key not in ("seed", "round_seed")}
    for key in SILENT:
        top, _, below = key.partition(".")
        if below:
            whole[top].pop(below)
        else:
            whole.pop(top)
    return json.dumps(whole, sort_keys=True)


def _names(groups: list[list[Side]]) -> list[str]:
    """The selector of each; of several with one selector, with the run that stands first."""
    selectors = [of[0].config.select.selector for of in groups]
    return [s if selectors.count(s) == 1 else f"{s} ({of[0].label}, …)" for s, of in zip(selectors, groups, strict=True)]
