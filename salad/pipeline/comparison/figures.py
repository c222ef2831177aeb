"""The figures of a comparison, as plain data for plotly.js.

Plotly reads tags in its texts, so names of runs and domains go in only as `plain` leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from salad.pipeline.comparison.differences import Difference, by_round
from salad.pipeline.comparison.facts import Side, Student
from salad.pipeline.comparison.overlap import Overlap
from salad.pipeline.report.figures import BLUE, GREY, STAGES, Figure, plain_layout

if TYPE_CHECKING:
    from salad.pipeline.comparison import Comparison

COLOURS = (*STAGES, "#c4563b", "#2f9ea0")  # each readable on white and on black
PALE, DARK = "#e3edf7", "#10181f"  # of squares and what stands on them, whatever the page is
DASHES = ("solid", "dash", "dot", "dashdot")
LONGEST = 32
KEPT = "._-/ ,…"
Look = tuple[str, str]  # colour and dash


def plain(names: Iterable[str]) -> list[str]:
    """Names that Plotly shows as they are, in order, each once: letters, digits and a few marks, cut short."""
    found: list[str] = []
    for name in names:
        text = "".join(c if c.isalnum() or c in KEPT else "·" for c in name)
        text = short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        number = 2
        while text in found:
            text, number = f"{short} {number}", number + 1
        found.append(text)
    return found


def looks(sides: Sequence[Side]) -> dict[str, tuple[str, Look]]:
    """Name in the figures and look of each run, by label."""
    names = plain(side.label for side in sides)
    return {
        side.label: (name, (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]))
        for i, (side, name) in enumerate(zip(sides, names, strict=True))
    }


def all_figures(found: Comparison) -> dict[str, Figure]:
    """Every figure that has something to show, by the id of its place in the page."""
    sides = found.sides
    look = looks(sides)
    curves = {measure: (_of_measure(measure), f"{measure} (nats)") for measure in found.measures}
    curves |= {f"gap-{i}": (_of_gap(name), "gap (accuracy)") for i, name in enumerate(benchmarks(sides))}
    plots: dict[str, Figure] = {}
    for id_, ((value, interval), y) in curves.items():
        plots[f"{id_}-seconds"] = _curves(sides, look, value, interval, _seconds, ("seconds of synthetic speech", y))
        plots[f"{id_}-rounds"] = _curves(sides, look, value, interval, _rounds, ("rounds", y), controls=True)
    if found.base.student is found.base.side.last:  # a control has no rounds to go along with
        plots["difference"] = _by_round(sides, found.base.side, look)
    plots["domains"] = _domains(found.domains, look)
    plots["overlap"] = _overlap(found.overlaps, look)
    return {name: figure for name, figure in plots.items() if figure["data"]}


def benchmarks(sides: Sequence[Side]) -> list[str]:
    return sorted({name for side in sides for student in side.students for name in student.gaps})


def _seconds(student: Student) -> float:
    return student.seconds


def _rounds(student: Student) -> float:
    return student.rounds


Value = Callable[[Student], float | None]
Bounds = Callable[[Student], tuple[float, float] | None]


def _of_measure(measure: str) -> tuple[Value, Bounds]:
    return (lambda s: s.metrics["all"][measure]), (lambda s: s.interval(measure))


def _of_gap(name: str) -> tuple[Value, Bounds]:
    def value(student: Student) -> float | None:
        return student.gaps[name]["gap"] if name in student.gaps else None

    def interval(student: Student) -> tuple[float, float] | None:
        found = student.gaps.get(name, {})
        low, high = found.get("gap_low"), found.get("gap_high")
        return None if low is None or high is None else (low, high)

    return value, interval


def _curves(
    sides: Sequence[Side],
    look: dict[str, tuple[str, Look]],
    value: Value,
    interval: Bounds,
    x: Callable[[Student], float],
    axes: tuple[str, str],
    controls: bool = False,
) -> Figure:
    """One line a run; with `controls` a diamond for each run's control, at the rounds whose steps it had."""
    data = []
    shown: set[str] = set()  # controls, which runs may share
    for side in sides:
        name, (colour, dash) = look[side.label]
        known = [(s, y) for s in side.students if (y := value(s)) is not None]
        if known:
            trace = _points([x(s) for s, _ in known], [y for _, y in known], [interval(s) for s, _ in known], colour)
            data.append({**trace, "name": name, "mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}})
        if not controls or side.control is None or side.control.key in shown:
            continue
        if (y := value(side.control)) is not None:
            shown.add(side.control.key)
            trace = _points([side.config.rounds], [y], [interval(side.control)], colour)
            marker = {"color": colour, "symbol": "diamond-open", "size": 10}
            data.append({**trace, "name": f"control of {name}", "mode": "markers", "marker": marker})
    layout = plain_layout(*axes, height=360)
    layout["xaxis"] |= {"rangemode": "tozero"} | ({"dtick": 1} if controls else {})
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _points(x: list[Any], y: list[Any], intervals: Sequence[tuple[float, float] | None], colour: str, along: str = "y") -> Figure:
    """Points with their intervals, which lie along `along`."""
    values = y if along == "y" else x
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [None if i is None else i[1] - v for v, i in zip(values, intervals, strict=True)],
        "arrayminus": [None if i is None else v - i[0] for v, i in zip(values, intervals, strict=True)],
        "color": colour,
        "thickness": 1.5,
        "width": 3,
    }
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        f"error_{along}": bars,
        "marker": {"color": colour, "size": 7},
        "cliponaxis": False,
    }


