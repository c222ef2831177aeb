"""D of texts that nobody probed, from the probes of a run: what predicts it best, how sure it is, and why.

.venv/bin/python bench/surrogate.py runs/demo                # held-out texts of a run that has scores: seconds
.venv/bin/python bench/surrogate.py runs/demo --more 1500    # and so many more, spoken and scored: minutes, kept beside the run
.venv/bin/python bench/surrogate.py runs/demo --more 1500 --plot figure.svg

Every surrogate learns from all probes of round 0 and predicts texts whose D the same student gave. The goal, and the
exit status: what `score.estimate: surrogate` uses must beat the shrunk cluster mean in mean squared error and in rank
correlation, both 95 % intervals (paired bootstrap over texts) without 0, on every set of texts that is shown.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table
from scipy.stats import norm, rankdata

from salad.artifact import Manifest, make_key
from salad.console import console, stage_progress
from salad.pipeline import surrogate
from salad.pipeline.cluster import load_assignment
from salad.pipeline.embed import load_embeddings
from salad.pipeline.estimate import cluster_estimates, target_distribution
from salad.pipeline.pool import read_pool
from salad.pipeline.probe import free_order
from salad.pipeline.stages import Progress, Run, Stage
from salad.pipeline.store import Store
from salad.pipeline.surrogate import Features, estimate
from salad.seeds import generator

BASE, NEAREST, OURS = "cluster mean, shrunk", "nearest neighbours", "Gaussian process"
DRAWS = 2000
RARE = 5  # texts of the pool that a rare word is in, at most
BINS = 10

Build = Callable[[Path, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Pool:
    """What is known of all N texts."""

    row: dict[str, int]  # by id
    features: Features
    statistics: np.ndarray  # (N, 5): see `text_statistics`
    k: int
    seed: int


@dataclass(frozen=True)
class Texts:
    """Scored texts: n rows of the pool, their D and, where it was written, the teacher's loss, in nats."""

    rows: np.ndarray
    features: Features
    statistics: np.ndarray
    divergence: np.ndarray
    loss: np.ndarray | None


# -- what a run knows -----------------------------------------------------------------------------------------


def read_run(run: Store) -> Pool:
    """Features of the pool as `score` makes them."""
    config, table = run.config(), read_pool(run.path("pool"), ["id", "text", "n_words", "n_heard"])
    layout = surrogate.layout_features(table["n_words"].to_numpy(), table["n_heard"].to_numpy())
    features = Features(layout, load_embeddings(run.path("embeddings")), load_assignment(run.path("clusters")))
    row = {text_id: i for i, text_id in enumerate(table["id"].to_pylist())}
    return Pool(row, features, text_statistics(table["text"].to_pylist()), config.cluster.k, config.seed)


def text_statistics(texts: list[str]) -> np.ndarray:
    """(N, 5): share of rare words, of digits, of capitals and of punctuation, mean length of a word."""
    words = [re.findall(r"[^\W\d_]+", t.casefold()) for t in texts]
    known = Counter(w for of_text in words for w in set(of_text))
    rows = (
        (
            np.mean([known[w] <= RARE for w in of_text]) if of_text else 0.0,
            sum(c.isdigit() for c in t) / len(t),
            sum(c.isupper() for c in t) / len(t),
            sum(not c.isalnum() and not c.isspace() for c in t) / len(t),
            np.mean([len(w) for w in t.split()]),
        )
        for t, of_text in zip(texts, words, strict=True)
    )
    return np.array(list(rows), np.float64)


def scored(pool: Pool, table: pa.Table) -> Texts:
    """From a table with `id`, `divergence` and perhaps `teacher_nll`; rows without a finite D are left out."""
    table = table.filter(pc.is_finite(table["divergence"]))
    rows = np.array([pool.row[i] for i in table["id"].to_pylist()])
    loss = table["teacher_nll"].to_numpy().astype(np.float64) if "teacher_nll" in table.column_names else None
    divergence = table["divergence"].to_numpy().astype(np.float64)
    return Texts(rows, pool.features.take(rows), pool.statistics[rows], divergence, loss)


def both(a: Texts, b: Texts) -> Texts:
    f, g = a.features, b.features
    features = Features(
        *(np.concatenate(pair) for pair in ((f.layout, g.layout), (f.vectors, g.vectors), (f.cluster, g.cluster)))
    )
    loss = None if a.loss is None or b.loss is None else np.concatenate([a.loss, b.loss])
    pairs = ((a.rows, b.rows), (a.statistics, b.statistics), (a.divergence, b.divergence))
    rows, statistics, divergence = (np.concatenate(pair) for pair in pairs)
    return Texts(rows, features, statistics, divergence, loss)


