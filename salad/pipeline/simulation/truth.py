"""The simulated pool, and the D that its texts truly have.

Texts: each is made after one of the run's (its layout and its price), moved in embedding space by a Gaussian of the local
covariance of that text's neighbours (manifold Parzen windows: Vincent and Bengio 2002), so clusters and near neighbours stay.
D: a draw from what the run's probes leave possible, by the surrogate's own model,

    log D = centre + β · layout + g(embedding) + u(cluster) + noise,

conditioned on the probes by Matheron's rule (Wilson et al. 2020): a draw from the prior, g by random Fourier features (Rahimi
and Recht 2007), plus the regression of what it misses at the probes. So the truth agrees with the run where the run knows, and
has the run's spread where it does not.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from salad.errors import SaladError
from salad.pipeline import surrogate
from salad.pipeline.estimate import means
from salad.pipeline.simulation.response import Cells
from salad.pipeline.simulation.source import FLOOR, Source, unit
from salad.pipeline.surrogate import Features, Surrogate
from salad.seeds import derive, generator

NEIGHBOURS = 8
JITTER = 0.6  # of how far neighbours are: two texts made after one are a little closer than that one and its neighbours
WAVES = 512  # random Fourier features of g
CHUNK = 65_536
IN_MEMORY = 2**28  # bytes of embeddings from which they go to a file


@dataclass(frozen=True)
class World:
    """The texts, the same for every strategy and seed: N rows."""

    texts: Features  # layout float32, vectors (N, d) float16 unit rows, cluster int32
    est_seconds: np.ndarray  # (N,)
    run_cluster: np.ndarray  # (N,) the run's cluster of the text that each was made after
    cells: Cells
    cell: np.ndarray  # (N,)
    centroids: np.ndarray  # (K, d) float32
    ids: np.ndarray  # (N,) str
    keys: np.ndarray  # (N,) uint64, in place of the ids' hashes

    @property
    def k(self) -> int:
        return len(self.centroids)


def make_world(source: Source, cells: Cells, n: int, k: int, seed: int, progress: Callable[[], None]) -> World:
    """`n` texts in `k` clusters: the run's own where `k` is its number, else balanced k-means of its texts."""
    old = source.texts
    originals = len(old.cluster)
    if k > originals:
        raise SaladError(f"{k} clusters of a run with {originals} texts", "lower --clusters")
    cluster = old.cluster if k == source.config.cluster.k else _clusters(source, k, seed)
    order = generator(seed, "simulate", "order").permutation(originals)
    made_after = order[np.arange(n) % originals].astype(np.int32)
    vectors = _moved(old.vectors, made_after, seed, progress)
    centroids = np.stack([means(column, cluster, k, empty=0.0) for column in old.vectors.T], axis=1)
    return World(
        texts=Features(old.layout.astype(np.float32)[made_after], vectors, cluster.astype(np.int32)[made_after]),
        est_seconds=source.est_seconds[made_after],
        run_cluster=old.cluster[made_after],
        cells=cells,
        cell=cells.of(old.vectors).astype(np.int32)[made_after],
        centroids=centroids.astype(np.float32),
        ids=np.char.add("s", np.arange(n).astype(f"U{len(str(n))}")),
        keys=generator(seed, "simulate", "keys").integers(2**64, size=n, dtype=np.uint64),
    )


def _clusters(source: Source, k: int, seed: int) -> np.ndarray:
    from salad.pipeline.balance import balanced_kmeans

    options = source.config.cluster
    found, _ = balanced_kmeans(
        source.texts.vectors, k, options.max_over_mean, options.iterations, derive(seed, "simulate", "clusters")
    )
    return found


def _moved(vectors: np.ndarray, made_after: np.ndarray, seed: int, progress: Callable[[], None]) -> np.ndarray:
    """(N, d) float16 unit rows; in a file that is gone with the process where they are many."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    few = min(NEIGHBOURS, len(vectors) - 1)
    neighbours = index.search(vectors, few + 1)[1][:, 1:]
    shape = (len(made_after), vectors.shape[1])
    out = np.empty(shape, np.float16) if 2 * shape[0] * shape[1] < IN_MEMORY else _on_disk(shape)
    for rows in chunks(shape[0]):
        at = made_after[rows]
        draws = generator(seed, "simulate", "texts", rows.start).standard_normal((len(at), few), dtype=np.float32)
        draws *= JITTER / np.sqrt(max(few, 1))
        moved = vectors[at] * (1 - draws.sum(1, keepdims=True))
        for j in range(few):
            moved += draws[:, j : j + 1] * vectors[neighbours[at, j]]
        out[rows] = unit(moved)
        progress()
    return out


def _on_disk(shape: tuple[int, int]) -> np.ndarray:
    """Float16 in a file without a name, which is gone with the process; its space is taken at once."""
    with tempfile.TemporaryFile(prefix="salad-simulate-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 2 * shape[0] * shape[1])
        except OSError as e:
            need = f"{2 * shape[0] * shape[1] / 1e9:.1f} GB"
            raise SaladError(
                f"no room for {need} in {tempfile.gettempdir()} ({e.strerror})", "set TMPDIR, or lower --texts"
            ) from e
        return np.memmap(file, np.float16, "r+", shape=shape)


def chunks(n: int) -> Iterator[slice]:
    for i in range(0, n, CHUNK):
        yield slice(i, min(i + CHUNK, n))


@dataclass(frozen=True)
class Belief:
    """What the run's probes say, and how their noise parts into the text's own and that of one student's measuring."""

    fitted: Surrogate
    text_var: float  # of log D of a text about the surface
    noise_var: float  # of the log of a measured D about the true one: another student, another draw


