"""Tables of docs/evidence.md and the README, as Markdown, of the rows in evidence/results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from evidence.analysis import Estimate, by_domains, crossed
from evidence.arms import Arm
from evidence.parts import (
    ABLATED,
    ALONE,
    BUDGETED,
    BUDGETS,
    CHANGES,
    COSTED,
    DEFAULT,
    FOURTH,
    FULL,
    LEANS,
    LONGER,
    MAIN,
    NONE,
    OTHERS,
    POOLS,
    QUARTER,
    TRAINED_LONGER,
    UNIFORM,
    Strategy,
    ablated,
)
from evidence.results import Results
from evidence.texts import COVERED, DOMAINS

NOTHING = "Not measured yet."
KINDS = ("scores", "selection", "speech", "features", "training")


Key = tuple[str, int]  # Stage I student and seed


@dataclass(frozen=True)
class Group:
    """Runs of one arm that differ in their seed or their Stage I student: D of the last student, text by text."""

    label: str
    rows: dict[Key, dict[str, Any]]  # in the order in which Stage I students speak for a seed

    def d(self, keys: Sequence[Key], voice: str = "D") -> np.ndarray:
        """(runs, texts). voice: "D" for the held-out one, "D_taught" for the one that teaches; NaN for a text not said."""
        return np.array([self.rows[key]["students"][-1][voice] for key in keys], float)

    @property
    def keys(self) -> list[Key]:
        """One a seed."""
        return self.shared(self)

    def shared(self, other: Group) -> list[Key]:
        """Pairs, one a seed: two runs of one seed are told apart by rounding alone, and count once."""
        first: dict[int, Key] = {}
        for key in (key for key in self.rows if key in other.rows):
            first.setdefault(key[1], key)
        return [first[seed] for seed in sorted(first)]

    def of(self, origin: str) -> Group:
        """Those that go on from one Stage I student."""
        return Group(self.label, {key: row for key, row in self.rows.items() if key[0] == origin})

    @property
    def seconds(self) -> float:
        """Of speech spent, the mean over runs."""
        return float(np.mean([self.rows[key]["spent"]["seconds"] for key in self.keys]))

    @property
    def uncovered(self) -> float:
        """The share of the spoken texts that is of domains Stage I never heard, the mean over runs."""
        spoken = [self.rows[key]["spent"]["by_domain"] for key in self.keys]
        return float(np.mean([1 - by_domain.get(COVERED, 0) / sum(by_domain.values()) for by_domain in spoken]))


def arm_of(row: dict[str, Any]) -> Arm:
    """The arm that a row measured."""
    changes = tuple(row["changes"].items())
    return Arm(row["covered"], row["selector"], row["budget"], row["seed"], row["rounds"], changes)


class Evidence:
    """All rows, and what is asked of them."""

    def __init__(self, results: Results) -> None:
        self.results = results

    @cached_property
    def texts(self) -> dict[str, Any]:
        return next(self.results.rows("evaluation"))

    @cached_property
    def domain(self) -> np.ndarray:
        return np.array(self.texts["domain"])

    @cached_property
    def arms(self) -> list[dict[str, Any]]:
        return [row for row in self.results.rows("arms") if row["seed"] != ALONE]

    @cached_property
    def alone(self) -> dict[Arm, dict[str, float]]:
        """Wall seconds, by kind of work, of arms that had the machine to themselves."""
        return {arm_of(row): row["wall"] for row in self.results.rows("arms") if row["seed"] == ALONE}

    @cached_property
    def students(self) -> dict[str, dict[str, Any]]:
        """Stage I students by their digest."""
        return {row["stage_one"]: row for row in self.results.rows("stage_one_students")}

    @cached_property
    def started(self) -> Counter[str]:
        """How many arms go on from each Stage I student."""
        return Counter(row["stage_one"] for row in self.arms)

    def group(
        self, pool: int, strategy: Strategy, budget: int = FULL, rounds: int = 1, changes: tuple[tuple[str, Any], ...] = ()
    ) -> Group:
        wanted = strategy.arm(pool, budget, 0, rounds, changes)
        found = {(row["stage_one"], row["seed"]): row for row in self.arms if arm_of(row) == replace(wanted, seed=row["seed"])}
        return Group(strategy.label, {key: found[key] for key in sorted(found, key=lambda key: (-self.started[key[0]], key))})

    def measured(self, pool: int, strategies: Sequence[Strategy], budget: int = FULL) -> Iterator[tuple[Strategy, Group]]:
        """Those that have rows."""
        for strategy in strategies:
            group = self.group(pool, strategy, budget)
            if group.rows:
                yield strategy, group

    def budgeted(self, pool: int) -> list[Strategy]:
        """Those that have rows of every budget, as uniform has."""
        whole = [s for s in BUDGETED if all(self.group(pool, s, budget).rows for budget in BUDGETS)]
        return whole if UNIFORM in whole else []

    def mean(self, group: Group, weights: dict[str, float], voice: str = "D") -> Estimate:
        return self._estimate(group.d(group.keys, voice), weights)

    def difference(self, group: Group, other: Group, weights: dict[str, float], voice: str = "D") -> Estimate | None:
        """group − other, over the runs that both have; None where they share none."""
        keys = group.shared(other)
        return self._estimate(group.d(keys, voice) - other.d(keys, voice), weights) if keys else None

    def weighed(self, values: np.ndarray, weights: dict[str, float]) -> np.ndarray:
        """Values (..., texts) such that their plain mean is the domains' weighted one; a text that one of them lacks left out."""
        said = np.isfinite(values).reshape(-1, values.shape[-1]).all(0)
        return by_domains(values[..., said], self.domain[said], weights)

    def _estimate(self, values: np.ndarray, weights: dict[str, float]) -> Estimate:
        return crossed(self.weighed(values, weights))