def more_scores(run: Store, n: int) -> pa.Table:
    """`id`, `divergence`, `teacher_nll` of `n` more free texts, spoken and scored as probes are; kept beside the run."""
    from salad.pipeline import distil, synthesize
    from salad.pipeline.models import Models, quiet_libraries
    from salad.trainer.data import load_examples
    from salad.trainer.evaluate import measure
    from salad.trainer.student import load_student

    config, cache = run.config(), Store(run.root.parent / f".bench-{run.root.name}-more-{n}")
    inputs = {name: run.manifest(name).key for name in ("pool", "clusters", "stage-one/checkpoint")}
    key = make_key(inputs=inputs, n=n, seed=config.seed)
    models = Models(config)
    quiet_libraries()
    taken = [run.path(name) for name in Run(config).spoken()]
    order = free_order(config, run.path("pool"), run.path("clusters"), taken, n, "bench-surrogate")

    def speech(out: Path, progress: Progress) -> dict[str, Any]:
        session = synthesize.Session(models, config.speech.voices, share=0.0, judged_by_cer=False)
        return synthesize.build_speech(out, "more", order, session, progress)

    def prepared(out: Path, progress: Progress) -> dict[str, Any]:
        return distil.build_prepared(out, config, models, cache.path("speech"), progress)

    def scores(out: Path, progress: Progress) -> dict[str, Any]:
        examples = load_examples(cache.path("prepared"))
        student = load_student(run.path("stage-one/checkpoint") / "final", models.teacher)
        found = measure(student, models.teacher, examples, progress=progress)
        columns = {"id": [e.id for e in examples], "divergence": found.divergence, "teacher_nll": found.teacher_nll}
        pq.write_table(pa.table(columns), out / "scores.parquet")
        return {}

    seconds = sum(row["est_seconds"] for row in order.rows)
    once(cache, Manifest("speech", key, {}, inputs, "", config.seed, 0.0), speech, seconds, "s of speech")
    once(cache, Manifest("prepared", key, {}, inputs, "", config.seed, 0.0), prepared, n, "texts")
    once(cache, Manifest("scores", key, {}, inputs, "", config.seed, 0.0), scores, n, "texts")
    return pq.read_table(cache.path("scores") / "scores.parquet")


def once(cache: Store, manifest: Manifest, build: Build, total: float, unit: str) -> None:
    """Publish an artefact of the cache unless it is there, with its progress."""
    if cache.valid(manifest.stage, manifest.key):
        return
    console.print(f"{cache.path(manifest.stage)} …")
    with stage_progress(Stage(manifest.stage, build, {}, total=total, unit=unit)) as shown:
        cache.publish(manifest.stage, manifest, lambda out: build(out, shown))


# -- surrogates: (probes, texts, pool) -> (n,) expected D of the texts in nats --------------------------------


