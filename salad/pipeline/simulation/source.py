"""What a simulation takes from a run: its texts' geometry, its probes' D, and what became of D in its rounds.

Read from the published files alone, whatever version of the code wrote them. Embeddings are reduced to `DIMENSIONS` by their
uncentred principal components and made unit length again, so that ten million texts fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.artifact import read_manifest
from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import shards
from salad.pipeline.cluster import load_assignment
from salad.pipeline.embed import load_embeddings
from salad.pipeline.estimate import signal_of
from salad.pipeline.flags import OUT
from salad.pipeline.pool import read_pool
from salad.pipeline.store import Store
from salad.pipeline.surrogate import Features, layout_features
from salad.seeds import generator

DIMENSIONS = 64
ORIGINALS = 20_000  # of the run's texts, at most, that simulated ones are made after
SAMPLE = 1_000  # texts whose nearest neighbour is looked up in both spaces
FLOOR = 1e-3  # nats: a smaller signal counts as this where its logarithm is taken


@dataclass(frozen=True)
class Speech:
    """Texts that the student heard. vectors: (m, d), or None where they are no texts of the pool; seconds: (m,)."""

    vectors: np.ndarray | None
    seconds: np.ndarray


@dataclass(frozen=True)
class Change:
    """What became of log D of n texts from one student to the next, and what these had heard."""

    vectors: np.ndarray  # (n, d)
    cluster: np.ndarray  # (n,)
    change: np.ndarray  # (n,) of log D, after less before
    before: tuple[Speech, ...]  # all that the first student was trained on
    new: Speech  # what the second one heard beside that


@dataclass(frozen=True)
class Source:
    """A run as the simulation sees it. O originals, n probes of round 0 that count."""

    config: Config
    texts: Features  # O rows: layout, reduced vectors (float32), cluster
    est_seconds: np.ndarray  # (O,)
    n_pool: int
    probes: Features  # n rows
    signal: np.ndarray  # (n,) nats
    natural: Speech
    changes: tuple[Change, ...]
    near: float | None  # `select.near` as a cosine of reduced vectors that as many pairs exceed


def read_source(folder: Path) -> Source:
    """A run's folder that has scores of round 0. SaladError when it has none or a file of it cannot be read."""
    run = Store(folder)
    config = run.config()
    run.manifest("round-000/scores")
    try:
        return _read(run, config)
    except (OSError, KeyError, ValueError, pa.ArrowException) as e:
        raise SaladError(
            f"run {folder} cannot be simulated from ({type(e).__name__}: {e})", "it lacks a part: finish it with `salad run`"
        ) from e


