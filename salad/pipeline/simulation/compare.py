"""What the rows of a simulation say: strategies against uniform draws, in the same draws of the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from salad.pipeline.simulation.rounds import YARDSTICK, Row

LEVEL = 0.95
NEGLIGIBLE = 1e-3  # of D: budgets differ by as much as a text


def compared(rows: Sequence[Row]) -> list[Row]:
    """One row a strategy and round: means over seeds, standard errors (NaN for one seed), and the paired difference to uniform.

    `low`, `high`: its 95 % interval (Student's t over seeds). `uniform_needs`: seconds at which the mean curve of uniform
    has as low a D; None beyond its end. Rounds that only uniform goes on for are left out.
    """
    curves = _curves(rows)
    plain = curves[YARDSTICK]
    last = max(r for name, by_round in curves.items() for r in by_round if name != YARDSTICK or len(curves) == 1)
    yard = sorted((np.mean(s), np.mean(d)) for s, d, _ in plain.values())
    found = []
    for name, by_round in curves.items():
        for r, (seconds, d, took) in by_round.items():
            if r > last:
                continue
            difference = d - plain[r][1]
            error = _standard_error(difference)
            width = _quantile(len(difference)) * error
            mean = float(difference.mean())
            found.append({
                "strategy": name, "round": r, "seconds": float(seconds.mean()), "divergence": float(d.mean()),
                "divergence_se": _standard_error(d), "difference": mean, "difference_se": error,
                "low": mean - width, "high": mean + width, "uniform_needs": _needed(float(d.mean()), yard),
                "select_seconds": float(took.mean()),
            })  # fmt: skip
    return found


def verdict(row: Row) -> str:
    """ "lower", "higher" or "no difference", and nothing where there is one seed or nothing to compare."""
    if row["strategy"] == YARDSTICK or row["round"] < 0 or not math.isfinite(row["difference_se"]):
        return ""
    if row["low"] <= 0 <= row["high"] or abs(row["difference"]) < NEGLIGIBLE * row["divergence"]:
        return "no difference"
    return "lower" if row["difference"] < 0 else "higher"


def _curves(rows: Sequence[Row]) -> dict[str, dict[int, tuple[np.ndarray, ...]]]:
    """(seconds, D, seconds of choosing) over seeds, by strategy and round."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        found.setdefault(row["strategy"], {}).setdefault(row["round"], []).append(row)
    seeds = len({row["seed"] for row in rows})

    def columns(of: list[Row]) -> tuple[np.ndarray, ...]:
        return tuple(np.array([row[c] for row in of]) for c in ("seconds", "divergence", "select_seconds"))

    return {name: {r: columns(of) for r, of in rounds.items() if len(of) == seeds} for name, rounds in found.items()}


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _quantile(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, n - 1)) if n > 1 else float("nan")


def _needed(d: float, yard: Sequence[tuple[Any, Any]]) -> float | None:
    seconds, values = np.array(yard, np.float64).T
    if d < values.min():
        return None
    return float(np.interp(-d, -np.minimum.accumulate(values), seconds))
