"""Balanced k-means against FAISS's plain one, on the same memory-mapped float16 vectors; K = 128 on a million.

.venv/bin/python bench/cluster.py [runs/demo]

plain: `faiss.Kmeans`, 20 iterations on its own sample of 256 points a centroid, then every point to its nearest
centroid; it needs the whole matrix as float32, which counts ("… converted" leaves that out). Each side runs in processes of
its own, in shuffled order, the median of three taken. Inertia is about the means of each side's own assignment, for
three seeds. With a run's folder its real embeddings are clustered too. `k-means-constrained`, where installed, gets 10,000.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from vectors import clustered

K, MOST, ITERATIONS = 128, 1.05, 20
TIME, MEMORY, INERTIA, GROWTH = 2.0, 2.5, 1.03, 12.0  # the limits
SEEDS = (0, 1, 2)
console = Console(highlight=False, width=130)


def points(data: str) -> np.ndarray:
    """A number of made vectors, or a run's folder."""
    return clustered(int(data)) if data.isdigit() else np.load(Path(data) / "embeddings" / "embeddings.npy", mmap_mode="r")


def measure(who: str, data: str, k: int, seed: int) -> dict[str, float]:
    import faiss

    x = points(data)
    x[:: max(len(x) // 1000, 1)].sum()  # the file is in the page cache, as for the other
    converted = 0.0
    started = time.perf_counter()
    if who == "plain":
        floats = np.asarray(x, np.float32)
        converted = time.perf_counter() - started
        kmeans = faiss.Kmeans(x.shape[1], k, niter=ITERATIONS, seed=seed)
        kmeans.train(floats)
        at = kmeans.index.search(floats, 1)[1][:, 0]
    elif who == "constrained":
        from k_means_constrained import KMeansConstrained

        n = len(x)
        at = KMeansConstrained(k, size_max=int(np.ceil(MOST * n / k)), random_state=seed).fit_predict(np.asarray(x, np.float32))
    else:
        from salad.pipeline.balance import balanced_kmeans

        at, _ = balanced_kmeans(x, k, MOST, ITERATIONS, seed)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = np.bincount(at, minlength=k)
    return {
        "seconds": seconds, "converted": converted, "peak": peak, "most": float(sizes.max() / sizes.mean()),
        "inertia": inertia(x, at, k),
    }  # fmt: skip


def inertia(x: np.ndarray, at: np.ndarray, k: int, chunk: int = 65_536) -> float:
    """Σ |x|² - Σ_c n_c |mean_c|²."""
    from scipy.sparse import csr_array

    sums, squares = np.zeros((k, x.shape[1])), 0.0
    for i in range(0, len(x), chunk):
        y, rows = np.asarray(x[i : i + chunk], np.float32), at[i : i + chunk]
        sums += csr_array((np.ones(len(y), np.float32), rows, np.arange(len(y) + 1)), shape=(len(y), k)).T @ y
        squares += float((y.astype(np.float64) ** 2).sum())
    sizes = np.bincount(at, minlength=k)
    return squares - float(((sums**2).sum(1) / np.maximum(sizes, 1)).sum())


def run(jobs: list[tuple[str, str, int, int]]) -> dict[tuple[str, str, int, int], dict[str, float]]:
    """Each job in a process of its own, one after the other, in shuffled order."""
    found = {}
    for job in random.Random(0).sample(jobs, len(jobs)):
        done = subprocess.run([sys.executable, __file__, "--child", json.dumps(job)], capture_output=True, text=True)
        if done.returncode:
            console.print(f"[red]{job}: {done.stderr.strip().splitlines()[-1]}[/]")
            continue
        found[job] = json.loads(done.stdout.splitlines()[-1])
        console.print(f"[dim]{job[0]:>11} {job[1]:>10} K={job[2]} seed {job[3]}: {found[job]['seconds']:.1f} s[/]")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run's folder, for its real embeddings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return 0
    for n in (10_000, 100_000, 1_000_000):
        clustered(n)
    sets = [("1000000", K), ("100000", K), *([(options.run, K), (options.run, 24)] if options.run else [])]
    try:
        import k_means_constrained  # noqa: F401

        peer = [("constrained", "10000", K, 0), ("balanced", "10000", K, 0)]
    except ImportError:
        peer = []
    found = run([(who, data, k, seed) for data, k in sets for who in ("plain", "balanced") for seed in SEEDS] + peer)

    def middle(who: str, data: str, k: int, what: str) -> float:
        return statistics.median(found[who, data, k, seed][what] for seed in SEEDS)

    table = Table(title="Balanced against plain k-means", title_justify="left", title_style="bold")
    for name in (
        "data",
        "K",
        "plain s",
        "balanced s",
        "ratio",
        "… converted",
        "peak GiB",
        "max/mean",
        "plain’s",
        "inertia ratio, each seed",
    ):
        table.add_column(name, justify="right")
    verdicts = []
    for data, k in sets:
        plain, ours = (middle(who, data, k, "seconds") for who in ("plain", "balanced"))
        ready = plain - middle("plain", data, k, "converted")
        usual = statistics.mean(found["plain", data, k, seed]["inertia"] for seed in SEEDS)
        ratios = [found["balanced", data, k, seed]["inertia"] / usual for seed in SEEDS]
        peak = max(found["balanced", data, k, seed]["peak"] for seed in SEEDS)
        most = max(found["balanced", data, k, seed]["most"] for seed in SEEDS)
        table.add_row(
            f"{int(data):,}" if data.isdigit() else data, str(k), f"{plain:.2f}", f"{ours:.2f}", f"{ours / plain:.2f}",
            f"{ours / ready:.2f}", f"{peak:.2f}", f"{most:.4f}", f"{middle('plain', data, k, 'most'):.2f}",
            " ".join(f"{r:.4f}" for r in ratios),
        )  # fmt: skip
        if data == "1000000":
            verdicts += [
                ("time of plain k-means", ours / plain, TIME), ("peak memory, GiB", peak, MEMORY),
                ("largest over mean cluster", most, MOST), ("inertia of plain k-means", statistics.mean(ratios), INERTIA),
            ]  # fmt: skip
    growth = middle("balanced", "1000000", K, "seconds") / middle("balanced", "100000", K, "seconds")
    verdicts.append(("growth from 100,000 to 1,000,000", growth, GROWTH))
    console.print(table)
    if peer:
        console.print("10,000 points: " + ", ".join(f"{job[0]} {found[job]['seconds']:.2f} s" for job in peer if job in found))
    else:
        console.print("k-means-constrained is not installed (pip install k-means-constrained)")
    for what, value, limit in verdicts:
        good = value <= limit
        console.print(f"{'[green]ok[/]    ' if good else '[red]missed[/]'} {what}: {value:.3f} (limit {limit})")
    return 0 if all(value <= limit for _, value, limit in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