def believe(source: Source, noise_var: float) -> Belief:
    """The surrogate on the run's probes in the reduced space; of its noise at most all is measuring noise."""
    fitted = surrogate.fit(source.probes, source.signal, source.config.seed)
    noise = float(fitted.scales[4])
    noise_var = min(noise_var, noise) if np.isfinite(noise_var) else noise / 4
    return Belief(fitted, noise - noise_var, noise_var)


def draw_truth(
    belief: Belief, source: Source, world: World, spread: float, seed: int, progress: Callable[[], None]
) -> np.ndarray:
    """(N,) float32 log D. spread: factor on how far clusters are apart, in log D."""
    s, probes = belief.fitted, source.probes
    linear, smooth, reach, cluster, noise = s.scales
    rng = generator(seed, "simulate", "surface")
    d = probes.vectors.shape[1]
    slopes = np.sqrt(linear) * rng.normal(size=probes.layout.shape[1])
    waves = (rng.normal(size=(d, WAVES)) / np.sqrt(reach)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)
    height = (np.sqrt(smooth * 2 / WAVES) * rng.normal(size=WAVES)).astype(np.float32)
    of_cluster = np.sqrt(cluster) * rng.normal(size=source.config.cluster.k)

    def surface(vectors: np.ndarray) -> np.ndarray:
        at = vectors @ waves
        at += phase
        return np.asarray(np.cos(at, out=at) @ height)

    near = probes.vectors.astype(np.float32)
    y = surrogate.logs(source.signal)
    prior = probes.layout @ slopes + surface(near) + of_cluster[probes.cluster]
    missed = s.inverse @ (y - s.centre - prior - np.sqrt(noise) * rng.normal(size=len(y)))
    slopes = slopes + linear * (probes.layout.T @ missed)
    of_cluster = of_cluster + cluster * np.bincount(probes.cluster, weights=missed, minlength=len(of_cluster))
    missed = (smooth * missed).astype(np.float32)

    out = np.empty(len(world.cell), np.float32)
    for rows in chunks(len(out)):
        x = np.asarray(world.texts.vectors[rows], np.float32)
        close = np.minimum(x @ near.T, 1.0)
        close -= 1.0
        close /= np.float32(reach)
        own = generator(seed, "simulate", "own", rows.start).standard_normal(len(x), dtype=np.float32)
        out[rows] = (
            s.centre + world.texts.layout[rows] @ slopes + surface(x) + np.exp(close, out=close) @ missed
            + of_cluster[world.run_cluster[rows]] + np.sqrt(belief.text_var) * own
        )  # fmt: skip
        progress()
    if spread != 1:
        mean = means(out, world.texts.cluster, world.k, empty=float(out.mean()))
        out += ((spread - 1) * (mean - mean.mean())).astype(np.float32)[world.texts.cluster]
    return out


def components(log_d: np.ndarray, cluster: np.ndarray) -> tuple[float, float]:
    """Standard deviation of log D between clusters, net of sampling, and within them, from (n,) texts."""
    _, cluster = np.unique(cluster, return_inverse=True)
    n = np.bincount(cluster)
    mean = np.bincount(cluster, weights=log_d) / n
    within = float(((log_d - mean[cluster]) ** 2).sum() / max(len(log_d) - len(n), 1))
    between = float(mean.var(ddof=1)) - within * float((1 / n).mean()) if len(n) > 1 else 0.0
    return float(np.sqrt(max(between, 0.0))), float(np.sqrt(within))


def run_components(source: Source) -> tuple[float, float]:
    """`components` of the run's own probes."""
    return components(np.log(np.maximum(source.signal, FLOOR)), source.probes.cluster)


def drawn_components(log_d: np.ndarray, world: World, source: Source, belief: Belief, seed: int, draws: int = 100) -> np.ndarray:
    """(draws, 2) `components` of probes measured in the simulated pool, as many in each of the run's clusters as the run has."""
    rng = generator(seed, "simulate", "check")
    counts = np.bincount(source.probes.cluster, minlength=source.config.cluster.k)
    some = rng.permutation(len(log_d))[: 200 * max(int(counts.sum()), 1)]  # enough to draw from, however many texts there are
    by_cluster = [some[world.run_cluster[some] == c] for c in range(len(counts))]
    found = []
    for _ in range(draws):
        rows = [rng.choice(m, c) for m, c in zip(by_cluster, counts, strict=True) if len(m) and c]
        at = np.concatenate(rows)
        found.append(components(log_d[at] + np.sqrt(belief.noise_var) * rng.normal(size=len(at)), world.run_cluster[at]))
    return np.array(found)
