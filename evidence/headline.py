"""The README's sentences: the default against uniform."""

from __future__ import annotations

from evidence.budgets import seconds_and_share
from evidence.parts import ABLATED, DEFAULT, FOURTH, FULL, POOLS, UNIFORM
from evidence.students import again, together
from evidence.tables import NOTHING, Evidence, even, p_web, signed


def headline(found: Evidence) -> str:
    """At equal budget pool by pool, with a quarter of it, the seconds for the same D, and by the pool's own weights."""
    lines = []
    for covered in POOLS:
        group, uniform = found.group(covered, DEFAULT), found.group(covered, UNIFORM)
        one = found.difference(group, uniform, even())
        if one:
            before = found.mean(uniform, even()).mean
            lines.append(
                f"- {covered} % of the pool covered: D {before:.3f} by chance, {signed(one)} by choosing "
                f"({one.verdict}; {len(group.keys)} runs each)"
            )
    for covered in POOLS:
        group, pairs = found.group(covered, DEFAULT), again(found, covered)
        for pair in pairs:
            origin, _, default = pair
            if origin == group.keys[0][0]:
                continue
            one, both = (together(found, of, even()) for of in ([pair], pairs))
            lines.append(
                f"- {covered} %, from another Stage I student, {default.uncovered:.0%} of whose chosen texts are new in place of "
                f"{group.uncovered:.0%}: {signed(one)} ({one.verdict}; {len(default.keys)} runs each); "
                f"together {signed(both)} ({both.verdict})"
            )
    quarter = found.group(ABLATED, DEFAULT, FOURTH)
    one = found.difference(quarter, found.group(ABLATED, UNIFORM), even())
    if one:
        lines.append(
            f"- {ABLATED} %, choosing with {quarter.seconds:,.0f} s against chance with {FULL:,}: {signed(one)} ({one.verdict})"
        )
    measured = [covered for covered in POOLS if DEFAULT in found.budgeted(covered)]
    shares = [f"{seconds_and_share(found, covered, DEFAULT)[1]} with {covered} % covered" for covered in measured]
    if shares:
        lines.append(f"- of the speech that chance takes, choosing needs for the same D, probes included: {', '.join(shares)}")
    weighed = found.difference(found.group(ABLATED, DEFAULT), found.group(ABLATED, UNIFORM), p_web(ABLATED))
    if weighed:
        lines.append(f"- {ABLATED} %, domains weighed as the pool weighs them: {signed(weighed)} ({weighed.verdict})")
    return "\n".join(lines) or NOTHING
