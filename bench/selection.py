"""Choosing texts: how fast, in how much memory, and how well, against libraries and against exact greedy.

.venv/bin/pip install --no-deps --target /tmp/peers -r requirements/bench.txt
.venv/bin/python bench/selection.py --peers /tmp/peers          # all five parts, about 12 minutes
.venv/bin/python bench/selection.py --part 3 --quick            # one part; --quick: nothing on 1,000,000 texts

1. k-centre, 500 of 20,000 texts: small-text, scikit-activeml, plain numpy, `kcenter`; time and covering radius.
2. Facility location, 500 of 10,000: apricot, `facility-location`; time, memory, coverage.
3. Every strategy, 10,000 texts' worth of seconds of 100,000 and of 1,000,000 texts: time, growth, memory.
4. `kcenter` and `facility-location` against exact greedy: 1,000 of 50,000, the latter also as it runs on 1,000,000.
   Coverage: mean cosine of a text to the nearest chosen one, by D of content. A uniform draw beside them.
5. The demo: seconds of its selection stages of all seconds of its rounds.

Vectors: d = 384, clustered (bench/vectors.py). Every measurement is a process of its own, the order shuffled, short ones
three times and their median taken. A small call comes first, so imports and compiling are not counted; apricot compiles in
every call, so the time of a second small call is taken off. Ours: all of `choose` (checks, hashes of ids, the cap on near
repeats) on a `PoolView` with float16 vectors, memory-mapped; the others get float32 in memory, ready. Memory: VmHWM, the
peak of resident pages, mapped ones with them (ru_maxrss would count the parent's from before exec). Exit status 1 when a
limit is missed. Not called select.py: the folder is first on sys.path, and Python's own `select` would be hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import COMPILES, PEERS, coverage, exact_facility_location, radius
from rich.console import Console
from rich.table import Table
from vectors import clustered

from salad.artifact import read_manifest
from salad.selectors.base import SELECTORS, Budget, ClusterTable, PastRound, PoolView, make_selector
from salad.selectors.choose import choose
from salad.selectors.testing import reorder

FOLDER = Path(tempfile.gettempdir()) / "salad-bench"
SECONDS_A_TEXT, NEAR, CLUSTERS = 5.0, 0.95, 128
FASTER, RADIUS, LONGEST, GIB, GROWTH, QUALITY, SHARE = 5.0, 0.01, 60.0, 3e9 / 2**30, 12.0, 0.95, 0.02  # the limits
FLOOR = 0.5  # seconds on 1,000,000 texts: below, growth is noise and no limit
SHORT = 5.0
SMALL, LARGE = 100_000, 1_000_000
KCENTER, FACILITY = "kcenter", "facility-location"
LARGE_SCALE = {FACILITY: {"EDGES": 0}}  # constants of its module that make it do on 50,000 what it does on 1,000,000
LIBRARIES = ("small-text", "scikit-activeml")

console = Console(width=120)


@dataclass(frozen=True)
class Job:
    """One process: a peer or a strategy on n texts."""

    part: int
    who: str  # a key of PEERS, or what `make_selector` takes
    n: int
    texts: int
    pool: str  # a kind that `pool_of` knows
    forced: bool = False  # to do what it does on a large pool: LARGE_SCALE


# ---- in the child


def measure(job: Job) -> dict[str, Any]:
    """Seconds and peak GiB of one choice, and the rows."""
    if job.who in PEERS:
        seconds, cpu, rows = _measure_peer(job)
    else:
        pool, budget = pool_of(job.n, job.pool), Budget(job.texts * SECONDS_A_TEXT)
        selector = make_selector(job.who)
        if job.forced:
            for constant, value in LARGE_SCALE[job.who].items():
                setattr(sys.modules[type(selector).__module__], constant, value)
        choose(selector, reorder(pool, np.arange(2_000)), Budget(100 * SECONDS_A_TEXT), np.random.default_rng(1), NEAR)
        clock = Clock()
        rows = choose(selector, pool, budget, np.random.default_rng(0), NEAR).indices
        seconds, cpu = clock.read()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "rows": np.asarray(rows).tolist()}


class Clock:
    """Wall and processor seconds since it was made; the latter tell on a busy machine."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def _measure_peer(job: Job) -> tuple[float, float, np.ndarray]:
    way, x = PEERS[job.who], np.asarray(clustered(job.n), np.float32)
    way(x[:500], 5)
    compiling, clock = (0.0, 0.0), Clock()
    if job.who in COMPILES:
        way(x[:500], 5)
        compiling = clock.read()
    clock = Clock()
    rows = way(x, job.texts)
    seconds, cpu = clock.read()
    return seconds - compiling[0], cpu - compiling[1], rows


