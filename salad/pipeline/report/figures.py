"""The report's figures, as plain data for plotly.js.

They hold numbers and our own words only: Plotly reads tags in its texts, so no text of the data goes in. The
page gives the colours of text and grid, which differ between light and dark.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from salad.pipeline import summary

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

Figure = dict[str, Any]
BLUE, ORANGE, GREEN, PURPLE = "#3b82c4", "#d9822b", "#3f9c6b", "#8b6fc0"  # each readable on white and on black
GREY = "#808890"
MEASURES = {"D": (BLUE, 5, 12), "M": (ORANGE, 2, 7), "F": (GREEN, 2, 7)}  # D is broad: where M equals it, both are seen
NO_SPEECH, UNTRAINED, CONTROL = "before/no-speech", "before/untrained", "control/metrics"
STAGES = (BLUE, ORANGE, GREEN, PURPLE)
SYMBOLS = {"divergence": "D", "misalignment": "M", "excess": "D − F"}  # of what chooses


def story_figures(run: Run) -> dict[str, Figure]:
    """Figures over students, as far as their artefacts are published, by the id of their places in the page."""
    found = {"curve": curve(run), "gap": gap(run), "training": training(run), "alignment": alignment(run)}
    return {name: figure for name, figure in found.items() if figure["data"]}


def curve(run: Run) -> Figure:
    """D, M and F over the students with their 95 % intervals; the control stands apart; a dotted line is what no speech gives."""
    labels = _labels(run)
    values = {name: summary.metrics(run, name)["all"] for name in labels}

    def trace(measure: str, names: list[str], **look: Any) -> dict[str, Any]:
        colour, width, size = MEASURES[measure]
        return {
            "type": "scatter",
            "name": measure,
            "x": [labels[n] for n in names],
            "y": [values[n][measure] for n in names],
            "error_y": interval([values[n] for n in names], measure, colour),
            "line": {"color": colour, "width": width},
            "marker": {"color": colour, "size": size, "symbol": "diamond" if names == [CONTROL] else "circle"},
            "cliponaxis": False,
            **look,
        }

    data = [
        trace(m, along, mode="lines+markers") for m in MEASURES if (along := [n for n in labels if n not in (NO_SPEECH, CONTROL)])
    ]
    data += [trace(m, [CONTROL], mode="markers", showlegend=False) for m in MEASURES if CONTROL in labels]
    layout = plain_layout("", "nats", height=380)
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"rangemode": "tozero"}
    if NO_SPEECH in labels:
        layout |= _level(values[NO_SPEECH]["D"], "D without any speech")
    return {"data": data, "layout": layout}


def gap(run: Run) -> Figure:
    """Accuracy of Q on text less that of P on speech over the students, a line a benchmark, with 95 % intervals."""
    labels = {name: label for name, label in _labels(run).items() if name != NO_SPEECH}
    found = {name: summary.metrics(run, name).get("benchmarks", {}) for name in labels}
    data = []
    for i, benchmark in enumerate(dict.fromkeys(b for of_student in found.values() for b in of_student)):
        colour = STAGES[i % len(STAGES)]
        asked = [name for name in labels if benchmark in found[name]]
        along = [name for name in asked if name != CONTROL]
        for names, look in ((along, "lines+markers"), ([n for n in asked if n == CONTROL], "markers")):
            values = [found[n][benchmark] for n in names]
            if names:
                data.append(
                    {
                        "type": "scatter",
                        "name": benchmark if re.fullmatch(r"[\w -]+", benchmark) else f"benchmark {i + 1}",
                        "mode": look,
                        "showlegend": look != "markers",
                        "x": [labels[n] for n in names],
                        "y": [v["gap"] for v in values],
                        "error_y": interval(values, "gap", colour),
                        "line": {"color": colour},
                        "marker": {"color": colour, "size": 8, "symbol": "diamond" if look == "markers" else "circle"},
                    }
                )
    layout = plain_layout("", "gap in accuracy, text less speech", height=260)
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def interval(values: list[dict[str, Any]], measure: str, colour: str) -> dict[str, Any]:
    """Plotly's error bars of NAME, NAME_low and NAME_high; none where there is no interval."""
    above = [_less(v.get(f"{measure}_high"), v[measure]) for v in values]
    below = [_less(v[measure], v.get(f"{measure}_low")) for v in values]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour, "thickness": 1}