def even() -> dict[str, float]:
    """Every domain counts the same."""
    return {domain: 1 / len(DOMAINS) for domain in DOMAINS}


def p_web(covered: int) -> dict[str, float]:
    """As the pool weighs them."""
    share = covered / 100
    return {d: share if d == COVERED else (1 - share) / (len(DOMAINS) - 1) for d in DOMAINS}


def only(*domains: str) -> dict[str, float]:
    return {d: (1 / len(domains) if d in domains else 0.0) for d in DOMAINS}


UNCOVERED = tuple(d for d in DOMAINS if d != COVERED)


def selection(found: Evidence) -> str:
    """D of every arm at the full budget, pool by pool, and its difference to uniform."""
    rows = []
    for covered in POOLS:
        uniform = found.group(covered, UNIFORM)
        measures = [(even(), "D"), (p_web(covered), "D"), (even(), "D_taught")]
        for strategy, group in found.measured(covered, (*MAIN, *OTHERS)):
            row = [f"{covered} %", group.label, str(len(group.keys)), f"{group.seconds:,.0f}"]
            row.append("–" if strategy == NONE else f"{group.uncovered:.0%}")
            for weights, voice in measures:
                row.append(f"{found.mean(group, weights, voice).mean:.3f}")
                row.append("–" if group.label == uniform.label else signed(found.difference(group, uniform, weights, voice)))
            rows.append(row)
    less = "− uniform"
    head = [
        "covered",
        "arm",
        "runs",
        "speech s",
        "uncovered",
        "D even",
        less,
        "D P_web",
        less,
        "D even, voice that teaches",
        less,
    ]
    return markdown(head, rows)


