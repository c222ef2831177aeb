"""D by seconds of speech, and the seconds at which a strategy is as good as uniform with all of them."""

from __future__ import annotations

from math import inf

import numpy as np

from evidence.analysis import Estimate, reaches
from evidence.parts import BUDGETS, FULL, POOLS, UNIFORM, Strategy
from evidence.tables import Evidence, even, interval, markdown, signed


def table(found: Evidence) -> str:
    """D (every domain alike) by seconds of speech, less uniform's with as many, and less uniform's with all of them.

    A star: these runs, and the uniform ones that are taken from them, go on from another Stage I student.
    """
    rows = []
    for covered in POOLS:
        full = found.group(covered, UNIFORM)
        for strategy in found.budgeted(covered):
            for budget in BUDGETS:
                group = found.group(covered, strategy, budget)
                other_student = not {origin for origin, _ in group.keys} <= {origin for origin, _ in full.keys}
                d = interval(found.mean(group, even())) + "*" * other_student
                row = [f"{covered} %", strategy.label, f"{budget:,}", str(len(group.keys)), d]
                for other in (found.group(covered, UNIFORM, budget), full):
                    same = (strategy, group.rows) == (UNIFORM, other.rows)
                    row.append("–" if same else signed(found.difference(group, other, even())))
                rows.append(row)
    return markdown(["covered", "arm", "speech s", "runs", "D even", "− uniform's", f"− uniform's with {FULL:,} s"], rows)


def needs(found: Evidence) -> str:
    """The seconds at which each strategy is as good as uniform with its full budget, and with those of its probes on top."""
    rows = []
    for covered in POOLS:
        full = found.group(covered, UNIFORM)
        for strategy in (strategy for strategy in found.budgeted(covered) if strategy != UNIFORM):
            alone, both = seconds_and_share(found, covered, strategy)
            rows.append([f"{covered} %", strategy.label, f"{full.seconds:,.0f}", alone, f"{asked(found, covered)}", both])
    head = ["covered", "arm", "uniform, s", "for the same D, s", "its probes, s", "both, of uniform's"]
    return markdown(head, rows)


def seconds_and_share(found: Evidence, covered: int, strategy: Strategy) -> tuple[str, str]:
    """Seconds for the D of uniform's full budget, and what they are of that budget with the probes' on top; with intervals."""
    full, reached = found.group(covered, UNIFORM).seconds, reach(found, covered, strategy)
    least, more = found.group(covered, strategy, BUDGETS[0]).seconds, asked(found, covered)
    alone = [up_to(s, least, "{:,.0f}") for s in reached]
    both = [up_to(s, least, "{:.0%}", more, full) for s in reached]
    return f"{alone[0]} [{alone[1]}, {alone[2]}]", f"{both[0]} [{both[1]}, {both[2]}]"


def asked(found: Evidence, covered: int) -> int:
    """Seconds of the probes' speech, which every strategy but uniform asks."""
    (seconds,) = {found.students[origin]["asked"] for origin, _ in found.group(covered, UNIFORM).keys}
    return int(seconds)


def reach(found: Evidence, covered: int, strategy: Strategy) -> Estimate:
    """Seconds of speech at which a strategy's D, every domain alike, is that of uniform with its full budget."""
    full = found.group(covered, UNIFORM)
    groups = [found.group(covered, strategy, budget) for budget in BUDGETS]
    pairs = [group.shared(full) for group in groups]
    seeds = set.intersection(*({seed for _, seed in keys} for keys in pairs))
    of_seeds = [[key for key in keys if key[1] in seeds] for keys in pairs]
    less = [group.d(keys) - full.d(keys) for group, keys in zip(groups, of_seeds, strict=True)]
    return reaches(np.array([group.seconds for group in groups]), found.weighed(np.array(less), even()))


def up_to(seconds: float | None, least: float, form: str, more: float = 0.0, of: float = 1.0) -> str:
    """(seconds + more) / of; what the least budget reaches is an upper bound, inf is never, and of one run there is no limit."""
    if seconds is None:
        return "–"
    return "never" if seconds == inf else "≤ " * (seconds <= least) + form.format((seconds + more) / of)