def training(run: Run) -> Figure:
    """The training KL of each checkpoint, at the optimiser steps that its student has behind it."""
    train, rounds = run.config.train, range(run.config.rounds)
    stages = [("Stage I", "stage-one/checkpoint", 0)]
    stages += [(f"round {r}", f"round-{r:03d}/checkpoint", train.stage_one_steps + r * train.round_steps) for r in rounds]
    stages.append(("control", "control/checkpoint", train.stage_one_steps))
    data = []
    for i, (label, name, before) in enumerate(stages):
        if summary.published(run, name):
            log = (run.store.path(name) / "log.jsonl").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in log.splitlines()]
            steps, kl = [before + row["step"] for row in rows], [row["kl"] for row in rows]
            data.append(_line(label, steps, kl, STAGES[i % len(STAGES)], dotted=label == "control"))
    layout = plain_layout("optimiser steps", "training KL (nats)", height=340)
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def alignment(run: Run) -> Figure:
    """Linear CKA between heard and read words by layer, one line a student, in the colours of `training`."""
    data = []
    labels = _labels(run)
    trained = [name for name in labels if name not in (NO_SPEECH, UNTRAINED)]
    for name, label in labels.items():
        values = summary.alignment(run, name)
        if values is not None and not all(map(math.isnan, values)):
            colour = STAGES[trained.index(name) % len(STAGES)] if name in trained else GREY
            known = [None if math.isnan(value) else value for value in values]
            data.append(_line(label, list(range(len(values))), known, colour, dotted=name == CONTROL))
    layout = plain_layout("layer", "linear CKA", height=340)
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _line(name: str, x: list[Any], y: list[Any], colour: str, dotted: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "line": {"color": colour, "dash": "dot" if dotted else "solid"},
        "marker": {"size": 4},
    }


def clusters(rows: list[dict[str, Any]]) -> Figure:
    """Above: P_web beside P_target. Below: D with its 95 % interval, and the estimate that P_target follows from."""
    x = [str(row["cluster"]) for row in rows]
    symbol = SYMBOLS[rows[0]["signal"]]

    def bars(name: str, column: str, colour: str, place: str) -> dict[str, Any]:
        y = _column(rows, column)
        return {"type": "bar", "name": name, "x": x, "y": y, "offsetgroup": place, "marker": {"color": colour}}

    def points(name: str, column: str, colour: str, place: str, marker: str, size: int, **error: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": x,
            "y": _column(rows, column),
            "yaxis": "y2",
            "offsetgroup": place,  # side by side: each has an error bar
            "marker": {"color": colour, "symbol": marker, "size": size},
            "error_y": {"type": "data", "color": colour, "width": 0, **error},
            "cliponaxis": False,
        }

    errors = [estimate_error(row) for row in rows]
    layout = plain_layout("cluster, most wanted first", "share", height=520)
    layout["xaxis"] |= {"type": "category", "anchor": "y2", "tickangle": 0}
    layout["yaxis"] |= {"domain": [0.62, 1], "tickformat": ".0%"}
    layout["yaxis2"] = {"title": {"text": "nats"}, "domain": [0, 0.52], "automargin": True, "rangemode": "tozero"}
    return {
        "data": [
            bars("P_web", "p_web", PURPLE, "left"),
            bars("P_target", "p_target", BLUE, "right"),
            points("D, 95%", "divergence", GREEN, "left", "circle", 5, **interval(rows, "divergence", GREEN)),
            points(f"{symbol}, estimated ± SE", "divergence_shrunk", ORANGE, "right", "diamond", 6, array=errors),
        ],
        "layout": {**layout, "barmode": "group", "scattermode": "group"},
    }


def estimate_error(row: dict[str, Any]) -> float | None:
    """Standard error of a cluster's estimate, in nats."""
    return None if row["divergence_shrunk"] is None else row["divergence_shrunk"] * row["log_sd"]


def _labels(run: Run) -> dict[str, str]:
    """Short names of the measured students, by metrics artefact."""
    return {
        name: "control" if name == CONTROL else label.replace("after round", "round") for label, name, _ in summary.students(run)
    }


def scored_rounds(run: Run) -> list[int]:
    return [r for r in range(run.config.rounds) if summary.published(run, f"round-{r:03d}/scores")]


def cluster_rows(run: Run, round_: int) -> list[dict[str, Any]]:
    """The clusters of a round's scores, the largest P_target first."""
    rows = pq.read_table(run.store.path(f"round-{round_:03d}/scores") / "clusters.parquet").to_pylist()
    return sorted(rows, key=lambda row: (-row["p_target"], row["cluster"]))


def plain_layout(x: str, y: str, height: int) -> dict[str, Any]:
    return {
        "height": height,
        "dragmode": False,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
    }


def _level(y: float, words: str) -> dict[str, Any]:
    """A dotted line across the figure, with words on it."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"color": PURPLE, "dash": "dot"}}
    where = {"xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "bottom"}
    return {"shapes": [line], "annotations": [{**where, "text": words, "showarrow": False, "font": {"color": PURPLE}}]}


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _column(rows: Iterable[dict[str, Any]], name: str) -> list[float | None]:
    """A column for JSON, which knows no NaN."""
    return [None if row[name] is None or math.isnan(row[name]) else row[name] for row in rows]