def pool_of(n: int, kind: str) -> PoolView:
    """The pool as the pipeline would hand it over: vectors and predictions memory-mapped, ids a Python string each.

    kind: "real": texts of 2-8 s, 2 % taken, half of them trained on. "even": of 5 s, row 0 alone taken and trained on.
    "alike": as even, D the same for all.
    """
    rng = np.random.default_rng(n)
    cluster, centroids = np.load(FOLDER / f"clusters-{n}.npy"), np.load(FOLDER / f"centroids-{n}.npy")
    k = len(centroids)
    predicted = np.load(FOLDER / f"predicted-{n}.npy", mmap_mode="r")
    content = np.ones(n, np.float32) if kind == "alike" else predicted[:, 2]
    d = np.bincount(cluster, weights=content, minlength=k) / np.bincount(cluster, minlength=k)
    p_web = np.bincount(cluster, minlength=k) / n
    hexadecimal = rng.bytes(16 * n).hex()
    taken, trained = np.arange(n) == 0, np.arange(n) == 0
    if kind == "real":
        taken = rng.random(n) < 0.02
        trained = taken & (rng.random(n) < 0.5)
    fed = PastRound(rng.dirichlet(np.ones(k)) * 50_000, rng.normal(-0.1, 0.05, k), np.full(k, 0.05))
    x = clustered(n)
    return PoolView(
        ids=np.array([hexadecimal[i : i + 32] for i in range(0, 32 * n, 32)], object),
        embeddings=x,
        cluster=cluster,
        predicted_divergence=np.ones(n, np.float32) if kind == "alike" else predicted[:, 0],
        predicted_se=predicted[:, 1],
        content_divergence=content,
        est_seconds=(rng.uniform(2, 8, n) if kind == "real" else np.full(n, SECONDS_A_TEXT)).astype(np.float32),
        taken=taken,
        trained=trained,
        clusters=ClusterTable(p_web, p_web * d**5 / (p_web * d**5).sum(), d, 0.1 * d, centroids),
        history=(fed,),
        target=np.asarray(x[np.flatnonzero(cluster < 8)[:500]], np.float32),
    )


def prepare(n: int) -> None:
    """Vectors, clusters and predictions of n texts, kept in FOLDER; and the vectors in the page cache."""
    x = clustered(n)
    with open(x.filename, "rb") as f:
        while f.read(1 << 24):
            pass
    if not (FOLDER / f"clusters-{n}.npy").exists():
        from salad.pipeline.balance import balanced_kmeans

        cluster, centroids = balanced_kmeans(x, CLUSTERS, max_over_mean=1.05, iterations=20, seed=0)
        np.save(FOLDER / f"centroids-{n}.npy", centroids)
        np.save(FOLDER / f"clusters-{n}.npy", cluster)
    cluster = np.load(FOLDER / f"clusters-{n}.npy")
    rng = np.random.default_rng(n + 1)
    content = rng.lognormal(-1, 0.3, CLUSTERS)[cluster] * rng.lognormal(0, 0.4, n)
    predicted = np.stack([content * rng.lognormal(0, 0.2, n), 0.3 * content, content], 1).astype(np.float32)
    np.save(FOLDER / f"predicted-{n}.npy", predicted)


