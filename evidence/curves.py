"""Stage I's curves out of their rows: means over seeds with intervals, and M = E + B · n^-β fitted to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evidence.analysis import FEWEST, Estimate, PowerLaw, by_domains, crossed, power_laws
from evidence.tables import UNCOVERED, Evidence, markdown, only, signed
from evidence.texts import COVERED

MEASURES = ("D", "M", "F")
WHERE = ((COVERED, (COVERED,)), ("others", UNCOVERED))  # what was heard, and elsewhere
RESAMPLES = 500
SETTLED = 1  # the point from which a curve should only fall


@dataclass(frozen=True)
class Curve:
    """One α: its seeds, steps, and every measure's values (seeds, steps, texts)."""

    alpha: float
    seeds: list[int]
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
        seeds = [seed for seed, points in sorted(of_alpha.items()) if len(points) == len(steps)]
        values = {m: np.array([[of_alpha[seed][n][m] for n in steps] for seed in seeds], float) for m in MEASURES}
        lines.append(Curve(alpha, seeds, np.array(steps), values))
    return lines


def fit(curve: Curve, measure: str, domain: np.ndarray, domains: Sequence[str]) -> tuple[PowerLaw, np.ndarray] | None:
    """The law and the 95 % intervals (3, 2) of E, B and β, from resampled seeds and texts (with each its whole curves)."""
    if len(curve.steps) < FEWEST:
        return None
    values = by_domains(curve.values[measure], domain, only(*domains))  # (seeds, steps, texts)
    seeds, _, texts = values.shape
    rng = np.random.default_rng(7)
    draws = [(rng.integers(0, seeds, seeds), rng.integers(0, texts, texts)) for _ in range(RESAMPLES)]
    means = np.stack([values.mean((0, 2)), *(values[s][:, :, t].mean((0, 2)) for s, t in draws)])
    law, *laws = power_laws(curve.steps, means)
    return PowerLaw(*law.tolist()), np.percentile(np.array(laws), [2.5, 97.5], axis=0).T


def table(found: Evidence) -> str:
    """Means of D, M and F in what was heard and elsewhere, at every number of steps."""
    rows = []
    for curve in curves(found):
        for where, domains in WHERE:
            for measure in MEASURES:
                shown = [f"{one.mean:.3f}" for one in curve.at(measure, found.domain, domains)]
                rows.append([f"{curve.alpha:g}", where, measure, *shown])
    steps = [str(n) for curve in curves(found)[:1] for n in curve.steps]
    return markdown(["α", "texts", "", *(f"{n} steps" for n in steps)], rows)


def growth(found: Evidence) -> str:
    """Whether M and F grew once settled, and M less distillation's at the end, seed by seed."""
    lines = curves(found)
    rows = []
    for curve in lines:
        for where, domains in WHERE:
            weights = only(*domains)
            grown = [curve.values[m][:, -1] - curve.values[m][:, SETTLED] for m in ("M", "F")]
            row = [signed(crossed(by_domains(values, found.domain, weights))) for values in grown]
            less = "–"
            if curve is not lines[0] and (both := sorted({*curve.seeds} & {*lines[0].seeds})):
                ends = [one.values["M"][[one.seeds.index(seed) for seed in both], -1] for one in (curve, lines[0])]
                less = signed(crossed(by_domains(ends[0] - ends[1], found.domain, weights)))
            rows.append([f"{curve.alpha:g}", where, str(len(curve.seeds)), *row, less])
    between = f"{lines[0].steps[SETTLED]} to {lines[0].steps[-1]} steps" if lines else ""
    return markdown(["α", "texts", "seeds", f"M, {between}", f"F, {between}", "M at the end, less that of α = 1"], rows)


def fits(found: Evidence) -> str:
    """E, B and β of M by α."""
    rows = []
    for curve in curves(found):
        for where, domains in WHERE:
            fitted = fit(curve, "M", found.domain, domains)
            if fitted:
                law, intervals = fitted
                shown = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, (low, high) in zip(law, intervals, strict=True)]
                rows.append([f"{curve.alpha:g}", where, *shown])
    return markdown(["α", "texts", "E (nats)", "B", "β"], rows)
