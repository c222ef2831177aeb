"""D for every text of the pool from a few hundred probes: Gaussian-process regression of log D.

    log D = mean + β · layout + g(embedding) + u(cluster) + noise

`layout` is how much of a text is heard and how much is read after it, which every text's span plan tells for
nothing and which explains about half of the variance of log D; `g` is smooth over the embeddings; `u` is what
a cluster has of its own. All are Gaussian, so the posterior is exact: near probes it follows them, far from
them it falls back to the cluster's shrunk mean, and it knows how sure it is (Rasmussen and Williams 2006,
ch. 2 and 5). Averaged over a cluster it is the best linear predictor of small-area statistics (Battese, Harter
and Fuller 1988): empirical-Bayes shrinkage that also corrects for which texts the probes happened to be.
How it does against simpler surrogates: docs/signal.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from salad.pipeline.estimate import Estimates, adjusted, cluster_estimates, means

FLOOR = 1e-2  # of the mean: smaller divergences count as this, since they enter by their logarithm
TINY = 1e-6
LEARN_FROM = 1024  # probes from which the scales of the kernel are learnt; all are used to predict
BLOCK = 2**24  # covariances of texts with probes that exist at once
SAMPLE = 128  # texts of a cluster that its error is computed from

# Scales of the kernel, as logarithms: where they are expected, and how far from there they may well be.
# linear · smooth · how far smooth reaches (1 - cosine) · cluster · noise
EXPECTED = np.log([0.05, 0.05, 0.5, 0.02, 0.15])
SPREAD = 2.0


@dataclass(frozen=True)
class Features:
    """What is known of every text before it is spoken: N rows."""

    layout: np.ndarray  # (N, 3), standardised: see `layout_features`
    vectors: np.ndarray  # (N, d) unit length
    cluster: np.ndarray  # (N,)

    def take(self, rows: np.ndarray, dtype: type = np.float64) -> Features:
        return Features(self.layout[rows], self.vectors[rows], self.cluster[rows]).as_type(dtype)

    def as_type(self, dtype: type) -> Features:
        return Features(np.asarray(self.layout, dtype), np.asarray(self.vectors, dtype), self.cluster)


def layout_features(n_words: np.ndarray, n_heard: np.ndarray) -> np.ndarray:
    """(N, 3): log of the words heard, log of the words read, words read; each of mean 0 and variance 1."""
    x = np.empty((len(n_words), 3))
    heard, read = np.maximum(n_heard, 0).astype(np.float64), np.maximum(n_words - n_heard, 0).astype(np.float64)
    x[:, 0], x[:, 1], x[:, 2] = np.log1p(heard), np.log1p(read), read
    scale = x.std(axis=0)
    x -= x.mean(axis=0)
    x /= np.where(scale > TINY, scale, 1.0)
    return x


@dataclass(frozen=True)
class Surrogate:
    """A fitted regression: the probes, the kernel's scales, and what predicting needs of them."""

    probes: Features
    scales: np.ndarray  # (5,): linear, smooth, reach, cluster, noise
    centre: float
    inverse: np.ndarray  # (n, n) of the probes' covariance
    weights: np.ndarray  # (n,): inverse · (log D - centre)
    smear: float  # mean of D over its predicted median, left-one-out (Duan 1983)
    text_log_var: float  # variance of log D of a text about what the others make one expect of it
    explained: float  # share of the variance of log D, each probe predicted from the others


def fit(probes: Features, divergence: np.ndarray, seed: int = 0, scales: np.ndarray | None = None) -> Surrogate:
    """From probes (n rows) and their D (n,), positive, in nats. scales: the kernel's, where they are not to be learnt."""
    y = logs(divergence)
    centre = float(y.mean())
    if scales is None:
        few = np.random.default_rng(seed).permutation(len(y))[:LEARN_FROM]
        scales = _learn(probes.take(few), y[few] - centre)
    covariance = _kernel(scales, probes, probes) + scales[4] * np.eye(len(y))
    inverse = np.linalg.inv(covariance)
    weights = inverse @ (y - centre)
    left_out = y - weights / np.diag(inverse)
    smear = float(np.mean(np.exp(y - left_out)))
    explained = float((np.var(y) - np.var(y - left_out)) / max(np.var(y), TINY))
    return Surrogate(probes, scales, centre, inverse, weights, smear, float(np.var(y - left_out)), explained)


def logs(divergence: np.ndarray) -> np.ndarray:
    """log D (n,) of probes, the smallest raised to a floor."""
    return np.asarray(np.log(np.maximum(divergence, max(FLOOR * divergence.mean(), TINY))))


