"""What a few probes say of D(c), with its error; the target distribution; where the next probes should go.

P_target(c) ∝ P_web(c) · D(c)^γ = P_web(c) · exp(γ log D(c)) multiplies the relative error of D by γ, so everything
here happens on log D. Texts of a cluster differ about log-normally. Sources: moderated variances, Smyth 2004 (limma);
shrinkage, Morris 1983; the bootstrap-t interval, Efron and Tibshirani 1993, chapter 12. Figures: bench/probe_allocation.py.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from salad.seeds import generator

PRIOR_DF = 16  # probes' worth of belief that a cluster varies inside as all clusters do
ASSUMED_SD = 0.5  # sd of log D inside a cluster where no cluster has two probes; the demo has 0.51
FLOOR = 1e-3  # of the mean of all probes: what a smaller value counts as on the log scale
MAX_GAMMA = 100.0
MOST_LOG = 300.0  # of a ratio: its exponential is still a number
TINY = 1e-12


@dataclass(frozen=True)
class Estimates:
    """What the probes say of each cluster, all (K,), D in nats."""

    n: np.ndarray  # probes
    mean: np.ndarray  # plain mean; NaN without a probe
    se: np.ndarray  # standard error of `mean`; NaN below two probes
    low: np.ndarray  # 95 % bootstrap interval of the mean; NaN below two probes
    high: np.ndarray
    log_mean: np.ndarray  # log D from the cluster's own probes; NaN without one
    centre: np.ndarray  # grand mean of log D, what `log_mean` is shrunk to
    shrunk: np.ndarray  # exp of the posterior mean of log D
    shrunk_log_sd: np.ndarray  # posterior sd of log D
    text_log_var: np.ndarray  # squared relative error of one probe: k more give precision 1/shrunk_log_sd² + k/text_log_var


def cluster_estimates(values: np.ndarray, cluster: np.ndarray, k: int, seed: int, draws: int = 1000) -> Estimates:
    """From the divergences of probe texts to clusters.

    values, cluster: (n,), D of each probe text (nats) and its cluster in 0..k-1. draws: bootstrap samples; 0 leaves the
    interval out (NaN). ValueError without a probe or with one that is not finite.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("every probe needs a finite divergence, and there must be one")
    n = np.bincount(cluster, minlength=k)
    mean, variance = _moments(values, cluster, n)
    log_values = _logs(values)
    raw, logs = _moments(np.exp(log_values), cluster, n), _moments(log_values, cluster, n)
    log_mean, error, text_log_var = _log_means(raw, logs, n)
    has = n > 0
    centre, spread = _centre_and_spread(log_mean[has], error[has])
    trust = np.where(has, spread**2 / (spread**2 + error), 0.0)
    low, high = _interval(log_values, cluster, raw, logs, n, seed, draws)
    return Estimates(
        n=n,
        mean=np.where(has, mean, np.nan),
        se=np.where(n > 1, np.sqrt(variance / np.maximum(n, 1)), np.nan),
        low=low,
        high=high,
        log_mean=log_mean,
        centre=np.full(k, centre),
        shrunk=np.exp(centre + trust * (np.where(has, log_mean, centre) - centre)),
        shrunk_log_sd=spread * np.sqrt(1 - trust),
        text_log_var=text_log_var,
    )


def means(values: np.ndarray, cluster: np.ndarray, k: int, empty: float = np.nan) -> np.ndarray:
    """(K,) mean of the values (n,) of each cluster; `empty` where there is none."""
    n = np.bincount(cluster, minlength=k)
    return np.asarray(np.where(n > 0, np.bincount(cluster, weights=values, minlength=k) / np.maximum(n, 1), empty))


def signal_of(table: Any, name: str) -> np.ndarray:
    """(n,) what chooses, in nats, of an Arrow table of measured texts: D, M, or the excess D - F (`score.signal`)."""
    column = {n: table[n].to_numpy().astype(np.float64) for n in ("divergence", "misalignment", "forgetting")}
    return np.asarray(column["divergence"] - column["forgetting"] if name == "excess" else column[name])


