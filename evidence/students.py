"""Does it hold from another Stage I student? A student taught the same on another processor is another student."""

from __future__ import annotations

import numpy as np

from evidence.analysis import Estimate, crossed
from evidence.parts import DEFAULT, FULL, POOLS, TOLD, TOLD_OF, UNIFORM, Strategy
from evidence.tables import UNCOVERED, Evidence, Group, even, lean, markdown, only, p_web, signed
from evidence.texts import COVERED

Pair = tuple[str, Group, Group]  # Stage I student, what is compared with, and what


def again(
    found: Evidence, covered: int, strategy: Strategy = DEFAULT, budget: int = FULL, than: Strategy = UNIFORM
) -> list[Pair]:
    """Of every student that both went on from."""
    other, chosen = (found.group(covered, one, budget) for one in (than, strategy))
    origins = dict.fromkeys(origin for origin, seed in chosen.rows if (origin, seed) in other.rows)
    return [(origin, other.of(origin), chosen.of(origin)) for origin in origins]


def together(found: Evidence, pairs: list[Pair], weights: dict[str, float]) -> Estimate:
    """The difference, over all runs of all these students."""
    runs = [(other, chosen, chosen.shared(other)) for _, other, chosen in pairs]
    return crossed(found.weighed(np.concatenate([chosen.d(keys) - other.d(keys) for other, chosen, keys in runs]), weights))


def students(found: Evidence) -> str:
    """What the default leans to and is worth, Stage I student by Stage I student."""
    rows, sums = [], []
    for covered in POOLS:
        pairs = again(found, covered)
        for pair in pairs:
            origin, uniform, default = pair
            before = np.array([found.students[origin]["D"]], float)
            heard, unheard = (crossed(found.weighed(before, only(*d))).mean for d in ((COVERED,), UNCOVERED))
            less = [signed(together(found, [pair], w)) for w in (even(), p_web(covered))]
            numbers = (f"{heard:.2f}", f"{unheard:.2f}", _runs([pair]), f"{default.uncovered:.0%}")
            rows.append([f"{covered} %", f"`{origin}`", *numbers, f"{found.mean(uniform, even()).mean:.3f}", *less])
        if len(pairs) > 1:
            less = [signed(together(found, pairs, w)) for w in (even(), p_web(covered))]
            sums.append([f"{covered} %", "all together", "–", "–", _runs(pairs), "–", "–", *less])
    head = ["covered", "Stage I student", f"its D: {COVERED}", "others", "runs", "uncovered", "D even by chance"]
    return markdown([*head, "the default, − uniform", "D P_web, − uniform"], rows + sums)


def told(found: Evidence) -> str:
    """What γ = 5 happens to lean beside leans that are told, Stage I student by Stage I student."""
    rows = []
    for covered, budget in TOLD_OF:
        for strategy in (DEFAULT, *TOLD):
            pairs = again(found, covered, strategy, budget)
            beside = [] if strategy == DEFAULT else again(found, covered, strategy, budget, DEFAULT)
            whose = {f"`{origin}`": [origin] for origin, _, _ in pairs}
            if len(pairs) > 1:
                whose["all together"] = [origin for origin, _, _ in pairs]
            for name, origins in whose.items():
                of, to_default = ([pair for pair in some if pair[0] in origins] for some in (pairs, beside))
                uncovered = f"{of[0][2].uncovered:.0%}" if len(of) == 1 else "–"
                less = [signed(together(found, of, w)) for w in (even(), p_web(covered), only(COVERED))]
                less.insert(1, signed(together(found, to_default, even())) if to_default else "–")
                rows.append([f"{covered} %", f"{budget:,}", lean(strategy), name, _runs(of), uncovered, *less])
    less = ["D even, − uniform", "D even, − γ = 5's", "D P_web, − uniform", f"{COVERED}, − uniform"]
    return markdown(["covered", "budget s", "P_target", "Stage I student", "runs", "uncovered", *less], rows)


def _runs(pairs: list[Pair]) -> str:
    return str(sum(len(chosen.shared(other)) for _, other, chosen in pairs))
