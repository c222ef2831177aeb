"""Can the signal be predicted before a text is spoken? What round 0 expected of the held-out texts, and what they gave.

Held-out texts are measured by the student that the prediction is of, and nothing is ever fitted to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from salad.pipeline import summary
from salad.pipeline.estimate import signal_of
from salad.pipeline.report.figures import BLUE, GREY, SYMBOLS, Figure, plain_layout
from salad.pipeline.rows import rows_of
from salad.pipeline.surrogate import FLOOR, TINY

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SCORES, METRICS = "round-000/scores", "stage-one/metrics"  # of one student
GROUPS = 8
LEAST = 16  # texts: below, a group would be one text


@dataclass(frozen=True)
class Calibration:
    """How the prediction did."""

    symbol: str  # of the signal: D, M or D − F
    probes: int  # that it was learnt from
    texts: int  # that it was tried on
    groups: int
    rank_correlation: float  # Spearman's
    explained: float  # share of the variance of the signal's logarithm
    figure: Figure


def calibration(run: Run) -> Calibration | None:
    """Predicted against measured; None before both are published, of too few texts, or where either does not vary."""
    if not (summary.published(run, SCORES) and summary.published(run, METRICS)):
        return None
    meta = run.store.manifest(SCORES).meta
    predicted, measured = _pairs(run, meta["signal"])
    if len(measured) < LEAST:
        return None
    symbol = SYMBOLS[meta["signal"]]
    floor = max(FLOOR * float(measured.mean()), TINY)
    log_predicted, log_measured = (np.log(np.maximum(v, floor)) for v in (predicted, measured))
    if np.ptp(log_predicted) == 0 or np.ptp(log_measured) == 0:
        return None
    return Calibration(
        symbol=symbol,
        probes=meta["probes"],
        texts=len(measured),
        groups=GROUPS,
        rank_correlation=float(np.corrcoef(_ranks(predicted), _ranks(measured))[0, 1]),
        explained=float(1 - (log_measured - log_predicted).var() / log_measured.var()),
        figure=_figure(predicted, measured, np.exp(log_measured), symbol),
    )


def _pairs(run: Run, signal: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) twice, in nats: expected and measured signal of the held-out texts that have one."""
    expected = np.load(run.store.path(SCORES) / "predicted.npy", mmap_mode="r", allow_pickle=False)[:, 0]
    heldout = pq.read_table(run.store.path(METRICS) / "heldout.parquet")
    rows = rows_of(run.store.path("pool"), heldout["id"])
    measured = signal_of(heldout, signal)
    finite = np.isfinite(measured)
    return np.asarray(expected[rows[finite]], np.float64), measured[finite]


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of their ranks. (scipy.stats takes a second to import.)"""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[where])


def _figure(predicted: np.ndarray, measured: np.ndarray, shown: np.ndarray, symbol: str) -> Figure:
    """Every text and the means of `GROUPS` groups of like prediction, both axes logarithmic. shown: measured, above 0."""
    groups = np.array_split(np.argsort(predicted, kind="stable"), GROUPS)
    means = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean of a group ± SE",
        "x": [float(predicted[g].mean()) for g in groups],
        "y": [float(measured[g].mean()) for g in groups],
        "error_y": {
            "type": "data",
            "array": [float(measured[g].std(ddof=1)) / len(g) ** 0.5 for g in groups],
            "color": BLUE,
            "thickness": 2,
        },
        "marker": {"color": BLUE, "size": 9},
    }
    texts = {
        "type": "scatter",
        "mode": "markers",
        "name": "one text",
        "x": predicted.tolist(),
        "y": shown.tolist(),
        "marker": {"color": GREY, "size": 5, "opacity": 0.5},
        "hoverinfo": "skip",
    }
    low, high = float(min(predicted.min(), shown.min())) / 1.1, float(max(predicted.max(), shown.max())) * 1.1
    layout = plain_layout(f"{symbol} expected before speaking (nats)", f"{symbol} measured (nats)", height=420)
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "log", "range": np.log10([low, high]).tolist(), "tickvals": _ticks(low, high)}
    line = {"color": GREY, "dash": "dot"}
    layout["shapes"] = [{"type": "line", "layer": "below", "x0": low, "y0": low, "x1": high, "y1": high, "line": line}]
    return {"data": [texts, means], "layout": layout}


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten inside: Plotly's own are many, or digits without their power."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [t for p in powers for step in (1, 2, 5) if low <= (t := float(f"{step}e{p}")) <= high]
