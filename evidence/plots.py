"""The plots of docs/evidence.md, as SVG, of the rows in evidence/results alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from evidence.analysis import Estimate
from evidence.curves import WHERE, curves, fit
from evidence.parts import AS_IT_IS, BUDGETS, CONTENT, DEFAULT, FOURTH, IMPORTANCE, NONE, POOLS, UNIFORM
from evidence.tables import Evidence, even, leans, p_web
from evidence.texts import COVERED

COLOUR = {NONE: "#888888", UNIFORM: "#4477aa", IMPORTANCE: "#ccbb44", AS_IT_IS: "#ee8866", CONTENT: "#cc3311"}
ALPHA = {1.0: "#cc3311", 0.5: "#ccbb44", 0.0: "#4477aa"}


@contextmanager
def figure(path: Path, columns: int, width: float = 3.4, height: float = 3.2, sharey: bool = False) -> Iterator[Any]:
    """Axes side by side; the SVG has no date and no random ids: equal rows give equal bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "salad", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False, sharey=sharey, layout="constrained")
    yield axes[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(fig)


def against_uniform(found: Evidence, folder: Path) -> None:
    """The one that matters: the difference to uniform at equal budget, by how much of the pool Stage I covers."""
    with figure(folder / "evidence-against-uniform.svg", 1, 5.4, 3.0) as (axis,):
        shown = [s for s in (IMPORTANCE, AS_IT_IS, CONTENT) if any(found.group(p, s).rows for p in POOLS)]
        told = set()
        for j, strategy in enumerate(shown):
            for i, covered in enumerate(sorted(POOLS)):
                one = found.difference(found.group(covered, strategy), found.group(covered, UNIFORM), even())
                if one:
                    x = i + 0.14 * (j - (len(shown) - 1) / 2)
                    draw(axis, x, one, COLOUR[strategy], strategy.label if strategy not in told else None)
                    told.add(strategy)
        axis.axhline(0, color="#555555", lw=0.8)
        axis.set_xticks(range(len(POOLS)), [f"{p} %" for p in sorted(POOLS)])
        axis.set_xlabel("of the pool is of the domain that Stage I heard")
        axis.set_ylabel("D less uniform's, nats\n(below 0: better)")
        axis.legend(frameon=False, fontsize=8)


def draw(axis: Any, x: float, one: Estimate, colour: str, label: str | None) -> None:
    error = None if one.low is None or one.high is None else np.array([[one.mean - one.low], [one.high - one.mean]])
    axis.errorbar(x, one.mean, yerr=error, fmt="o", ms=5, color=colour, capsize=3, label=label)


def by_budget(found: Evidence, folder: Path) -> None:
    """D by seconds of speech, pool by pool; the bars are the intervals of the difference to uniform with as much."""
    with figure(folder / "evidence-budgets.svg", len(POOLS), sharey=True) as axes:
        for axis, covered in zip(axes, POOLS, strict=True):
            none = found.group(covered, NONE)
            if none.rows:
                axis.axhline(found.mean(none, even()).mean, color=COLOUR[NONE], ls="--", lw=1, label=NONE.label)
            for strategy in (UNIFORM, DEFAULT):
                groups = [found.group(covered, strategy, budget) for budget in BUDGETS]
                groups = [group for group in groups if group.rows]
                if groups:
                    d = [found.mean(group, even()).mean for group in groups]
                    seconds = [group.seconds for group in groups]
                    axis.plot(seconds, d, "o-", ms=4, color=COLOUR[strategy], label=strategy.label)
            for budget, group in ((b, found.group(covered, DEFAULT, b)) for b in BUDGETS):
                one = found.difference(group, found.group(covered, UNIFORM, budget), even())
                if one and one.low is not None and one.high is not None:
                    mean = found.mean(group, even()).mean
                    bar = Estimate(mean, mean + one.low - one.mean, mean + one.high - one.mean)
                    draw(axis, group.seconds, bar, COLOUR[DEFAULT], None)
            axis.set_xscale("log", base=2)
            axis.set_xticks(BUDGETS, [f"{b:,}" for b in BUDGETS])
            axis.minorticks_off()
            axis.set_title(f"{covered} % covered", fontsize=9)
            axis.set_xlabel("seconds of speech")
        axes[0].set_ylabel("D, nats (every domain alike)")
        axes[-1].legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.88))


def leaning(found: Evidence, folder: Path) -> None:
    """D less uniform's by how much of the speech is of uncovered domains: from little to all, as γ grows."""
    pools = [p for p in POOLS if leans(found, p)]
    if not pools:
        return
    with figure(folder / "evidence-leaning.svg", len(pools), 4.2) as axes:
        for axis, covered in zip(axes, pools, strict=True):
            uniform = found.group(covered, UNIFORM, FOURTH)
            weighings = [("every domain alike", even(), "#cc3311", -0.006)]
            if p_web(covered) != even():
                weighings.append(("as the pool weighs them", p_web(covered), "#4477aa", 0.006))
            for label, weights, colour, shift in weighings:
                for i, (_, group) in enumerate(leans(found, covered)):
                    one = found.difference(group, uniform, weights)
                    if one:
                        draw(axis, group.uncovered + shift, one, colour, label if i == 0 else None)
            axis.axvline(uniform.uncovered, color="#888888", ls=":", lw=1, label="uniform's share")
            axis.axhline(0, color="#555555", lw=0.8)
            axis.set_title(f"{covered} % covered", fontsize=9)
            axis.set_xlim(0, 1.05)
            axis.set_ylim(-0.3, 0.3)
            axis.set_xlabel("share of the spoken texts of uncovered domains")
        axes[0].set_ylabel("D less uniform's, nats\n(below 0: better)")
        axes[0].legend(frameon=False, fontsize=8)


def stage_one(found: Evidence, folder: Path) -> None:
    """D, M and F against steps by α, in what is heard and elsewhere; the fitted law of M."""
    lines = curves(found)
    if not lines:
        return
    with figure(folder / "evidence-stage-one.svg", 3) as axes:
        for axis, measure in zip(axes, ("D", "M", "F"), strict=True):
            for curve in lines:
                for (where, domains), style in zip(WHERE, ("o-", "s--"), strict=True):
                    of_steps = [one.mean for one in curve.at(measure, found.domain, domains)]
                    label = f"α = {curve.alpha:g}, {where}"
                    fitted = fit(curve, "M", found.domain, domains) if measure == "M" else None
                    axis.plot(
                        curve.steps, of_steps, style[0] if fitted else style, ms=4, color=ALPHA[curve.alpha],
                        label=label, mfc=None if where == COVERED else "white",
                    )  # fmt: skip
                    if fitted:
                        grid = np.geomspace(curve.steps[0], curve.steps[-1], 50)
                        axis.plot(grid, fitted[0].at(grid), style[1:], lw=1, color=ALPHA[curve.alpha])
            axis.set_xscale("log", base=2)
            axis.set_xticks(lines[0].steps, [str(n) for n in lines[0].steps])
            axis.minorticks_off()
            axis.set_title(
                {"D": "D: student by ear to teacher", "M": "M: student by ear to itself", "F": "F: student's text to teacher's"}[
                    measure
                ],
                fontsize=9,
            )
            axis.set_xlabel("steps")
        axes[0].set_ylabel("nats")
        axes[2].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
