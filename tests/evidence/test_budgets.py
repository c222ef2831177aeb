"""The seconds at which a strategy is as good as chance with all of them: read off, with what of it is chance."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log
from pathlib import Path

import numpy as np
import pytest

from evidence.analysis import Estimate
from evidence.budgets import needs, reach, table
from evidence.headline import headline
from evidence.parts import ABLATED, BUDGETS, DEFAULT, HALF, IMPORTANCE, SEEDS, UNCERTAINTY, UNIFORM, Strategy
from evidence.results import Results
from evidence.students import students, told
from evidence.tables import Evidence, even
from evidence.texts import DOMAINS

EACH = 8
ASKED = 400  # seconds of probes


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Evidence]:
    """Rows in which a strategy's D is a function of its seconds, plus noise of each run and text."""

    def rows(noise: float, of: dict[Strategy, Callable[[int], float]], student: str = "s") -> Evidence:
        results = Results(tmp_path)
        domain = [d for d in DOMAINS for _ in range(EACH)]
        rng = np.random.default_rng(0)
        results.add("evaluation", {"domain": domain})
        results.add("stage_one_students", {"stage_one": student, "covered": ABLATED, "asked": ASKED, "D": [2.0] * len(domain)})
        for strategy, d in of.items():
            for arm in (strategy.arm(ABLATED, budget, seed) for budget in BUDGETS for seed in SEEDS):
                values = d(arm.budget) + rng.normal(0, noise, len(domain)) + rng.normal(0, noise)
                same = {"covered": arm.covered, "selector": arm.selector, "budget": arm.budget, "seed": arm.seed, "rounds": 1}
                spent = {"seconds": arm.budget, "by_domain": {"law": 1}}
                row = {"stage_one": student, "changes": dict(arm.changes), "spent": spent, "students": [{"D": values.tolist()}]}
                results.add("arms", same | row)
        return Evidence(results)

    return rows


def falling(least: float) -> Callable[[int], float]:
    """D at the smallest budget, from which every doubling of the seconds takes a tenth."""
    return lambda seconds: least - 0.1 * log(seconds / BUDGETS[0], 2)


def test_halfway_between_two_budgets(found: Callable[..., Evidence]) -> None:
    rows = found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(1.7)})  # three doublings ahead
    assert reach(rows, ABLATED, DEFAULT) == pytest.approx((200, 200, 200), rel=0.01)
    assert needs(rows).splitlines()[2:] == [
        f"| 80 % | {DEFAULT.label} | 1,600 | 201 [201, 201] | 400 | 38% [38%, 38%] |"
    ]  # (200 + 400) / 1600


def test_the_smallest_budget_is_a_bound_and_what_is_worse_never_gets_there(found: Callable[..., Evidence]) -> None:
    rows = found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(1.0), IMPORTANCE: falling(2.05)})
    assert reach(rows, ABLATED, DEFAULT) == (100, 100, 100)
    assert reach(rows, ABLATED, IMPORTANCE) == (inf, inf, inf)
    shown = [line.split(" | ")[3:] for line in needs(rows).splitlines()[2:]]
    assert shown == [
        ["never [never, never]", "400", "never [never, never] |"],
        ["≤ 100 [≤ 100, ≤ 100]", "400", "≤ 31% [≤ 31%, ≤ 31%] |"],
    ]


def test_noise_of_seeds_and_texts_widens_the_interval(found: Callable[..., Evidence]) -> None:
    reached: Estimate = reach(found(0.05, {UNIFORM: falling(2.0), DEFAULT: falling(1.7)}), ABLATED, DEFAULT)
    assert reached.low is not None
    assert reached.high is not None
    assert 100 <= reached.low < 200 < reached.high < 1600


def test_a_strategy_without_all_budgets_is_not_shown(found: Callable[..., Evidence]) -> None:
    rows = found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(1.7)})
    rows.arms = [row for row in rows.arms if (row["selector"], row["budget"]) != (DEFAULT.selector, BUDGETS[1])]
    assert {line.split(" | ")[1] for line in table(rows).splitlines()[2:]} == {UNIFORM.label}


def test_of_two_stage_one_students_the_one_that_most_go_on_from_speaks_and_the_other_where_it_alone_can(
    found: Callable[..., Evidence],
) -> None:
    found(0.0, {UNIFORM: falling(2.0), IMPORTANCE: falling(1.9)}, "second")
    rows = found(0.0, {UNIFORM: falling(5.0), DEFAULT: falling(4.8), UNCERTAINTY: falling(4.9)}, "first")
    uniform, importance = (rows.group(ABLATED, strategy) for strategy in (UNIFORM, IMPORTANCE))
    assert uniform.keys == [("first", seed) for seed in SEEDS]
    assert importance.shared(uniform) == [("second", seed) for seed in SEEDS]
    assert rows.difference(importance, uniform, even()) == pytest.approx((-0.1, -0.1, -0.1)), "not 1.9 - 5.0"
    starred = {line.split(" | ")[1] for line in table(rows).splitlines()[2:] if "*" in line}
    assert starred == {IMPORTANCE.label}


def test_another_stage_one_student_stands_beside_the_first_and_not_in_its_place(found: Callable[..., Evidence]) -> None:
    found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(1.9), IMPORTANCE: falling(2.0)}, "first")
    rows = found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(2.0)}, "second")
    by_student = [line.split(" | ") for line in students(rows).splitlines()[2:]]
    assert [(cells[1], cells[4], cells[7][:6]) for cells in by_student] == [
        ("`first`", "3", "-0.100"), ("`second`", "3", "+0.000"), ("all together", "6", "-0.050"),
    ]  # fmt: skip
    said = headline(rows).splitlines()
    assert "-0.100" in said[0]
    assert "from another Stage I student" in said[1]
    assert "+0.000" in said[1]
    assert "no difference" in said[1]


def test_a_told_lean_is_compared_student_by_student_with_the_chance_of_that_budget(found: Callable[..., Evidence]) -> None:
    found(0.0, {UNIFORM: falling(2.0), DEFAULT: falling(1.9), HALF: falling(1.8)}, "first")
    rows = found(0.0, {UNIFORM: falling(3.0), HALF: falling(2.9)}, "second")
    shown = [line.strip("| ").split(" | ") for line in told(rows).splitlines()[2:]]
    expected = [
        ("γ = 5, the default", "`first`", "3", "-0.100", "–"),
        (HALF.label, "`first`", "3", "-0.200", "-0.100"),
        (HALF.label, "`second`", "3", "-0.100", "–"),
        (HALF.label, "all together", "6", "-0.150", "-0.100"),
    ]
    assert [(cells[0], cells[1], *cells[2:5], cells[6][:6], cells[7][:6]) for cells in shown] == [
        ("80 %", budget, *row) for budget in ("1,600", "400") for row in expected
    ]
