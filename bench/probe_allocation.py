"""How well P_target is known after so many seconds of probes: equal or adaptive, plain or shrunk, on simulated truth.

.venv/bin/python bench/probe_allocation.py                # with the noise of a demo run and 2,000 more of its texts
.venv/bin/python bench/probe_allocation.py runs/demo      # … of a run; see `measured`
.venv/bin/python bench/probe_allocation.py --study        # how much first, in how many waves
.venv/bin/python bench/probe_allocation.py --plot figure.svg

The error is the total variation of the estimated P_target to the ideal one. The goal, and the exit status: with the
seconds of 8 probes a cluster, adaptive and shrunk errs at most 0.6 times as much as equal and plain. With the noise
that was measured this takes what the pool knows for nothing, the length of what is read (`estimate.adjusted`): without
it the share is 0.71, and 0.62 even for an oracle that knows every variance and allocates by the true P_target.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table
from scipy.special import polygamma

from salad.console import console
from salad.pipeline.estimate import Estimates, adjusted, allocate, cluster_estimates, target_distribution
from salad.seeds import generator

GAMMA, GOAL, BUDGETS, SEED = 5.0, 0.6, (8, 16, 32), 13
TEXTS = 1500  # of each cluster in the pool; D(c) is their mean
FIRST, WAVES = 3 / 8, 3  # share of the budget that is spent equally; waves that the rest is spent in


@dataclass(frozen=True)
class Setting:
    """A world to draw from. All sds are of logs; `explained`: share of the variance inside clusters that length explains."""

    name: str
    k: int
    within: float  # sd of log D inside a cluster
    uneven: float  # sd over clusters of the log of that
    between: float  # sd of log D(c)
    explained: float
    seconds_within: float = 0.40
    seconds_between: float = 0.20


# A CV of 1 is a log sd of √log 2. At this spread equal and plain errs by 0.55, 0.31, 0.16 with 8, 32, 128 probes.
REFERENCE = Setting("reference", 128, float(np.sqrt(np.log(2))), 0.0, 0.40, 0.0)
DEMO = Setting("measured on the demo", 32, 0.51, 0.07, 0.20, 0.50)


@dataclass(frozen=True)
class World:
    """One draw: D, seconds and log length of every text of the pool, each (K, TEXTS), and the ideal P_target."""

    divergence: np.ndarray
    seconds: np.ndarray
    length: np.ndarray
    p_web: np.ndarray
    ideal: np.ndarray


def draw(setting: Setting, repetition: int) -> World:
    """Log-normal D whose mean over a cluster is log-normal; texts are in random order, so any first n are a draw."""
    rng = generator(SEED, setting.name, repetition)
    k, shape = setting.k, (setting.k, TEXTS)
    length = rng.normal(size=shape)
    slope = -np.sqrt(setting.explained) * setting.within
    rest = np.sqrt(1 - setting.explained) * setting.within * np.exp(setting.uneven * rng.normal(size=(k, 1)))
    mean = setting.between * rng.normal(size=(k, 1))
    divergence = np.exp(mean + slope * length + rest * rng.normal(size=shape) - (slope**2 + rest**2) / 2)
    seconds = np.exp(setting.seconds_between * rng.normal(size=(k, 1)) + setting.seconds_within * rng.normal(size=shape))
    p_web = np.full(k, 1 / k)
    return World(divergence, seconds, length, p_web, target_distribution(p_web, divergence.mean(1), GAMMA))


def estimate(world: World, n: np.ndarray, use_length: bool) -> Estimates:
    """From the first n texts of each cluster."""
    cluster = np.repeat(np.arange(len(n)), n)
    heard = np.arange(TEXTS) < n[:, None]
    values = world.divergence[heard]
    if use_length:
        pool_cluster = np.repeat(np.arange(len(n)), TEXTS)
        values = adjusted(values, cluster, world.length[heard], world.length.ravel(), pool_cluster)
    return cluster_estimates(values, cluster, len(n), SEED, draws=0)


def spent(world: World, n: np.ndarray) -> float:
    """Seconds of the first n texts of each cluster."""
    return float(world.seconds[np.arange(TEXTS) < n[:, None]].sum())


def adaptive(world: World, budget: float, first: int, waves: int, use_length: bool) -> np.ndarray:
    """`first` probes each, then the rest of the seconds in waves, each where the estimates so far are worst: (K,)."""
    n = np.full(len(world.p_web), first)
    for wave in range(waves):
        left = (budget - spent(world, n)) / (waves - wave)
        now = estimate(world, n, use_length)
        sure = (now.shrunk, now.shrunk_log_sd, now.text_log_var)
        n = n + allocate(*sure, world.p_web, GAMMA, world.seconds.mean(1), TEXTS - n, left)
    while spent(world, n) > budget:  # texts were longer than expected
        n[n.argmax()] -= 1
    return n


def errors(world: World, probes: int, lengths_help: bool) -> dict[str, float]:
    """Total variation to the ideal P_target of each arm, at the seconds of `probes` probes in every cluster."""
    equal = np.full(len(world.p_web), probes)
    budget = spent(world, equal)
    first = round(FIRST * probes)
    chosen = adaptive(world, budget, first, WAVES, False)
    found = {
        "equal + plain": estimate(world, equal, False).mean,
        "equal + shrunk": estimate(world, equal, False).shrunk,
        "adaptive + plain": estimate(world, chosen, False).mean,
        "adaptive + shrunk": estimate(world, chosen, False).shrunk,
    }
    if lengths_help:
        found["equal + shrunk + length"] = estimate(world, equal, True).shrunk
        found["adaptive + shrunk + length"] = estimate(world, adaptive(world, budget, first, WAVES, True), True).shrunk
    return {arm: variation(world, d) for arm, d in found.items()}


def variation(world: World, divergence: np.ndarray) -> float:
    """½ Σ |P̂ - P| of the P_target that follows from `divergence` (K,)."""
    return float(np.abs(target_distribution(world.p_web, divergence, GAMMA) - world.ideal).sum() / 2)


def measured(run: Path) -> Setting:
    """The noise of a run's probes and of its texts that `bench/surrogate.py RUN --more N` scored, all by Stage I's student.

    Few texts cannot tell how far clusters differ: SystemExit where sampling explains all of it.
    """
    probes = pq.read_table(run / "round-000/scores/probes.parquet")
    cluster, divergence, seconds, positions = (
        probes[c].to_numpy() for c in ("cluster", "divergence", "seconds", "n_positions")
    )  # fmt: skip
    _, cluster, n = np.unique(cluster, return_inverse=True, return_counts=True)
    logs, length, cost = np.log(divergence), np.log(positions), np.log(seconds)
    dx, dy = length - means(length, cluster)[cluster], logs - means(logs, cluster)[cluster]
    df = len(logs) - len(n)
    unexplained = (1 - (dx @ dy) ** 2 / (dx @ dx) / (dy @ dy)) * df / (df - 1)

    scored = [probes, *(pq.read_table(path) for path in run.parent.glob(f".bench-{run.name}-more-*/scores/scores.parquet"))]
    ids = pq.read_table(run / "pool", columns=["id"])["id"]
    assignment = np.load(run / "clusters/assignment.npy", allow_pickle=False)
    where = np.concatenate([assignment[pc.index_in(table["id"], ids).to_numpy()] for table in scored])
    d = np.concatenate([table["divergence"].to_numpy() for table in scored])
    between = spread(np.log(means(d, where)), variances(d, where) / means(d, where) ** 2 / np.bincount(where))
    if between == 0:
        sys.exit(f"{len(d)} texts do not tell how far clusters differ: run bench/surrogate.py {run} --more 1500 first")
    return Setting(
        f"measured on {run} ({len(d):,} texts)",
        k=len(n),
        within=float(np.sqrt(dy @ dy / df)),
        uneven=spread(np.log(variances(logs, cluster)), polygamma(1, (n - 1) / 2)) / 2,
        between=between,
        explained=max(float(1 - unexplained), 0.0),
        seconds_within=float(np.sqrt(variances(cost, cluster).mean())),
        seconds_between=spread(means(cost, cluster), variances(cost, cluster) / n),
    )


def means(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    return np.asarray(np.bincount(cluster, weights=values) / np.bincount(cluster))


def variances(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    n = np.bincount(cluster)
    return np.asarray(means((values - means(values, cluster)[cluster]) ** 2, cluster) * n / (n - 1))


def spread(values: np.ndarray, sampling: np.ndarray) -> float:
    """Standard deviation of (K,) values net of their sampling variances."""
    return float(np.sqrt(max(values.var(ddof=1) - sampling.mean(), 0)))


Results = dict[str, dict[int, np.ndarray]]


def simulate(setting: Setting, repetitions: int) -> Results:
    """Errors by arm and budget, (repetitions,) each; all arms see the same worlds."""
    found: Results = {}
    for i in range(repetitions):
        world = draw(setting, i)
        for probes in BUDGETS:
            for arm, error in errors(world, probes, setting.explained > 0).items():
                found.setdefault(arm, {}).setdefault(probes, np.zeros(repetitions))[i] = error
    return found


def ratio(errors: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Ratio of two paired means and its Monte-Carlo standard error (delta method)."""
    r = errors.mean() / base.mean()
    return float(r), float((errors - r * base).std(ddof=1) / np.sqrt(len(base)) / base.mean())