def _by_round(sides: Sequence[Side], base: Side, look: dict[str, tuple[str, Look]]) -> Figure:
    """D of every run less the base's after as many rounds."""
    data = []
    for side in sides:
        rows = by_round(side, base) if side is not base else []
        if len(rows) > 1:
            name, (colour, dash) = look[side.label]
            trace = _points(list(range(len(rows))), [row.mean for row in rows], [row.interval for row in rows], colour)
            data.append({**trace, "name": name, "mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}})
    layout = plain_layout("rounds", "difference in D (nats)", height=340)
    layout["xaxis"] |= {"dtick": 1}
    layout["yaxis"] |= {"zeroline": True}
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": GREY, "dash": "dot"}}
    ]
    return {"data": data, "layout": layout}


def _domains(rows: Sequence[Difference], look: dict[str, tuple[str, Look]]) -> Figure:
    """A dot and its interval for every run in every domain, one below the other."""
    named = list(dict.fromkeys(row.domain or "" for row in rows))
    names = dict(zip(named, plain(named), strict=True))
    who = list(dict.fromkeys(row.who for row in rows))
    data = []
    for i, (label, name) in enumerate(zip(who, plain(who), strict=True)):
        of = [row for row in rows if row.who == label]
        colour = look[label][1][0] if label in look else GREY
        trace = _points(
            [row.mean for row in of], [names[row.domain or ""] for row in of], [row.interval for row in of], colour, "x"
        )
        marker = {"color": colour, "size": 9, "symbol": ("circle", "diamond", "square", "cross")[i % 4]}
        data.append({**trace, "name": name, "mode": "markers", "marker": marker, "offsetgroup": str(i), "orientation": "h"})
    layout = plain_layout("difference in D (nats)", "", height=140 + 26 * len(names) * max(1, len(who)))
    layout["yaxis"] |= {"type": "category", "autorange": "reversed"}
    layout["shapes"] = [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 0, "x1": 0, "line": {"color": GREY, "dash": "dot"}}
    ]
    return {"data": data, "layout": {**layout, "scattermode": "group"}}


def _overlap(found: Sequence[Overlap], look: dict[str, tuple[str, Look]]) -> Figure:
    """Jaccard of every two selections as a square; nothing for a single pair, which the table says."""
    labels = list(dict.fromkeys(label for o in found for label in (o.one, o.other)))
    names = [look[label][0] for label in labels]
    value = {frozenset((o.one, o.other)): o.jaccard for o in found}
    z = [[None if a == b else value[frozenset((a, b))] for b in labels] for a in labels]
    square = {
        "type": "heatmap", "x": names, "y": names, "z": z, "zmin": 0, "zmax": 1, "xgap": 2, "ygap": 2, "texttemplate": "%{z:.2f}",
        "colorscale": [[0, PALE], [1, BLUE]], "textfont": {"color": DARK}, "hoverongaps": False, "hoverinfo": "x+y+z",
        "colorbar": {"title": {"text": "Jaccard"}, "thickness": 12},
    }  # fmt: skip
    layout = plain_layout("", "", height=180 + 44 * len(names))
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "showgrid": False, "autorange": "reversed"}
    return {"data": [square] if len(labels) > 2 else [], "layout": layout}