def by_domain(found: Evidence) -> str:
    """D in every domain at the full budget: what the covered one pays."""
    rows = []
    for covered in POOLS:
        uniform = found.group(covered, UNIFORM)
        for strategy, group in found.measured(covered, (*MAIN, *OTHERS)):
            shown = [f"{found.mean(group, only(d)).mean:.2f}" for d in DOMAINS]
            if strategy != UNIFORM and uniform.rows:
                shown = [
                    f"{s} ({signed(found.difference(group, uniform, only(d)))})" for s, d in zip(shown, DOMAINS, strict=True)
                ]
            rows.append([f"{covered} %", group.label, *shown])
    return markdown(["covered", "arm", *DOMAINS], rows)


def leans(found: Evidence, covered: int) -> list[tuple[Strategy, Group]]:
    """Those that are measured, from little to all; none where there is nothing to compare."""
    measured = list(found.measured(covered, LEANS, FOURTH))
    return measured if len(measured) > 1 and found.group(covered, UNIFORM, FOURTH).rows else []


def lean(strategy: Strategy) -> str:
    """What stands for P_target in a table."""
    return "γ = 5, the default" if strategy == DEFAULT else strategy.label


def leaning(found: Evidence) -> str:
    """How far P_target leans towards the highest D, and what it is worth by either weighing, at a quarter of the full budget."""
    rows = []
    for covered in POOLS:
        uniform = found.group(covered, UNIFORM, FOURTH)
        for strategy, group in leans(found, covered):
            less = [signed(found.difference(group, uniform, w)) for w in (even(), p_web(covered), *map(only, DOMAINS))]
            rows.append([f"{covered} %", lean(strategy), str(len(group.keys)), f"{group.uncovered:.0%}", *less])
    return markdown(["covered", "P_target", "runs", "uncovered", "D even, − uniform", "D P_web, − uniform", *DOMAINS], rows)


def rounds(found: Evidence) -> str:
    """One selection of the whole budget against four of a quarter."""
    rows = []
    for strategy in (UNIFORM, DEFAULT):
        one, four = found.group(ABLATED, strategy), found.group(ABLATED, strategy, rounds=4, changes=QUARTER)
        if one.rows and four.rows:
            d = [interval(found.mean(group, even())) for group in (one, four)]
            rows.append([strategy.label, *d, signed(found.difference(four, one, even()))])
    return markdown(["arm", "one round", "four rounds of a quarter", "four − one"], rows)


def longer(found: Evidence) -> str:
    """Five times the steps: what choosing is worth then, and what the steps are worth to each arm."""
    rows = []
    for budget, strategies in TRAINED_LONGER.items():
        uniform = found.group(ABLATED, UNIFORM, budget, changes=LONGER)
        for strategy in strategies:
            group = found.group(ABLATED, strategy, budget, changes=LONGER)
            if not group.rows:
                continue
            less = ["–" if strategy == UNIFORM else signed(found.difference(group, uniform, w)) for w in (even(), p_web(ABLATED))]
            steps = signed(found.difference(group, found.group(ABLATED, strategy, budget), even()))
            spoken = "–" if strategy == NONE else f"{group.uncovered:.0%}"
            row = [strategy.label, str(len(group.keys)), f"{group.seconds:,.0f}", spoken, interval(found.mean(group, even()))]
            rows.append([*row, less[0], steps, *(f"{found.mean(group, only(d)).mean:.2f}" for d in DOMAINS), less[1]])
    head = [
        "arm",
        "runs",
        "speech s",
        "uncovered",
        "D even",
        "− uniform",
        "− itself in 100 steps",
        *DOMAINS,
        "D P_web, − uniform",
    ]
    return markdown(head, rows)


def ablations(found: Evidence) -> str:
    """One thing changed in the default, at a quarter of the full budget."""
    default, uniform = (found.group(ABLATED, strategy, FOURTH) for strategy in (DEFAULT, UNIFORM))
    rows = []
    for strategy in (DEFAULT, *(ablated(key, value) for key, value in CHANGES)):
        group = found.group(ABLATED, strategy, FOURTH)
        if not group.rows:
            continue
        by_chance = found.group(ABLATED, UNIFORM, FOURTH, changes=strategy.changes[-1:])
        less = "–" if strategy == DEFAULT else signed(found.difference(group, default, even()))
        beaten = signed(found.difference(group, by_chance if by_chance.rows else uniform, even()))
        what = "nothing" if strategy == DEFAULT else strategy.label
        rows.append([what, str(len(group.keys)), f"{group.uncovered:.0%}", f"{found.mean(group, even()).mean:.3f}", less, beaten])
    return markdown(["changed", "runs", "uncovered", "D even", "− default", "− uniform"], rows)


