"""Stage I's curves out of their rows: means over seeds with intervals, and M = E + B · n^-β fitted to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evidence.analysis import FEWEST, Estimate, PowerLaw, by_domains, crossed, power_laws
from evidence.tables import UNCOVERED, Evidence, interval, markdown, only
from evidence.texts import COVERED

MEASURES = ("D", "M", "F")
RESAMPLES = 500


@dataclass(frozen=True)
class Curve:
    """One α: steps, and every measure's values (seeds, steps, texts)."""

    alpha: float
    steps: np.ndarray
    values: dict[str, np.ndarray]

    def at(self, measure: str, domain: np.ndarray, domains: Sequence[str]) -> list[Estimate]:
        """The mean over these domains at each number of steps."""
        values = self.values[measure]
        return [crossed(by_domains(values[:, i], domain, only(*domains))) for i in range(len(self.steps))]


def curves(found: Evidence) -> list[Curve]:
    """One an α, of the seeds that came as far as any."""
    rows = list(found.results.rows("stage-one"))
    lines = []
    for alpha in sorted({row["alpha"] for row in rows}, reverse=True):
        of_alpha: dict[int, dict[int, dict[str, Any]]] = {}
        for row in rows:
            if row["alpha"] == alpha:
                of_alpha.setdefault(row["seed"], {})[row["steps"]] = row
        steps = sorted(set.union(*(set(points) for points in of_alpha.values())))
        whole = [points for _, points in sorted(of_alpha.items()) if len(points) == len(steps)]
        values = {m: np.array([[points[n][m] for n in steps] for points in whole], float) for m in MEASURES}
        lines.append(Curve(alpha, np.array(steps), values))
    return lines


def fit(curve: Curve, measure: str, domain: np.ndarray, domains: Sequence[str]) -> tuple[PowerLaw, np.ndarray] | None:
    """The law and the 95 % intervals (3, 2) of E, B and β, from resampled texts (with each text its whole curve)."""
    if len(curve.steps) < FEWEST:
        return None
    values = by_domains(curve.values[measure], domain, only(*domains)).mean(0)  # (steps, texts)
    rng = np.random.default_rng(7)
    draws = [rng.integers(0, values.shape[1], values.shape[1]) for _ in range(RESAMPLES)]
    means = np.stack([values.mean(1), *(values[:, drawn].mean(1) for drawn in draws)])
    law, *laws = power_laws(curve.steps, means)
    return PowerLaw(*law.tolist()), np.percentile(np.array(laws), [2.5, 97.5], axis=0).T


def table(found: Evidence) -> str:
    """D, M and F in what was heard and elsewhere, at every number of steps."""
    rows = []
    for curve in curves(found):
        for where, domains in ((COVERED, (COVERED,)), ("others", UNCOVERED)):
            for measure in MEASURES:
                shown = [interval(one) for one in curve.at(measure, found.domain, domains)]
                rows.append([f"{curve.alpha:g}", where, measure, *shown])
    steps = [str(n) for curve in curves(found)[:1] for n in curve.steps]
    return markdown(["α", "texts", "", *(f"{n} steps" for n in steps)], rows)


def fits(found: Evidence) -> str:
    """E, B and β of M by α."""
    rows = []
    for curve in curves(found):
        for where, domains in ((COVERED, (COVERED,)), ("others", UNCOVERED)):
            fitted = fit(curve, "M", found.domain, domains)
            if fitted:
                law, intervals = fitted
                shown = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, (low, high) in zip(law, intervals, strict=True)]
                rows.append([f"{curve.alpha:g}", where, *shown])
    return markdown(["α", "texts", "E (nats)", "B", "β"], rows)