def log_change(before: np.ndarray, after: np.ndarray, cluster: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """By how much log D of each cluster changed, on the same n probes, and the standard error of that: (K,), NaN without probes.

    A cluster's error takes the spread of its probes' changes to be that of all clusters': a handful cannot tell their own.
    """
    floor = max(FLOOR * float(before.mean()), TINY) if len(before) else TINY
    change = np.log(np.maximum(after, floor) / np.maximum(before, floor))
    n, mean = np.bincount(cluster, minlength=k), means(change, cluster, k)
    variance = float(((change - mean[cluster]) ** 2).sum() / max(len(change) - (n > 0).sum(), 1))
    return mean, np.where(n > 0, np.sqrt(variance / np.maximum(n, 1)), np.nan)


def adjusted(values: np.ndarray, cluster: np.ndarray, x: np.ndarray, pool_x: np.ndarray, pool_cluster: np.ndarray) -> np.ndarray:
    """Probe values as if each text were as its cluster is in `x`, which is known of every text of the pool: (n,).

    A regression estimator (Cochran 1977, chapter 7) on the log scale: D_i · G(c) / g_i with g = exp(b·x), G(c) its mean
    over the cluster's texts in the pool, and b the slope of log D on x inside the clusters. x: (n,), pool_x,
    pool_cluster: (N,); every probe's cluster must have a text in the pool. With x the log of how much is
    read (not heard), half of the variance of log D goes: the fewer, the higher D.
    """
    n = np.bincount(cluster)
    dx, dy = (v - _moments(v, cluster, n)[0][cluster] for v in (x, _logs(values)))
    slope = float(dx @ dy / max(dx @ dx, TINY))
    g = np.exp(slope * (pool_x - pool_x.mean()))
    pool_mean = means(g, pool_cluster, len(n))
    return np.asarray(values * pool_mean[cluster] / np.exp(slope * (x - pool_x.mean())))


def target_distribution(p_web: np.ndarray, divergence: np.ndarray, gamma: float, allowed: np.ndarray | None = None) -> np.ndarray:
    """P_target(c) ∝ P_web(c) · D(c)^γ (paper section 4); γ = 0 gives P_web. In logs, so that γ may be large.

    Clusters not `allowed` get 0; if none is (of those with texts), all are.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(p_web) + (gamma * np.log(np.maximum(divergence, TINY)) if gamma else 0.0)
    if allowed is not None and (allowed & (p_web > 0)).any():
        logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def effective_number(p: np.ndarray) -> float:
    """How many equal clusters are as spread as p: 1 / Σp²."""
    return float(1 / (p**2).sum())


def gamma_for(p_web: np.ndarray, divergence: np.ndarray, target_ess: float, allowed: np.ndarray | None = None) -> float:
    """The smallest γ ≥ 0 at which P_target has `target_ess` effective clusters.

    0 where P_web has no more than that. MAX_GAMMA where none up to it has so few, as with equal divergences. The
    number may rise before it falls (small clusters of high D), so γ is looked for in steps of 0.05, then by bisection.
    """

    def ess(gamma: float) -> float:
        return effective_number(target_distribution(p_web, divergence, gamma, allowed))

    high = next((g for g in np.arange(0, MAX_GAMMA + 0.05, 0.05).tolist() if ess(g) <= target_ess), None)
    if high is None or high == 0:
        return MAX_GAMMA if high is None else 0.0
    low = high - 0.05
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if ess(middle) <= target_ess else (middle, high)
    return min(high, MAX_GAMMA)


def expected_error(
    p_web: np.ndarray, divergence: np.ndarray, log_sd: np.ndarray, gamma: float, allowed: np.ndarray, seed: int, draws: int = 400
) -> float:
    """Total variation to expect between P_target as estimated and as it would be if D(c) were known.

    Mean over draws of log D(c) from its posterior; the errors of clusters are taken as independent.
    """
    point = target_distribution(p_web, divergence, gamma, allowed)
    drawn = divergence * np.exp(log_sd * generator(seed, "expected-error").normal(size=(draws, len(log_sd))))
    return float(np.mean([np.abs(target_distribution(p_web, d, gamma, allowed) - point).sum() / 2 for d in drawn]))


def allocate(
    divergence: np.ndarray,
    log_sd: np.ndarray,
    text_log_var: np.ndarray,
    p_web: np.ndarray,
    gamma: float,
    seconds: np.ndarray,
    available: np.ndarray,
    budget: float,
) -> np.ndarray:
    """How many more probes each cluster gets for `budget` seconds of speech: (K,) int.

    One by one to where a probe lowers the expected error of P_target most per second. That error, as total variation,
    is about ½·γ·Σ p_c·sd(log D_c), with p the posterior mean of P_target, so a cluster that may be large counts
    as such. divergence, log_sd, text_log_var: as in `Estimates`; seconds: (K,) expected of one probe; available: (K,)
    texts left, 0 for a cluster that shall get none.
    """
    p = target_distribution(p_web, divergence * np.exp(gamma * log_sd**2 / 2), gamma)
    per_second = (gamma * p / 2 / seconds).tolist()
    precision = (1 / np.maximum(log_sd, TINY) ** 2).tolist()
    gained = (1 / np.maximum(text_log_var, TINY)).tolist()
    cost, room = seconds.tolist(), available.tolist()
    extra = [0] * len(cost)

    def gain(c: int) -> float:
        before = precision[c] + extra[c] * gained[c]
        return float(per_second[c] * (before**-0.5 - (before + gained[c]) ** -0.5))

    queue = [(-gain(c), c) for c in range(len(cost)) if room[c] > 0]
    heapq.heapify(queue)
    while queue:
        value, c = heapq.heappop(queue)
        if value == 0:
            break
        if cost[c] > budget:
            continue
        budget -= cost[c]
        extra[c] += 1
        if extra[c] < room[c]:
            heapq.heappush(queue, (-gain(c), c))
    return np.array(extra)


def _logs(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(values, max(FLOOR * float(values.mean()), TINY))))


def _moments(values: np.ndarray, cluster: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample variance by cluster, (K,); 0 where there is too little for one."""
    k = len(n)
    mean = means(values, cluster, k, empty=0.0)
    squares = np.bincount(cluster, weights=(values - mean[cluster]) ** 2, minlength=k)
    return mean, squares / np.maximum(n - 1, 1)


def _moderated(variance: np.ndarray, n: np.ndarray, pooled: float) -> np.ndarray:
    """Each cluster's variance drawn to the pooled one, which counts as PRIOR_DF degrees of freedom (limma)."""
    df = np.maximum(n - 1, 0)
    return np.asarray((PRIOR_DF * pooled + df * variance) / (PRIOR_DF + df))


def _pooled(mean: np.ndarray, variance: np.ndarray, n: np.ndarray, relative: bool = False) -> float:
    """The clusters' common variance; or, relative, squared CV: a ratio of sums, as a mean of ratios is too low by far."""
    df = np.maximum(n - 1, 0)
    if df.sum() == 0:
        return ASSUMED_SD**2
    unit = mean**2 - variance / np.maximum(n, 1) if relative else np.ones(len(n))  # mean², unbiased
    return float(df @ variance / max(df @ unit, TINY))


def _log_means(
    raw: tuple[np.ndarray, np.ndarray], logs: tuple[np.ndarray, np.ndarray], n: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log D of each cluster, its error variance and that of one probe, (K,) each, from moments of D and of log D.

    Two estimators, and the probes say which errs less. Of log-normal values the mean is exp(m + s²/2), m and s² of the
    logs: at a CV of 1 it needs 30 % fewer probes than the plain mean, since s² is nearly the pooled one. Values that
    pile up near 0 ruin the logs; then it is the log of the plain mean, whose error is that of a sum of log-normals
    (Fenton 1960), log(1 + CV²/n), half of which is its bias.
    """
    pooled, cv2 = _pooled(*logs, n), _pooled(*raw, n, relative=True)
    at_least_1 = np.maximum(n, 1)
    if cv2 < pooled:
        text_var = _moderated(raw[1] / np.maximum(raw[0], TINY) ** 2, n, cv2)
        error = np.log1p(text_var / at_least_1)
        log_mean = np.log(np.maximum(raw[0], TINY)) + error / 2
    else:
        text_var = _moderated(logs[1], n, pooled)
        error = text_var / at_least_1 + text_var**2 / 2 / (PRIOR_DF + at_least_1 - 1)
        log_mean = logs[0] + text_var / 2
        log_mean += np.log(n @ raw[0] / (n @ np.exp(log_mean)))  # a factor that all clusters share: the plain means know it
    return np.where(n > 0, log_mean, np.nan), np.maximum(error, TINY), np.maximum(text_var, TINY)


def _centre_and_spread(y: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Grand mean of y ~ N(mean, τ² + error) and τ, its posterior mean under a flat prior (Gelman 2006), on a grid.

    Moment estimates (Paule-Mandel, DerSimonian-Laird) are often exactly 0, which would say that nothing is left to learn.
    """
    top = 3 * np.sqrt(max(float(y.var()), float(error.mean())))
    tau = (np.arange(100) + 0.5)[:, None] / 100 * top
    weight = 1 / (tau**2 + error)
    mean = (weight @ y / weight.sum(1))[:, None]
    log_p = np.log(weight).sum(1) / 2 - np.log(weight.sum(1)) / 2 - (weight * (y - mean) ** 2).sum(1) / 2
    p = np.exp(log_p - log_p.max())
    spread = float(p @ tau[:, 0] / p.sum())
    return float(np.average(y, weights=1 / (spread**2 + error))), spread


def _interval(
    log_values: np.ndarray, cluster: np.ndarray, raw: tuple[np.ndarray, np.ndarray], logs: tuple[np.ndarray, np.ndarray],
    n: np.ndarray, seed: int, draws: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """95 % interval of each cluster's mean, (K,) twice, by bootstrap-t on the log of the mean.

    A handful of probes cannot show their own tail, so the shape comes from all clusters: standardised residuals of
    log D, pooled, times the cluster's moderated sd. The studentising error uses the moderated CV.
    """
    low, high = np.full((2, len(n)), np.nan)
    if draws == 0 or (n < 2).all():
        return low, high
    sd = np.sqrt(_moderated(logs[1], n, _pooled(*logs, n)))
    pooled_cv2 = _pooled(*raw, n, relative=True)
    several = n[cluster] > 1
    of = cluster[several]
    shape = np.sort((log_values[several] - logs[0][of]) * np.sqrt(n[of] / (n[of] - 1)))
    shape /= max(float(shape.std()), TINY)

    def error(mean: np.ndarray, variance: np.ndarray, n: int) -> np.ndarray:
        return np.sqrt(np.log1p(_moderated(variance / mean**2, np.array(n), pooled_cv2) / n)).clip(TINY)

    for size in np.unique(n[n > 1]).tolist():
        sample = generator(seed, "interval", size).choice(shape, size=(draws, size))
        for c in np.flatnonzero(n == size):
            drawn = np.exp(sd[c] * sample)
            mean = drawn.mean(1)
            t = np.log(mean / np.exp(sd[c] * shape).mean()) / error(mean, drawn.var(1, ddof=1), size)
            width = np.quantile(t, [0.975, 0.025]) * error(raw[0][c], raw[1][c], size)
            low[c], high[c] = raw[0][c] * np.exp(np.minimum(-width, MOST_LOG))
    return low, high