def cost(found: Evidence) -> str:
    """Wall seconds of each kind of work beyond Stage I, and of all of it for each 0.1 nats below Stage I, pool by pool."""
    rows = []
    for strategy in COSTED:
        wall = found.alone.get(strategy.arm(ABLATED, FULL, ALONE))
        if not wall:
            continue
        if strategy == UNIFORM:
            wall = {**wall, "scores": 0.0}  # made for every run, but chance asks nothing
        total = sum(wall.values())
        each = [
            f"{0.1 * total / gain:.0f}" if (gain := below_stage_one(found, covered, strategy)) > 0 else "–" for covered in POOLS
        ]
        rows.append([strategy.label, *(f"{wall[kind]:.1f}" for kind in KINDS), f"{total:.0f}", *each])
    head = ["arm", *(f"{kind} s" for kind in KINDS), "sum s", *(f"s for 0.1 nats, {covered} %" for covered in POOLS)]
    return markdown(head, rows)


def below_stage_one(found: Evidence, covered: int, strategy: Strategy) -> float:
    """How far D, every domain alike, falls below that of the Stage I student; NaN where nothing is measured."""
    group = found.group(covered, strategy)
    if not group.rows:
        return float("nan")
    before = np.array([found.students[key[0]]["D"] for key in group.keys], float)
    return -crossed(by_domains(group.d(group.keys) - before, found.domain, even())).mean


def choosing(found: Evidence) -> str:
    """Accuracy on `continuation`, which chance answers right one time in four."""
    q = float(np.mean(found.texts["q_text"]))
    rows = []
    for covered in POOLS:
        uniform = found.group(covered, UNIFORM)
        for strategy, group in found.measured(covered, MAIN):
            right = _right(group, group.keys)
            keys = group.shared(uniform)
            less = (
                "–" if strategy == UNIFORM or not keys else signed(crossed(_right(group, keys) - _right(uniform, keys)), 1, 100)
            )
            mean = crossed(right)
            rows.append([f"{covered} %", group.label, f"{mean.mean:.1%}", f"{100 * (q - mean.mean):.1f}", less])
    return markdown(["covered", "arm", "accuracy by ear", f"gap to Q on text ({q:.1%}), points", "− uniform, points"], rows)


def _right(group: Group, keys: Sequence[Key]) -> np.ndarray:
    return np.array([group.rows[key]["students"][-1]["continuation"] for key in keys], float)


def machines(found: Evidence) -> str:
    """What computed which rows."""
    kinds: dict[tuple[str, ...], int] = {}
    for part in ("arms", "stage-one"):
        for row in found.results.rows(part):
            made = row["machine"]
            at = (part, made["cpu"], made["threads"], made["torch"], made["salad"], row["date"])
            kinds[at] = kinds.get(at, 0) + 1
    return markdown(
        ["rows of", "processor", "threads", "torch", "salad", "date", "rows"], [[*at, str(n)] for at, n in kinds.items()]
    )


def interval(one: Estimate) -> str:
    return f"{one.mean:.3f}" if one.low is None else f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def signed(one: Estimate | None, digits: int = 3, times: float = 1.0) -> str:
    """A difference with its interval."""
    if one is None:
        return "–"
    mean, low, high = (None if x is None else f"{x * times:+.{digits}f}" for x in one)
    return f"{mean}" if low is None else f"{mean} [{low}, {high}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return NOTHING
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
