"""Numbers out of rows: differences between arms with intervals over seeds and texts, budgets that come to the same, curves.

A difference is taken text by text and seed by seed (both arms of a pair start from one Stage I, take the same seed, and are
measured on the same texts). Its interval treats seeds and texts as crossed random effects: what another seed would have drawn
and learnt, and which texts were held out, both count (Searle, Casella and McCulloch 1992; degrees of freedom by
Satterthwaite 1946).
"""

from __future__ import annotations

import itertools
from math import inf
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and its 95 % interval; of None there is none."""

    mean: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "one run"
        return "no difference" if self.low <= 0 <= self.high else "lower" if self.high < 0 else "higher"


def crossed(values: np.ndarray) -> Estimate:
    """The mean of values (seeds, texts), weights equal, and its interval over other seeds and other texts; one seed: none."""
    from scipy.stats import t

    seeds, texts = values.shape
    mean = float(values.mean())
    if seeds < 2 or texts < 2:
        return Estimate(mean, None, None)
    by_seed, by_text = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_text[None] + mean
    of_seeds = texts * by_seed.var(ddof=1)  # mean squares
    of_texts = seeds * by_text.var(ddof=1)
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (texts - 1))
    # Where the rest is larger than an effect's mean square, that effect counts as none: the variance is never below the larger.
    parts = np.array([of_seeds, of_texts, -of_rest]) / (seeds * texts)
    floor = max(parts[0], parts[1])
    variance = max(float(parts.sum()), floor)
    if not parts.any():
        return Estimate(mean, mean, mean)
    freedom = np.array([seeds - 1, texts - 1, (seeds - 1) * (texts - 1)])
    df = max(variance**2 / float((parts**2 / freedom).sum()), 1.0)
    width = float(t.ppf(0.975, df)) * variance**0.5
    return Estimate(mean, mean - width, mean + width)


def by_domains(values: np.ndarray, domain: np.ndarray, weights: dict[str, float]) -> np.ndarray:
    """Values (seeds, texts) times texts' weights, such that their plain mean is the domains' weighted one.

    weights: of each domain, summing to 1: equal ones for the mean over domains, the pool's shares for P_web.
    """
    n = len(domain)
    factor = np.array([weights[d] * n / np.count_nonzero(domain == d) for d in domain])
    return values * factor


def reaches(budgets: np.ndarray, less: np.ndarray, points: int = 200) -> Estimate:
    """The least budget at which a difference (budgets, seeds, texts) is 0 or below, and its interval; inf: at none.

    budgets ascending; between two of them the difference is linear in log budget, looked at in so many points. The interval
    begins where 0 is first inside the difference's own, and ends where that is wholly at or below 0 (Fieller 1954). What lies
    below the first budget is not extrapolated: the first is then the answer.
    """
    at = np.concatenate([np.geomspace(*pair, points) for pair in itertools.pairwise(budgets)])
    share = np.concatenate([np.linspace(0, 1, points)] * (len(budgets) - 1))
    gap = np.repeat(np.arange(len(budgets) - 1), points)
    found = [crossed((1 - s) * less[i] + s * less[i + 1]) for i, s in zip(gap, share, strict=True)]

    def first(limits: list[float | None]) -> float:
        return next((float(b) for b, limit in zip(at, limits, strict=True) if limit is not None and limit <= 1e-12), inf)

    mean, low, high = (list(values) for values in zip(*found, strict=True))
    return Estimate(first(mean), None if low[0] is None else first(low), None if high[0] is None else first(high))


FEWEST = 4  # points for a law of three parameters


class PowerLaw(NamedTuple):
    """M = E + B · n^-β."""

    floor: float
    scale: float
    beta: float

    def at(self, n: np.ndarray) -> np.ndarray:
        return self.floor + self.scale * np.asarray(n, float) ** -self.beta


def power_laws(n: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares of M = E + B · n^-β to each row of values (curves, steps), E and B at least 0, β within [0.01, 3].

    values are not negative. Gives (curves, 3): E, B, β. For each β of a grid E and B have a closed form; where one of them comes
    out negative, it is 0. ValueError below `FEWEST` steps: three parameters fit three points whatever they are.
    """
    if len(n) < FEWEST:
        raise ValueError(f"{len(n)} points are too few for a law of three parameters")
    best = np.full((len(values), 4), np.inf)  # squared residual, then the law
    mean = values.mean(1)
    for beta in np.geomspace(0.01, 3, 400):
        x = np.asarray(n, float) ** -beta
        free = (values - mean[:, None]) @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        inside = mean >= free * x.mean()  # E is not negative
        scale = np.where(inside, free, values @ x / (x @ x)).clip(0)
        floor = np.where(inside, mean - scale * x.mean(), 0)
        rest = ((values - floor[:, None] - scale[:, None] * x) ** 2).sum(1)
        law = np.stack([rest, floor, scale, np.full(len(values), beta)], 1)
        best = np.where((rest < best[:, 0])[:, None], law, best)
    return best[:, 1:]
