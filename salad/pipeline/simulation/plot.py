"""The page of a simulation: residual D by budget, and the paired difference to uniform. One file that opens from disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from salad.pipeline.simulation.compare import compared, verdict
from salad.pipeline.simulation.experiment import Outcome
from salad.pipeline.simulation.rounds import YARDSTICK, Row

GREY = "#808890"
COLOURS = ("#3b82c4", "#d9822b", "#3f9c6b", "#8b6fc0", "#c4563b", "#2f9ea0")  # each readable on white and on black
DASHES = ("solid", "dash", "dot", "dashdot")
COLUMNS = (
    "strategy", "round", "speech s", "D ± SE", "less uniform’s", "95 % interval", "so it is", "uniform needs s", "choice s",
)  # fmt: skip
CHECKED = ("component", "the run’s", "simulated: mean (90 % of draws)")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1d2126; --soft: #5a6270; --line: #dfe2e7; --paper: #ffffff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ee; --soft: #9aa3b0; --line: #343a44; --paper: #14171b; }} }}
body {{ background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto;
  padding: 0 1rem; }}
p {{ max-width: 50rem; }}
.soft {{ color: var(--soft); }}
.figure {{ height: 26rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{what}</p>
<div class="figure" id="residual" role="img" aria-label="Residual divergence by seconds of speech, a line a strategy"></div>
<div class="figure" id="difference" role="img" aria-label="Paired difference to uniform by seconds of speech"></div>
<h2>The figures</h2>
<div class="wide">{table}</div>
<h2>What it rests on</h2>
<p>{response}</p>
<p>Components of log D of the probes; of the simulated ones the mean, and in brackets where 90 % of draws are.</p>
<div class="wide">{check}</div>
<p class="soft">A simulation, not a measurement: docs/simulate.md says what is taken from the run and what is assumed.</p>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const clear = "rgba(0,0,0,0)";
function draw() {{
  const css = getComputedStyle(document.documentElement);
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => css.getPropertyValue(name).trim());
  const axis = {{ gridcolor: line, linecolor: line, zerolinecolor: ink, automargin: true }};
  const font = {{ color: ink, family: getComputedStyle(document.body).fontFamily }};
  const template = {{ layout: {{ paper_bgcolor: clear, plot_bgcolor: clear, font, xaxis: axis, yaxis: axis,
    hoverlabel: {{ bgcolor: paper, bordercolor: line, font }} }} }};
  for (const [id, figure] of Object.entries(figures)) {{
    const layout = {{ ...structuredClone(figure.layout), template }};
    Plotly.react(id, figure.data, layout, {{ responsive: true, displayModeBar: false }});
  }}
}}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
</script>
</body>
</html>
"""


def page(outcome: Outcome) -> str:
    """The whole page, plotly.js in it."""
    from plotly.offline import get_plotlyjs

    return PAGE.format(
        title="Simulated residual divergence",
        what=escape(what(outcome)),
        table=_html(COLUMNS, cells(outcome.rows)),
        response=escape(outcome.response.sentence()),
        check=_html(CHECKED, check_cells(outcome.check)),
        figures=json.dumps(figures(outcome.rows)).replace("<", "\\u003c"),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
    )


def what(outcome: Outcome) -> str:
    """What was simulated, in words."""
    s = outcome.settings
    return (
        f"{s['texts']:,} simulated texts in {s['clusters']} clusters after {s['run']}; {s['rounds']} rounds of "
        f"{s['budget']:,.0f} s of speech; {s['probes']} probes a cluster; "
        f"{s['seeds']} draw{'s' * (s['seeds'] > 1)} of the truth, the same for every strategy"
        + (f"; clusters {s['spread']:g} times as far apart as the run's" if s["spread"] != 1 else "")
        + (f"; clusters learn unevenly ({s['uneven']:g})" if s["uneven"] else "")
        + "."
    )


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures as plain data for plotly.js; colours of text and grid are the page's."""
    table = compared(rows)
    names = list(dict.fromkeys(row["strategy"] for row in table))
    residual: list[dict[str, Any]] = []
    difference: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        of = [row for row in table if row["strategy"] == name]
        x = [row["seconds"] for row in of]
        others = i - (YARDSTICK in names[:i])
        look = (COLOURS[others % len(COLOURS)], DASHES[others // len(COLOURS) % len(DASHES)])
        look = (GREY, "solid") if name == YARDSTICK else look
        low, high = ([row["divergence"] + sign * row["divergence_se"] for row in of] for sign in (-1, 1))
        residual += _band(name, look, x, [row["divergence"] for row in of], low, high)
        if name != YARDSTICK:
            difference += _band(name, look, x, *([row[c] for row in of] for c in ("difference", "low", "high")))
    seconds = {"title": {"text": "seconds of synthetic speech"}, "rangemode": "tozero"}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    shared = {"xaxis": seconds, "legend": legend, "margin": {"t": 60, "r": 20, "b": 50, "l": 70}, "hovermode": "x unified"}
    return {
        "residual": {
            "data": sorted(residual, key=_is_line),
            "layout": {**shared, "yaxis": {"title": {"text": "residual D of the pool, nats (± SE over seeds)"}}},
        },
        "difference": {
            "data": sorted(difference, key=_is_line),
            "layout": {**shared, "yaxis": {"title": {"text": "D less uniform’s, paired (95 %)"}}, "showlegend": True},
        },
    }


def _is_line(trace: dict[str, Any]) -> bool:
    """Bands come first, so that none hides a line."""
    return "fill" not in trace


def _band(
    name: str, look: tuple[str, str], x: list[float], y: list[float], low: list[float], high: list[float]
) -> list[dict[str, Any]]:
    colour, dash = look
    line = {
        "type": "scatter", "mode": "lines+markers", "name": escape(name), "x": x, "y": y, "legendgroup": name,
        "line": {"color": colour, "width": 2.5, "dash": dash}, "marker": {"color": colour, "size": 7},
        "hovertemplate": "%{y:.4f}",
    }  # fmt: skip
    if not all(map(math.isfinite, [*low, *high])):  # one seed
        return [line]
    area = {
        "type": "scatter", "mode": "lines", "x": [*x, *x[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "opacity": 0.18,
        "fillcolor": colour, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name,
    }  # fmt: skip
    return [area, line]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The comparison as text, for the terminal and the page: see COLUMNS."""
    table = compared(rows)
    end = max(row["seconds"] for row in rows if row["strategy"] == YARDSTICK)
    found = []
    for row in table:
        plain, start = row["strategy"] == YARDSTICK, row["round"] < 0
        if start and not plain:
            continue  # the same for all
        known = math.isfinite(row["difference_se"])
        found.append([
            "before" if start else row["strategy"], "" if start else str(row["round"]), f"{row['seconds']:,.0f}",
            _plus_minus(row["divergence"], row["divergence_se"]),
            "" if plain else _plus_minus(row["difference"], row["difference_se"], "+"),
            f"{row['low']:+.4f} to {row['high']:+.4f}" if known and not plain else "", verdict(row),
            "" if plain else f"over {end:,.0f}" if row["uniform_needs"] is None else f"{row['uniform_needs']:,.0f}",
            "" if start else f"{row['select_seconds']:.2f}",
        ])  # fmt: skip
    return found


def check_cells(check: dict[str, Any]) -> list[list[str]]:
    return [
        [f"sd {name}" if "share" not in name else name, f"{run:.3f}", f"{mean:.3f} ({low:.3f} to {high:.3f})"]
        for name, (run, mean, low, high) in check.items()
    ]


def _plus_minus(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" ± {error:.4f}" if math.isfinite(error) else "")


def _html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