def predict(surrogate: Surrogate, texts: Features) -> np.ndarray:
    """(N, 2) float32: the expected D of each text in nats, and the standard error of that expectation.

    Computed in float32: half the time and memory, and of what is told the sixth digit differs.
    """
    s = surrogate
    probes, inverse, weights = s.probes.as_type(np.float32), s.inverse.astype(np.float32), s.weights.astype(np.float32)
    out = np.empty((len(texts.cluster), 2), np.float32)
    for rows in _blocks(len(out), max(BLOCK // len(weights), 1)):
        some = texts.take(rows, np.float32)
        k = _kernel(s.scales, some, probes)
        prior = s.scales[0] * (some.layout**2).sum(1) + s.scales[1] + s.scales[3]
        variance = prior - np.einsum("ij,ij->i", k @ inverse, k)
        out[rows, 0] = np.exp(s.centre + k @ weights) * s.smear
        out[rows, 1] = out[rows, 0] * np.sqrt(np.maximum(variance, 0))
    return out


def at_average_layout(surrogate: Surrogate, texts: Features, expected: np.ndarray) -> np.ndarray:
    """(N,) the D to expect were every text's layout the average one, from `expected` (N,) as it is.

    The layout's part of log D is linear, so it is a factor: nothing is predicted again.
    """
    slopes = surrogate.scales[0] * (surrogate.probes.layout.T @ surrogate.weights)
    return np.asarray(expected * np.exp(-(texts.layout @ slopes)), np.float32)


def cluster_errors(surrogate: Surrogate, texts: Features, k: int, seed: int = 0, content: bool = False) -> np.ndarray:
    """(K,) posterior standard deviation of log D(c), D(c) being the mean of its texts' expected D.

    Texts of a cluster err together, so their covariance counts: it is taken from `SAMPLE` of them. content: of D(c) at the
    average layout, where the layout's own uncertainty counts for nothing.
    """
    s = surrogate
    rng = np.random.default_rng(seed)
    if content:
        texts = replace(texts, layout=np.zeros_like(texts.layout))  # the average
    found = np.full(k, np.sqrt((0 if content else s.scales[0]) + s.scales[1] + s.scales[3]))
    for c in range(k):
        members = np.flatnonzero(texts.cluster == c)
        if len(members) == 0:
            continue
        some = texts.take(rng.permutation(members)[:SAMPLE])
        share = np.full(len(some.cluster), 1 / len(some.cluster))
        to_probes = share @ _kernel(s.scales, some, s.probes)
        variance = share @ _kernel(s.scales, some, some) @ share - to_probes @ s.inverse @ to_probes
        found[c] = np.sqrt(max(variance, 0.0))
    return found


def estimate(
    texts: Features, rows: np.ndarray, signal: np.ndarray, how: str, k: int, seed: int
) -> tuple[Estimates, np.ndarray, Surrogate]:
    """What the probes (pool rows, signal in nats) say of every cluster and, (N, 2), of every text.

    how: "content", "surrogate", "shrunk" or "plain" says where `shrunk` and its error come from (`score.estimate`).
    """
    cluster = texts.cluster[rows]
    fitted = fit(texts.take(rows), signal, seed)
    predicted = predict(fitted, texts)
    found = cluster_estimates(signal, cluster, k, seed, draws=0)
    if how == "plain":
        mean = np.where(found.n > 0, found.mean, signal.mean())
        found = replace(found, shrunk=mean, shrunk_log_sd=np.sqrt(found.text_log_var / np.maximum(found.n, 1)))
    elif how == "shrunk":
        read = texts.layout[:, 1]
        even = cluster_estimates(adjusted(signal, cluster, read[rows], read, texts.cluster), cluster, k, seed, draws=0)
        found = replace(found, shrunk=even.shrunk, shrunk_log_sd=even.shrunk_log_sd, text_log_var=even.text_log_var)
    else:
        content = how == "content"
        expected = at_average_layout(fitted, texts, predicted[:, 0]) if content else predicted[:, 0]
        found = replace(
            found,
            shrunk=means(expected, texts.cluster, k, empty=float(signal.mean())),
            shrunk_log_sd=cluster_errors(fitted, texts, k, seed, content),
            text_log_var=np.full(k, fitted.text_log_var),
        )
    return found, predicted, fitted


def _kernel(scales: np.ndarray, a: Features, b: Features) -> np.ndarray:
    linear, smooth, reach, cluster, _ = scales.tolist()
    k = a.vectors @ b.vectors.T
    np.minimum(k, 1.0, out=k)
    k -= 1.0
    k /= reach
    np.exp(k, out=k)
    k *= smooth
    k += (linear * a.layout) @ b.layout.T
    k += cluster * (a.cluster[:, None] == b.cluster[None, :]).astype(k.dtype)
    return np.asarray(k)


def _learn(probes: Features, y: np.ndarray) -> np.ndarray:
    """The scales of highest posterior density, given y = log D - centre (n,)."""
    from scipy.optimize import minimize

    products = probes.layout @ probes.layout.T
    apart = 1.0 - np.minimum(probes.vectors @ probes.vectors.T, 1.0)
    same = (probes.cluster[:, None] == probes.cluster[None, :]).astype(np.float64)
    limits = [(e - 4 * SPREAD, e + 4 * SPREAD) for e in EXPECTED]
    found = minimize(_loss, EXPECTED, (products, apart, same, y), jac=True, method="L-BFGS-B", bounds=limits)
    return np.asarray(np.exp(found.x))


def _loss(
    log_scales: np.ndarray, products: np.ndarray, apart: np.ndarray, same: np.ndarray, y: np.ndarray
) -> tuple[float, np.ndarray]:
    """- log p(y, log_scales) up to a constant, and its gradient (5,) (Rasmussen and Williams eq. 5.8 and 5.9).

    Between probes, (n, n): products of layout, 1 - cosine, 1 where the cluster is the same.
    """
    from scipy.linalg import cho_factor, cho_solve

    linear, smooth, reach, cluster, noise = np.exp(log_scales)
    identity = np.eye(len(y))
    near = smooth * np.exp(-apart / reach)
    slopes = (linear * products, near, near * apart / reach, cluster * same, noise * identity)
    factor = cho_factor(slopes[0] + near + slopes[3] + slopes[4], lower=True)
    inverse = cho_solve(factor, identity)
    weights = inverse @ y
    off = (log_scales - EXPECTED) / SPREAD
    value = 0.5 * y @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
    inner = inverse - np.outer(weights, weights)
    return float(value), np.array([0.5 * (inner * slope).sum() for slope in slopes]) + off / SPREAD


def _blocks(n: int, size: int) -> Iterator[np.ndarray]:
    for i in range(0, n, size):
        yield np.arange(i, min(i + size, n))
