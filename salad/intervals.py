"""How sure a mean is: bootstrap intervals (Efron 1987, "Better Bootstrap Confidence Intervals": BCa), by scipy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
HELD = 2**22  # resampled values in memory at once


class Interval(NamedTuple):
    low: float
    high: float


def mean_interval(values: np.ndarray, resamples: int, seed: int) -> Interval | None:
    """The 95 % interval of the mean of independent values (n,); None below two.

    Give values paired by item, such as differences, for the interval of a difference. Equal values, seed and number
    of resamples give the same interval. Values that are all equal give an interval without width: a bootstrap cannot
    see what never happened.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    found = _bootstrap((values,), np.mean, resamples, seed)
    # A mean of values lies among them, but for its rounding.
    return Interval(*np.clip(found, values.min(), values.max()).tolist())


def difference_interval(one: np.ndarray, other: np.ndarray, resamples: int, seed: int) -> Interval | None:
    """The 95 % interval of mean(one) − mean(other) of samples (n,), (m,) that nothing pairs; None where one is below two."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if min(len(one), len(other)) < 2:
        return None
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return Interval(float(one[0] - other[0]), float(one[0] - other[0]))
    return Interval(*_bootstrap((one, other), _mean_difference, resamples, seed))


def _mean_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    difference: np.ndarray = np.mean(one, axis=axis) - np.mean(other, axis=axis)
    return difference


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], resamples: int, seed: int) -> list[float]:
    """(low, high)."""
    from scipy.stats import bootstrap

    batch = max(1, min(resamples, HELD // max(map(len, samples))))
    for method in ("BCa", "percentile"):  # BCa has no answer where every resample lies on one side of the mean
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                samples, statistic, n_resamples=resamples, confidence_level=LEVEL, method=method, batch=batch,
                rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        if np.isfinite(found).all():
            break
    return sorted(map(float, found))