def show(setting: Setting, found: Results) -> float:
    """Print a setting's table; returns what the goal is about."""
    title = (
        f"{setting.name}: {setting.k} clusters, sd of log D {setting.within:.2f} inside (± {setting.uneven:.0%}), "
        f"{setting.between:.2f} between, length explains {setting.explained:.0%}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=True)
    table.add_column("seconds of … probes a cluster")
    for probes in BUDGETS:
        table.add_column(str(probes), justify="right")
    plain = found["equal + plain"]
    for arm, by_budget in found.items():
        cells = []
        for probes, e in by_budget.items():
            share, error = ratio(e, plain[probes])
            cells.append(f"{e.mean():.3f} ± {e.std(ddof=1) / np.sqrt(len(e)):.3f}\n× {share:.3f} ± {error:.3f}")
        table.add_row(arm, *cells)
    console.print(table)
    best = list(found)[-1]
    share, error = ratio(found[best][BUDGETS[0]], plain[BUDGETS[0]])
    console.print(f"{best} at {BUDGETS[0]}: {share:.3f} ± {error:.3f} (goal {GOAL})\n")
    return share


def study(setting: Setting, repetitions: int, probes: int = 8) -> None:
    """Print the adaptive and shrunk arm by first pass and number of waves."""
    use_length = setting.explained > 0
    table = Table(title=f"{setting.name}: share of equal + plain at {probes}", title_justify="left", title_style="bold")
    waves = (1, 2, 3, 4)
    for column in ("first pass", *(f"{w} wave{'s' * (w > 1)} more" for w in waves)):
        table.add_column(column, justify="right")
    worlds = [draw(setting, i) for i in range(repetitions)]
    equal = np.full(setting.k, probes)
    base = np.array([variation(w, estimate(w, equal, False).mean) for w in worlds])
    for first in (2, 3, 4, 6):
        cells = []
        for n_waves in waves:
            e = []
            for w in worlds:
                n = adaptive(w, spent(w, equal), first, n_waves, use_length)
                e.append(variation(w, estimate(w, n, use_length).shrunk))
            share, error = ratio(np.array(e), base)
            cells.append(f"{share:.3f} ± {error:.3f}")
        table.add_row(str(first), *cells)
    console.print(table)


def plot(path: Path, results: dict[str, Results]) -> None:
    """TV against probes a cluster, a panel a setting, a line an arm."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "salad"
    import matplotlib.pyplot as plt

    colours = {"equal": "#8a8f98", "adaptive": "#1f6fb2"}
    styles = {"plain": ":", "shrunk": "--", "length": "-"}
    figure, panels = plt.subplots(1, len(results), figsize=(4.6 * len(results), 3.6), sharey=True)
    for axes, (name, found) in zip(np.atleast_1d(panels), results.items(), strict=True):
        for arm, by_budget in found.items():
            means = [e.mean() for e in by_budget.values()]
            words = arm.split(" + ")
            axes.plot(list(by_budget), means, styles[words[-1]], color=colours[words[0]], marker="o", markersize=4, label=arm)
        axes.set_xscale("log", base=2)
        axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("probes a cluster, or their seconds")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("total variation to the ideal P_target")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Simulate both settings; 0 when both keep the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run's folder, whose scores give the noise")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--study", action="store_true", help="vary the first pass and the number of waves")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    settings = (REFERENCE, measured(given.run) if given.run else DEMO)
    if given.study:
        for setting in settings:
            study(setting, given.repetitions)
        return 0
    results = {setting.name: simulate(setting, given.repetitions) for setting in settings}
    shares = [show(setting, results[setting.name]) for setting in settings]
    if given.plot:
        plot(given.plot, results)
    return int(max(shares) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
