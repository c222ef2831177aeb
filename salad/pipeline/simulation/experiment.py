"""The whole simulation, from a wish to its rows, and the folder that they are written to."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.artifact import Manifest, make_key, publish
from salad.errors import SaladError
from salad.pipeline import own_folder
from salad.pipeline.simulation.response import Response, fit, make_cells
from salad.pipeline.simulation.rounds import YARDSTICK, Plan, Row, make_draw, play, steps
from salad.pipeline.simulation.source import Source, read_source
from salad.pipeline.simulation.truth import CHUNK, believe, draw_truth, drawn_components, make_world, run_components
from salad.seeds import derive
from salad.selectors.base import make_selector
from salad.threads import one_blas_thread

STAGE = "simulation"
DEFAULT = (YARDSTICK, "importance", "importance-diverse")
MANY = 6_000_000  # texts that are simulated at once, over draws


@dataclass(frozen=True)
class Settings:
    """What the user asks for; None: as the run has it."""

    strategies: tuple[str, ...] = DEFAULT
    texts: int = 100_000
    clusters: int | None = None
    rounds: int = 4
    budget: float | None = None
    probes: int | None = None
    gamma: float | None = None
    seeds: int = 3
    seed: int = 0
    spread: float = 1.0
    local: float | None = None
    floor: float = 0.25
    uneven: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Rows (see `rounds.play`), what they are compared by, and what the simulation rests on."""

    rows: list[Row]
    settings: dict[str, Any]  # as they were in the end
    response: Response
    check: dict[str, Any]  # components of variance: of the run's probes, and of as many simulated ones


@one_blas_thread()  # which strategies switch on and off, for all draws alike: another number rounds otherwise
def simulate(folder: Path, asked: Settings, progress: Callable[[float], None] = lambda done: None) -> Outcome:
    """Play every strategy in every draw. progress: called with how much is done of `total_steps`. SaladError for a wrong wish."""
    names = _checked(asked)
    source = read_source(folder)
    config = source.config
    k = config.cluster.k if asked.clusters is None else asked.clusters
    plan = Plan(
        strategies=names,
        rounds=asked.rounds,
        budget=config.select.budget if asked.budget is None else asked.budget,
        probes=max(round(len(source.signal) / config.cluster.k), 2) if asked.probes is None else asked.probes,
        gamma=config.select.gamma if asked.gamma is None else asked.gamma,
        target_ess=config.select.target_ess if asked.gamma is None else None,
        seed=asked.seed,
        uneven=asked.uneven,
    )
    if asked.texts < 2 * k * plan.probes:
        raise SaladError(
            f"{asked.texts} texts are too few for {plan.probes} probes in each of {k} clusters",
            f"raise --texts to {2 * k * plan.probes} or more, or lower --probes or --clusters",
        )
    counter = _Counter(progress)
    step = 1 / math.ceil(asked.texts / CHUNK)  # what is done once for all texts counts as one round
    cells = make_cells(source.texts.vectors, derive(asked.seed, "simulate", "cells"))
    response = fit(source.changes, source.natural, cells, asked.floor, asked.local)
    world = make_world(source, cells, asked.texts, k, asked.seed, lambda: counter.add(step))
    belief = believe(source, response.noise)

    def one(number: int) -> tuple[list[Row], np.ndarray]:
        seed = derive(asked.seed, "simulate", number)
        log_d = draw_truth(belief, source, world, asked.spread, seed, lambda: counter.add(step))
        drawn = drawn_components(log_d, world, source, belief, seed)
        draw = make_draw(number, log_d, world, source, response, belief, plan)
        return play(plan, draw, world, source, response, counter.add), drawn

    workers = min(asked.seeds, os.cpu_count() or 1, max(MANY // asked.texts, 1))
    with ThreadPoolExecutor(workers) as pool:  # numpy and FAISS let go of Python's lock
        futures = [pool.submit(one, number) for number in range(asked.seeds)]
        try:
            found = [future.result() for future in futures]
        except BaseException:
            counter.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rows, drawn = [row for of, _ in found for row in of], np.concatenate([d for _, d in found])
    settings = asdict(asked) | asdict(plan) | {"clusters": k, "run": str(folder)}
    return Outcome(rows, settings, response, _check(source, drawn, belief.fitted.explained, rows))


class _Counter:
    """Adds up what the draws report, from whichever thread, and ends them all once one has failed."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self.progress, self.done, self.stopped, self.lock = progress, 0.0, False, threading.Lock()

    def add(self, step: float) -> None:
        if self.stopped:
            raise RuntimeError("another draw failed")
        with self.lock:
            self.done += step
            self.progress(self.done)


def total_steps(asked: Settings) -> float:
    """What `simulate` counts to, at most."""
    rounds = steps(Plan(_with_yardstick(asked.strategies), asked.rounds, 1.0, 2, 0.0, None, 0))
    return 1 + asked.seeds * (1 + rounds)


def _with_yardstick(names: Sequence[str]) -> tuple[str, ...]:
    return (YARDSTICK, *(n for n in dict.fromkeys(names) if n != YARDSTICK))


def _checked(asked: Settings) -> tuple[str, ...]:
    """The strategies, `uniform` first. SaladError for an unknown one and for numbers that make no sense."""
    limits = {
        "texts": (1, 1e9), "clusters": (1, 1e6), "rounds": (1, 1_000), "probes": (2, 1e4), "seeds": (1, 1_000),
        "gamma": (0, 1_000), "spread": (0, 100), "local": (0, 1), "floor": (0, 0.99), "uneven": (0, 5), "budget": (1e-9, 1e12),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        value = getattr(asked, name)
        if value is not None and not low <= value <= high:
            raise SaladError(f"--{name} is {value:g}", f"it goes from {low:g} to {high:g}")
    names = _with_yardstick(asked.strategies)
    for name in names:
        make_selector(name)
    return names


def _check(source: Source, drawn: np.ndarray, explained: float, rows: list[Row]) -> dict[str, Any]:
    """For each component: the run's value, the mean of the draws, and the interval that 90 % of them are in."""
    explains = np.array([row["explained"] for row in rows if row["round"] == 0])
    between, within = run_components(source)
    shown = {
        "between clusters": (between, drawn[:, 0]),
        "within clusters": (within, drawn[:, 1]),
        "explained share": (explained, explains),
    }
    return {name: [run, float(of.mean()), *np.quantile(of, [0.05, 0.95]).tolist()] for name, (run, of) in shown.items()}


# -- what is written ------------------------------------------------------------------------------------------


def check_out(out: Path) -> None:
    """SaladError unless the folder is new, empty, or an earlier simulation: writing replaces it."""
    own_folder.check_out(out, STAGE)


def write(out: Path, outcome: Outcome) -> None:
    """`simulation.parquet` (every row), `simulation.html`, and a manifest with what it rests on; replaces an older one whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from salad.pipeline.simulation.plot import page

    check_out(out)
    meta = {"settings": outcome.settings, "response": asdict(outcome.response), "check": outcome.check}

    def build(folder: Path) -> dict[str, Any]:
        pq.write_table(pa.Table.from_pylist(outcome.rows), folder / "simulation.parquet", compression="zstd")
        (folder / "simulation.html").write_text(page(outcome), encoding="utf-8")
        return meta

    out.parent.mkdir(parents=True, exist_ok=True)
    blank = Manifest(STAGE, make_key(**outcome.settings), outcome.settings, {}, "", int(outcome.settings["seed"]), 0.0)
    publish(out, blank, build)