def exact_rows(n: int, texts: int) -> np.ndarray:
    """What exact greedy for facility location chooses from n texts, by their D of content; kept in FOLDER."""
    path = FOLDER / f"exact-facility-location-{n}-{texts}.npy"
    if not path.exists():
        x = np.asarray(clustered(n), np.float32)
        np.save(path, exact_facility_location(x, content_of(n), texts, lambda line: print(line, flush=True)))
    return np.load(path)


def content_of(n: int) -> np.ndarray:
    """D of content by text; 0 for row 0, which is not free, so it counts for nothing in the objective."""
    content = np.array(np.load(FOLDER / f"predicted-{n}.npy", mmap_mode="r")[:, 2])
    content[0] = 0
    return content


# ---- in the parent


class Bench:
    def __init__(self, peers: Path | None, quick: bool, seed: int, repeats: int) -> None:
        self.peers, self.quick, self.random, self.repeats = peers, quick, random.Random(seed), repeats
        self.found: dict[Job, dict[str, Any]] = {}
        self.lines: list[tuple[bool | None, str]] = []

    def child(self, what: str, value: Any, peers: bool = False) -> subprocess.CompletedProcess[str]:
        paths = [str(self.peers.absolute())] if peers and self.peers else []
        paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(Path(__file__).absolute()), "--child", what, json.dumps(value)]
        return subprocess.run(command, env=env, check=False, text=True, capture_output=what == "measure")

    def run(self, jobs: list[Job]) -> None:
        """Every job in a process of its own, in random order; short ones again."""
        times: dict[Job, list[tuple[float, float]]] = {}
        for again in range(self.repeats):
            todo = [j for j in jobs if not again or (j in times and times[j][0][0] < SHORT)]
            self.random.shuffle(todo)
            for i, job in enumerate(todo):
                done = self.child("measure", job.__dict__, peers=job.who in PEERS)
                last = done.stdout.strip().rpartition("\n")[2]
                if done.returncode:
                    error = done.stderr.strip().rpartition("\n")[2]
                    self.found[job] = {"error": "not installed" if "ModuleNotFound" in error else error or done.returncode}
                    said = self.found[job]["error"]
                else:
                    result = json.loads(last)
                    times.setdefault(job, []).append((result["seconds"], result["cpu"]))
                    peak = max(result["peak"], self.found.get(job, result)["peak"])
                    seconds, cpu = (statistics.median(of) for of in zip(*times[job], strict=True))
                    self.found[job] = {**result, "seconds": seconds, "cpu": cpu, "peak": peak}
                    said = f"{result['seconds']:.2f} s (processor {result['cpu']:.2f}), {result['peak']:.2f} GiB"
                console.print(f"[{again + 1}/{self.repeats}] {i + 1}/{len(todo)}  part {job.part}  {job.who}, {job.n:,}: {said}")

    def limit(self, kept: bool | None, text: str) -> None:
        """None: not measured."""
        self.lines.append((kept, text))

    def cell(self, job: Job, key: str) -> str:
        found = self.found.get(job, {})
        if "error" in found:
            return str(found["error"])[:60] if key == "seconds" else ""
        return f"{found[key]:.2f}" if key in found else ""

    def cells(self, job: Job) -> list[str]:
        return [self.cell(job, key) for key in ("seconds", "cpu", "peak")]

    def rows(self, job: Job) -> np.ndarray | None:
        rows = self.found.get(job, {}).get("rows")
        return None if rows is None else np.array(rows)

    # one method for the jobs of all parts, one for each table

    def jobs(self, part: int) -> list[Job]:
        sizes = [SMALL] if self.quick else [SMALL, LARGE]
        return {
            1: [Job(1, who, 20_000, 500, "alike") for who in (*LIBRARIES, "plain numpy", KCENTER)],
            2: [Job(2, who, 10_000, 500, "alike") for who in ("apricot, lazy", FACILITY)],
            3: [Job(3, who, n, 10_000, "real") for who in SELECTORS for n in sizes],
            4: [
                *(Job(4, who, 50_000, 1_000, "even") for who in ("plain numpy", "uniform", KCENTER, FACILITY)),
                Job(4, FACILITY, 50_000, 1_000, "even", forced=True),
            ],
            5: [],
        }[part]

    def table_1(self) -> Table:
        table = Table("k-centre, 500 of 20,000", "seconds", "CPU s", "GiB", "covering radius", "against exact greedy")
        jobs = {j.who: j for j in self.jobs(1)}
        x = np.asarray(clustered(20_000), np.float32)
        radii = {who: radius(x, rows) for who, j in jobs.items() if (rows := self.rows(j)) is not None}
        for who, job in jobs.items():
            worse = f"{radii[who] / radii['plain numpy'] - 1:+.2%}" if who in radii and "plain numpy" in radii else ""
            r = f"{radii[who]:.4f}" if who in radii else ""
            table.add_row(who, *self.cells(job), r, worse)
        times = {who: self.found[j]["seconds"] for who, j in jobs.items() if who in radii}
        libraries = {who: times[who] for who in LIBRARIES if who in times}
        fastest = min(libraries, key=lambda w: libraries[w], default=None)
        ratio = libraries[fastest] / times[KCENTER] if fastest and KCENTER in times else None
        said = "" if ratio is None else f": {ratio:.1f} x as fast as {fastest}"
        self.limit(None if ratio is None else ratio >= FASTER, f"kcenter against the fastest library{said} (≥ {FASTER:g} x)")
        off = radii[KCENTER] / radii["plain numpy"] - 1 if {KCENTER, "plain numpy"} <= set(radii) else None
        said = "" if off is None else f": {off:+.2%}, {times['plain numpy'] / times[KCENTER]:.1f} x as fast as plain numpy"
        self.limit(None if off is None else off <= RADIUS, f"kcenter's radius against exact greedy{said} (≤ {RADIUS:.0%})")
        return table

    def table_2(self) -> Table:
        table = Table("facility location, 500 of 10,000", "seconds", "CPU s", "GiB", "mean cosine to the nearest")
        x = np.asarray(clustered(10_000), np.float32)
        for job in self.jobs(2):
            rows = self.rows(job)
            f = "" if rows is None else f"{coverage(x, np.ones(len(x)), rows):.4f}"
            table.add_row(job.who, *self.cells(job), f)
        return table

    def table_3(self) -> Table:
        table = Table(
            "10,000 texts' worth of seconds of", "100,000: s", "CPU s", "1,000,000: s", "CPU s", "growth", "GiB", "texts"
        )
        for who in SELECTORS:
            small, large = Job(3, who, SMALL, 10_000, "real"), Job(3, who, LARGE, 10_000, "real")
            measured = "seconds" in self.found.get(large, {}) and "seconds" in self.found.get(small, {})
            growth = self.found[large]["seconds"] / self.found[small]["seconds"] if measured else None
            last = small if self.quick else large
            texts = f"{len(self.found[last]['rows']):,}" if "rows" in self.found.get(last, {}) else ""
            said = "" if growth is None else f"{growth:.1f} x"
            cells = [self.cell(job, key) for job in (small, large) for key in ("seconds", "cpu")]
            table.add_row(who, *cells, said, self.cell(last, "peak"), texts)
            if growth is None:
                kept = None if not any("error" in self.found.get(j, {}) for j in (small, large)) else False
                self.limit(kept, f"{who} on 1,000,000 texts")
                continue
            seconds, peak = self.found[large]["seconds"], self.found[large]["peak"]
            kept = seconds <= LONGEST and peak <= GIB and (growth <= GROWTH or seconds < FLOOR)
            limits = f"≤ {LONGEST:g} s, {GIB:.1f} GiB, {GROWTH:g} x" + (
                " – too short for growth to count" if seconds < FLOOR else ""
            )
            self.limit(kept, f"{who} on 1,000,000 texts: {seconds:.1f} s, {peak:.2f} GiB, growth {growth:.1f} x ({limits})")
        return table

    def table_4(self) -> Table:
        table = Table("1,000 of 50,000", "seconds", "CPU s", "GiB", "objective", "", "exact greedy's", "of exact greedy's")
        exact, uniform, kcenter, *facility = self.jobs(4)
        x, weight = np.asarray(clustered(50_000), np.float32), content_of(50_000)
        rows_of_exact = exact_rows(50_000, 1_000) if any(self.rows(job) is not None for job in facility) else None

        def add(job: Job, far: bool) -> None:
            rows, best, ratio, cells = self.rows(job), self.rows(exact) if far else rows_of_exact, None, ["", ""]
            if rows is not None and best is not None:
                ours, theirs = (radius(x, r) if far else coverage(x, weight, r) for r in (rows, best))
                ratio = theirs / ours if far else ours / theirs
                cells = [f"{ours:.4f}", f"{theirs:.4f}"]
            who = job.who + (", as on 1,000,000" if job.forced else "")
            what, said = "radius" if far else "coverage", "" if ratio is None else f"{ratio:.1%}"
            table.add_row(who, *self.cells(job), what, *cells, said)
            if job is not uniform:  # there to show what the others are worth
                kept = None if ratio is None else ratio >= QUALITY
                self.limit(kept, f"{who}: {what} against exact greedy on 50,000: {said} (≥ {QUALITY:.0%})")

        for job in (uniform, kcenter):
            add(job, far=True)
        for job in (uniform, *facility):
            add(job, far=False)
        return table

    def table_5(self, run: Path) -> Table:
        table = Table(f"{run}", "selection, s", "all its stages, s", "share")
        chosen = whole = 0.0
        for folder in sorted(run.glob("round-*")):
            paths = [*folder.glob("*"), run / "prepared" / folder.name]
            stages = {p.name: m.seconds for p in paths if (m := read_manifest(p)) is not None}
            if "selection" not in stages:
                continue
            chosen, whole = chosen + stages["selection"], whole + sum(stages.values())
            share = stages["selection"] / sum(stages.values())
            table.add_row(folder.name, f"{stages['selection']:.2f}", f"{sum(stages.values()):.1f}", f"{share:.2%}")
        share = chosen / whole if whole else None
        said = "no rounds there" if share is None else f"{share:.2%}"
        self.limit(None if share is None else share <= SHARE, f"choosing, of the demo's rounds: {said} (≤ {SHARE:.0%})")
        return table