def global_mean(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    return np.full(len(texts.rows), probes.divergence.mean())


def cluster_mean(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    return by_cluster(probes.divergence, probes, pool)[texts.features.cluster]


def nearest_neighbours(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    return neighbours(probes.divergence, probes, texts, pool)


def neighbours_after_layout(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    """Neighbours tell by how much D differs from what the layout makes one expect."""
    here, left_out = ridge(probes.features.layout, probes.divergence, texts.features.layout)
    return here * neighbours(probes.divergence / left_out, probes, texts, pool)


def ridge_on_embeddings(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    return ridge(probes.features.vectors, probes.divergence, texts.features.vectors, as_they_are=True)[0]


def ridge_on_layout(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    return ridge(probes.features.layout, probes.divergence, texts.features.layout)[0]


def ridge_on_statistics(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    x, new = (np.hstack([t.features.layout, t.statistics]) for t in (probes, texts))
    return ridge(x, probes.divergence, new)[0]


def ridge_on_statistics_and_loss(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    assert probes.loss is not None
    assert texts.loss is not None
    x, new = (np.column_stack([t.features.layout, t.statistics, t.loss]) for t in (probes, texts))
    return ridge(x, probes.divergence, new)[0]


def gaussian_process(probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    fitted = surrogate.fit(probes.features, probes.divergence, pool.seed)
    return surrogate.predict(fitted, texts.features)[:, 0].astype(np.float64)


SURROGATES: dict[str, Callable[[Texts, Texts, Pool], np.ndarray]] = {
    "global mean": global_mean,
    BASE: cluster_mean,
    NEAREST: nearest_neighbours,
    "ridge on embeddings": ridge_on_embeddings,
    "ridge on layout": ridge_on_layout,
    "… and text statistics": ridge_on_statistics,
    "… and the teacher's loss": ridge_on_statistics_and_loss,
    "layout, then neighbours": neighbours_after_layout,
    OURS: gaussian_process,
}


def by_cluster(values: np.ndarray, probes: Texts, pool: Pool) -> np.ndarray:
    """(K,) shrunk means of the probes' values."""
    return cluster_estimates(values, probes.features.cluster, pool.k, pool.seed, draws=0).shrunk


def neighbours(values: np.ndarray, probes: Texts, texts: Texts, pool: Pool) -> np.ndarray:
    """(m,) means of the k nearest probes' values, the nearer the heavier; the shrunk cluster mean counts as one more.

    How many, how fast their weight falls and how heavy the cluster mean is: what predicts the probes best, each from
    the others.
    """
    n, cluster = len(values), probes.features.cluster
    cosine, index = search(probes, probes, n)
    rest = index != np.arange(n)[:, None]  # a text is no neighbour of itself
    cosine, index = cosine[rest].reshape(n, n - 1), index[rest].reshape(n, n - 1)
    others = [np.delete(np.arange(n), i) for i in range(n)]
    fallback = np.array([
        cluster_estimates(values[o], cluster[o], pool.k, pool.seed, draws=0).shrunk[cluster[i]] for i, o in enumerate(others)
    ])  # fmt: skip

    def error(chosen: tuple[int, float, float]) -> float:
        return float(np.mean((weighted(cosine, values[index], fallback, *chosen) - values) ** 2))

    chosen = min(product((4, 8, 16, 32, 64), (0.1, 0.3, 1.0), (0.3, 1.0, 3.0, 10.0)), key=error)
    cosine, index = search(probes, texts, n)
    return weighted(cosine, values[index], by_cluster(values, probes, pool)[texts.features.cluster], *chosen)


def weighted(cosine: np.ndarray, values: np.ndarray, fallback: np.ndarray, k: int, reach: float, weight: float) -> np.ndarray:
    near = np.exp((cosine[:, :k] - 1) / reach)
    return np.asarray(((near * values[:, :k]).sum(1) + weight * fallback) / (near.sum(1) + weight))


def search(probes: Texts, texts: Texts, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and indices of each text's k nearest probes, (m, k) each."""
    import faiss

    index = faiss.IndexFlatIP(probes.features.vectors.shape[1])
    index.add(probes.features.vectors.astype(np.float32))
    cosine, found = index.search(texts.features.vectors.astype(np.float32), k)
    return cosine, found


def ridge(x: np.ndarray, d: np.ndarray, new: np.ndarray, as_they_are: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Expected D of `new`, (m,), and of the probes themselves, each from the others, (n,): log D is linear in x.

    The penalty is what predicts left-out probes best (in closed form); the factor from the median to the mean is
    theirs too (Duan 1983). as_they_are: columns keep their scales.
    """
    y, middle = np.log(np.maximum(d, surrogate.FLOOR * d.mean())), x.mean(0)
    scale = 1.0 if as_they_are else np.where(x.std(0) > 0, x.std(0), 1.0)
    u, s, vt = np.linalg.svd((x - middle) / scale, full_matrices=False)
    in_u = u.T @ (y - y.mean())
    fits = []
    for penalty in np.logspace(-2, 4, 25):
        kept = s**2 / (s**2 + penalty)
        residual = y - y.mean() - u @ (kept * in_u)
        left_out = residual / (1 - 1 / len(y) - (u**2) @ kept)
        fits.append((float(left_out @ left_out), penalty, left_out))
    _, penalty, left_out = min(fits, key=lambda f: f[0])
    slopes = vt.T @ (s / (s**2 + penalty) * in_u)
    smear = np.exp(left_out).mean()
    return np.exp(y.mean() + (new - middle) / scale @ slopes) * smear, np.exp(y - left_out) * smear


# -- how good -------------------------------------------------------------------------------------------------


def explained(predicted: np.ndarray, d: np.ndarray) -> float:
    """Share of the variance of log D. A factor common to all texts counts for nothing, as in P_target."""
    return float(1 - np.var(np.log(d / predicted)) / np.var(np.log(d)))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's along the last axis; NaN where one side is constant."""
    x, y = (rankdata(v, axis=-1) for v in (a, b))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def compare(title: str, predicted: dict[str, np.ndarray], d: np.ndarray, seed: int) -> bool:
    """Print a table; whether OURS beats BASE by both intervals."""
    caption = "Δ: less the cluster mean's, with the 95 % interval of a paired bootstrap over texts"
    table = Table(
        title=f"{title}: {len(d)} texts", title_justify="left", title_style="bold", caption=caption, caption_justify="left"
    )
    for column in ("surrogate", "MSE, nats²", "Δ", "R² of log D", "rank corr.", "Δ"):
        table.add_column(column, justify="left" if column == "surrogate" else "right")
    draws = generator(seed, "bench-surrogate").integers(len(d), size=(DRAWS, len(d)))
    error = {name: (p - d) ** 2 for name, p in predicted.items()}
    rank = {name: rank_correlation(p[draws], d[draws]) for name, p in predicted.items()}
    won = False
    for name, p in predicted.items():
        cells = [f"{error[name].mean():.3f}", "", f"{explained(p, d):.3f}", f"{rank_correlation(p, d):.3f}", ""]
        if name != BASE:
            squares = (error[name] - error[BASE])[draws].mean(1)
            ranks = rank[name] - rank[BASE]
            gains = (error[name].mean() - error[BASE].mean(), rank_correlation(p, d) - rank_correlation(predicted[BASE], d))
            for at, gain, of in zip((1, 4), gains, (squares, ranks), strict=True):
                cells[at] = (
                    "–" if np.isnan(gain) else f"{gain:+.3f} [{np.quantile(of, 0.025):+.3f}, {np.quantile(of, 0.975):+.3f}]"
                )
            if name == OURS:
                won = bool(np.quantile(squares, 0.975) < 0 < np.quantile(ranks, 0.025))
        table.add_row(name, *(cell.replace("nan", "–") for cell in cells))
    console.print(table)
    return won


def show_calibration(probes: Texts, texts: Texts, seed: int) -> None:
    """Print how often D lies inside the intervals that the default gives a text."""
    fitted = surrogate.fit(probes.features, probes.divergence, seed)
    expected, error = surrogate.predict(fitted, texts.features).T.astype(np.float64)
    z = np.log(texts.divergence / (expected / fitted.smear)) / np.sqrt((error / expected) ** 2 + fitted.scales[4])
    shares = (f"{level:.0%}: {np.mean(np.abs(z) < norm.ppf(0.5 + level / 2)):.1%}" for level in (0.5, 0.8, 0.95))
    console.print(
        f"Calibration: D is inside the interval of … of {len(z)} texts: {', '.join(shares)}. "
        f"Mean of D over its prediction: {texts.divergence.mean() / expected.mean():.3f}"
    )
    names = ("layout", "smooth", "reach", "cluster", "noise")
    learnt = ", ".join(f"{name} {s:.3g}" for name, s in zip(names, fitted.scales, strict=True))
    console.print(
        f"Learnt from {len(probes.rows)} probes: {learnt}; R² of log D among them, each left out: {fitted.explained:.3f}"
    )


def show_why(texts: Texts) -> None:
    """Print how alike nearest neighbours are in D, in layout, and in D once layout is taken out."""
    _, index = search(texts, texts, 2)
    other = np.where(index[:, 0] == np.arange(len(index)), index[:, 1], index[:, 0])
    _, left_out = ridge(texts.features.layout, texts.divergence, texts.features.layout)
    pairs = {
        "log D": np.log(texts.divergence),
        "log of the words read": texts.features.layout[:, 1],
        "log D less what layout explains": np.log(texts.divergence / left_out),
    }
    found = (f"{name} {np.corrcoef(x, x[other])[0, 1]:.2f}" for name, x in pairs.items())
    alike = f"Correlation of a text with its nearest of {len(index)}: {', '.join(found)}."
    console.print(f"{alike} Layout explains {explained(left_out, texts.divergence):.0%} of the variance of log D")


def show_clusters(pool: Pool, probes: Texts, texts: Texts, gamma: float) -> None:
    """Print how near each estimate of D(c) and its P_target come to those of the scored texts' means."""
    cluster, k = texts.features.cluster, pool.k
    n = np.bincount(cluster, minlength=k)
    known, p_web = n > 1, np.bincount(pool.features.cluster, minlength=k) / len(pool.features.cluster)
    d = texts.divergence
    truth = np.bincount(cluster, weights=d, minlength=k) / np.maximum(n, 1)
    ideal = target_distribution(p_web, truth, gamma, known)

    def errors(estimated: np.ndarray) -> tuple[float, float]:
        off = np.log(estimated[known] / truth[known])
        p = target_distribution(p_web, estimated, gamma, known)
        return float(np.abs(p - ideal).sum() / 2), float(off.std())

    members = [np.flatnonzero(cluster == c) for c in range(k)]
    rng = generator(pool.seed, "bench-surrogate", "truth")
    again = [np.array([d[rng.choice(m, len(m))].mean() if len(m) else 1.0 for m in members]) for _ in range(400)]
    rows = {"the texts' means, drawn anew": tuple(np.mean([errors(a) for a in again], axis=0))}
    for how in ("plain", "shrunk", "surrogate"):
        found, _, _ = estimate(pool.features, probes.rows, probes.divergence, how, k, pool.seed)
        rows[f"score.estimate: {how}"] = errors(found.shrunk)
    title = f"D(c) from {len(probes.rows)} probes against the means of {len(d)} texts, γ = {gamma:g}, {known.sum()} clusters"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("estimate", "total variation of P_target", "sd of the error of log D(c)"):
        table.add_column(column, justify="left" if column == "estimate" else "right")
    for name, (variation, sd) in rows.items():
        table.add_row(name, f"{variation:.3f}", f"{sd:.3f}")
    console.print(table)


def plot(path: Path, predicted: dict[str, np.ndarray], d: np.ndarray, seed: int) -> None:
    """Predicted against measured D of every text, and their means in bins of equally many, a panel a surrogate."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "salad"
    import matplotlib.pyplot as plt

    rng = generator(seed, "bench-surrogate", "plot")
    figure, panels = plt.subplots(
        1, len(predicted), figsize=(3.3 * len(predicted), 3.8), sharex=True, sharey=True, layout="constrained"
    )
    low, high = np.quantile(d, 0.005) / 1.1, np.quantile(d, 0.995) * 1.1
    for axes, (name, p) in zip(np.atleast_1d(panels), predicted.items(), strict=True):
        axes.plot(p, d, ".", color="#8a8f98", alpha=0.35, markersize=3, markeredgewidth=0, rasterized=True)
        axes.plot([low, high], [low, high], color="#444444", linewidth=0.8)
        for members in np.array_split(np.argsort(p, kind="stable"), BINS):
            mean = d[members].mean()
            again = d[rng.choice(members, (DRAWS, len(members)))].mean(1)
            bars = np.abs(np.quantile(again, [[0.025], [0.975]]) - mean)
            axes.errorbar(p[members].mean(), mean, bars, fmt="o", color="#1f6fb2", markersize=4, capsize=2, linewidth=1.2)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), box_aspect=1)
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low < t < high]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
            axis.set_ticks([], minor=True)
        axes.set_title(f"{name}\nR² of log D: {explained(p, d):.2f}", fontsize=10)
        axes.set_xlabel("predicted D, nats")
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("measured D, nats")
    figure.savefig(path, metadata={"Date": None}, dpi=150)


def main() -> int:
    """Print the tables; 0 when the default beats the cluster mean in all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder that has round-000/scores")
    parser.add_argument("--more", type=int, default=0, metavar="N", help="speak and score N more texts of the pool")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    run = Store(given.run.absolute())
    gamma = float(run.manifest("round-000/scores").meta["gamma"])
    pool = read_run(run)
    table = pq.read_table(run.path("round-000/scores") / "probes.parquet")
    probes = scored(pool, table.filter(pc.is_null(table["quarantined"])))
    sets = {"held-out": scored(pool, pq.read_table(run.path("stage-one/metrics") / "heldout.parquet"))}
    if given.more:
        more = scored(pool, more_scores(run, given.more))
        sets["held-out and more"] = both(sets["held-out"], more)

    won = []
    for title, texts in sets.items():
        can = {n: f for n, f in SURROGATES.items() if f is not ridge_on_statistics_and_loss or texts.loss is not None}
        predicted = {name: f(probes, texts, pool) for name, f in can.items()}
        won.append(compare(title, predicted, texts.divergence, pool.seed))
        if len(can) < len(SURROGATES):
            console.print("The teacher's loss is left out: heldout.parquet of this run does not have it")
    show_calibration(probes, texts, pool.seed)
    show_why(both(probes, texts))
    if given.more:
        held_out, many = sets["held-out"], both(probes, more)
        share = explained(nearest_neighbours(many, held_out, pool), held_out.divergence)
        console.print(f"With {len(many.rows)} probes nearest neighbours would have an R² of {share:.3f} on the held-out texts")
        show_clusters(pool, probes, texts, gamma)
    if given.plot:
        plot(given.plot, {name: predicted[name] for name in (BASE, NEAREST, OURS)}, texts.divergence, pool.seed)
    console.print(f"{OURS} beats {BASE}: {'yes' if all(won) else 'NO'}")
    return int(not all(won))


if __name__ == "__main__":
    sys.exit(main())