def _read(run: Store, config: Config) -> Source:
    pool = read_pool(run.path("pool"), ["id", "n_words", "n_heard", "est_seconds"])
    wide, cluster = load_embeddings(run.path("embeddings")), load_assignment(run.path("clusters"))
    if not len(wide) == len(cluster) == pool.num_rows > 0:
        raise ValueError(f"{pool.num_rows} texts, {len(wide)} embeddings, {len(cluster)} clusters")
    n = pool.num_rows
    rows = np.sort(generator(config.seed, "simulate", "originals").permutation(n)[:ORIGINALS])
    chosen = np.asarray(wide[rows], np.float32)
    basis = principal(chosen, DIMENSIONS)
    layout = layout_features(pool["n_words"].to_numpy(), pool["n_heard"].to_numpy())

    def reduced(at: np.ndarray) -> np.ndarray:
        return unit(np.asarray(wide[at], np.float32) @ basis)

    def rows_of(table: pa.Table) -> np.ndarray:
        return np.asarray(pc.index_in(table["id"], pool["id"]).fill_null(-1).to_numpy())

    scored = _usable(run.path("round-000/scores"))
    flagged = pq.read_table(run.path("round-000/scores") / "clusters.parquet", columns=["cluster", "flag"])
    out = flagged["cluster"].to_numpy()[np.isin(flagged["flag"].to_numpy(zero_copy_only=False), OUT)]
    trusted = scored.filter(pa.array(~np.isin(scored["cluster"].to_numpy(), out)))
    probes = trusted if trusted.num_rows else scored
    at = rows_of(probes)
    if probes.num_rows == 0 or (at < 0).any():
        raise ValueError("no probe of the pool has a D")

    def speech(name: str) -> Speech | None:
        files = shards.shard_files(run.path(name))
        if not files or "seconds" not in pq.read_schema(files[0]).names:
            return None
        table = shards.read_columns(run.path(name), ["id", "seconds"])
        heard, seconds = rows_of(table), table["seconds"].to_numpy().astype(np.float64)
        return Speech(reduced(heard) if (heard >= 0).all() else None, seconds)

    natural = speech("natural") or Speech(None, np.array([config.natural.seconds]))
    changes = []
    for before, after, heard in _measured_twice(run):
        spoken = [natural, *(speech(name) or Speech(None, np.zeros(1)) for name in heard)]
        both = pc.index_in(after["id"], before["id"]).fill_null(-1).to_numpy()
        kept = (both >= 0) & (rows_of(after) >= 0)
        first, then = (signal_of(t, config.score.signal) for t in (before, after))
        logs = np.log(np.maximum(then[kept], FLOOR) / np.maximum(first[both[kept]], FLOOR))
        where = rows_of(after)[kept]
        finite = np.isfinite(logs)
        where = where[finite]
        changes.append(Change(reduced(where), cluster[where], logs[finite], tuple(spoken[:-1]), spoken[-1]))
    small = unit(chosen @ basis)
    return Source(
        config=config,
        texts=Features(layout[rows], small, cluster[rows]),
        est_seconds=pool["est_seconds"].to_numpy()[rows],
        n_pool=n,
        probes=Features(layout[at], reduced(at).astype(np.float64), cluster[at]),
        signal=signal_of(probes, config.score.signal),
        natural=natural,
        changes=tuple(c for c in changes if len(c.change)),
        near=None if config.select.near is None else _translated(config.select.near, chosen, small),
    )


def _measured_twice(run: Store) -> Iterator[tuple[pa.Table, pa.Table, list[str]]]:
    """(texts before, texts after, speech folders of rounds so far) of every round that a set of texts was measured around."""

    def held(r: int) -> Path:
        return run.path(f"round-{r - 1:03d}/metrics" if r else "stage-one/metrics")

    def scores(r: int) -> Path:
        return run.path(f"round-{r:03d}/scores")

    r = 0
    while read_manifest(run.path(f"round-{r:03d}/speech")):
        heard = [f"round-{p:03d}/speech" for p in range(r + 1)]
        for folder, read in ((scores, _usable), (held, _held)):
            if read_manifest(folder(r)) and read_manifest(folder(r + 1)):
                yield read(folder(r)), read(folder(r + 1)), heard
        r += 1


def _usable(folder: Path) -> pa.Table:
    return pq.read_table(folder / "probes.parquet").filter(pc.field("quarantined").is_null())


def _held(folder: Path) -> pa.Table:
    return pq.read_table(folder / "heldout.parquet")


def principal(x: np.ndarray, d: int) -> np.ndarray:
    """(D, d) directions that keep most of the squared length of the rows of x (n, D): nothing is centred."""
    _, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    return np.asarray(vectors[:, ::-1][:, :d], np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)


def _translated(near: float, wide: np.ndarray, small: np.ndarray) -> float:
    """The cosine of reduced vectors that as many texts' nearest neighbours reach as reach `near` in the full space."""
    some = np.arange(0, len(wide), max(len(wide) // SAMPLE, 1))

    def nearest(x: np.ndarray) -> np.ndarray:
        products = x[some] @ x.T
        products[np.arange(len(some)), some] = -1.0
        return np.asarray(products.max(1))

    share = float((nearest(wide) >= near).mean())
    return float(np.clip(np.quantile(nearest(small), 1 - share), near, 1.0))