def main() -> int:
    """0 when no limit is missed."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], json.loads(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"), help="for part 5")
    parser.add_argument("--part", type=int, choices=range(1, 6), action="append", help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="nothing on 1,000,000 texts")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where requirements/bench.txt is installed")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the processes")
    parser.add_argument("--repeats", type=int, default=3, help=f"of what takes less than {SHORT:g} s")
    given = parser.parse_args()
    bench, parts = Bench(given.peers, given.quick, given.seed, given.repeats), given.part or [1, 2, 3, 4, 5]
    started = time.monotonic()
    jobs = [job for part in parts for job in bench.jobs(part)]
    for n in sorted({job.n for job in jobs}):
        console.print(f"data of {n:,} texts")
        if bench.child("prepare", n).returncode:
            return 1
    if any(job.part == 4 and job.who == FACILITY for job in jobs):
        bench.child("exact", [50_000, 1_000])
    bench.run(jobs)
    for part in parts:
        console.print(bench.table_5(given.run) if part == 5 else getattr(bench, f"table_{part}")())
    for kept, text in bench.lines:
        console.print({True: "[green]kept   [/]", False: "[red]MISSED [/]", None: "[yellow]open   [/]"}[kept] + " " + text)
    if any(found.get("error") == "not installed" for found in bench.found.values()):
        console.print(f"not installed: {__doc__.splitlines()[2]}, then --peers /tmp/peers", markup=False)
    load = os.getloadavg()[1]
    console.print(f"{(time.monotonic() - started) / 60:.0f} minutes, {os.cpu_count()} cores, mean load {load:.1f}")
    return int(any(kept is False for kept, _ in bench.lines))


def child(what: str, value: Any) -> int:
    if what == "prepare":
        prepare(value)
    elif what == "exact":
        exact_rows(*value)
    else:
        print("\n" + json.dumps(measure(Job(**value))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
