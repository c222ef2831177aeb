"""Rounds as the pipeline runs them: the same probes measured again, the real estimator, the real strategy, then D falls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salad.errors import SaladError
from salad.pipeline import surrogate
from salad.pipeline.estimate import effective_number, gamma_for, log_change, target_distribution
from salad.pipeline.simulation.response import Response
from salad.pipeline.simulation.source import Source
from salad.pipeline.simulation.truth import Belief, World
from salad.seeds import derive, generator
from salad.selectors.base import Budget, ClusterTable, PastRound, PoolView, make_selector
from salad.selectors.choose import choose, near_any

WORST = 0.1  # of the texts: those of highest D
YARDSTICK = "uniform"

Row = dict[str, Any]
Scores = tuple[ClusterTable, np.ndarray, float]  # (N, 3): D expected of every text, its error, its content's; share explained


@dataclass(frozen=True)
class Plan:
    """What is to be simulated."""

    strategies: tuple[str, ...]
    rounds: int
    budget: float  # seconds a round
    probes: int  # a cluster
    gamma: float
    target_ess: float | None  # in place of gamma
    seed: int
    uneven: float = 0.0  # standard deviation, over clusters, of the log of how fast they learn


@dataclass(frozen=True)
class SimulatedView(PoolView):
    """A `PoolView` whose ids' hashes are drawn, not computed: ten million of them take seconds."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))  # type: ignore[assignment]


@dataclass
class Student:
    """What one student has heard, and which texts are gone."""

    heard: np.ndarray  # (C,) seconds counted in each cell, in general and nearby
    taken: np.ndarray  # (N,) bool
    trained: np.ndarray  # (N,) bool
    fed: np.ndarray  # (K,) seconds of the last round
    history: tuple[PastRound, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Draw:
    """One draw of the truth and the probes that are spoken in it: the same for every strategy."""

    number: int
    seed: int
    d: np.ndarray  # (N,) float32 true D before round 0, nats
    weight: np.ndarray  # (K, C) of the pool's mean D: which clusters' and cells' texts it comes from
    p_web: np.ndarray  # (K,) share of the texts
    rows: np.ndarray  # (n,) probes
    aside: np.ndarray  # (N,) bool: probes and what is near them
    counts: np.ndarray  # (C, C) what a second heard in one cell counts in another
    heard: np.ndarray  # (C,) seconds before round 0
    beta: np.ndarray  # (C,)
    noise_var: float


def make_draw(
    number: int, log_d: np.ndarray, world: World, source: Source, response: Response, belief: Belief, plan: Plan
) -> Draw:
    k, cells, cluster = world.k, len(world.cells.share), world.texts.cluster
    seed = derive(plan.seed, "simulate", number)
    d = np.exp(log_d)
    weight = np.bincount(cluster.astype(np.int64) * cells + world.cell, weights=d, minlength=k * cells).reshape(k, cells)
    rng = generator(seed, "probes")
    members = [np.flatnonzero(cluster == c) for c in range(k)]
    rows = np.sort(np.concatenate([rng.choice(m, min(plan.probes, len(m)), replace=False) for m in members if len(m)]))
    aside = np.zeros(len(d), bool)
    aside[rows] = True
    if source.near:
        aside |= near_any(world.texts.vectors, np.asarray(world.texts.vectors[rows]), source.near)
    counts = response.local * world.cells.kernel(response.reach) + (1 - response.local)
    speed = np.exp(plan.uneven * generator(seed, "uneven").normal(size=k) - plan.uneven**2 / 2)
    return Draw(
        number, seed, d, weight / len(d), np.array([len(m) for m in members]) / len(d), rows, aside, counts,
        counts @ world.cells.seconds(source.natural), response.beta * speed[weight.argmax(0)], belief.noise_var,
    )  # fmt: skip


def play(
    plan: Plan, draw: Draw, world: World, source: Source, response: Response, progress: Callable[[float], None]
) -> list[Row]:
    """Every strategy through its rounds: a row for the state before, and one after each round.

    `uniform` looks at no score, so it is shown the first ones; it goes on for as many rounds again, so that others can be told
    what it would need.
    """
    start = _scores(_measured(draw, world, 0, np.ones(len(draw.beta))), draw, world, source, plan)
    rows: list[Row] = []
    for name in plan.strategies:
        student, scores, before = _student(draw), start, None
        rows.append(_row(name, -1, student, draw, world, response))
        for r in range(_rounds(name, plan)):
            if name != YARDSTICK:
                signal = _measured(draw, world, r, _left(student, draw, response))
                if before is not None:
                    change, error = log_change(before, signal, world.texts.cluster[draw.rows], world.k)
                    student.history = (*student.history, PastRound(student.fed, change, error))
                    scores = _scores(signal, draw, world, source, plan)
                before = signal
            elif r >= plan.rounds and _supply(student, world) < plan.budget:
                break
            facts = _one_round(name, r, student, scores, draw, world, source, plan)
            rows.append(_row(name, r, student, draw, world, response) | facts)
            progress(1.0)
    return rows


def _rounds(name: str, plan: Plan) -> int:
    return 2 * plan.rounds if name == YARDSTICK else plan.rounds


def steps(plan: Plan) -> int:
    """How often `play` reports, at most."""
    return sum(_rounds(name, plan) for name in plan.strategies)


def _one_round(name: str, r: int, student: Student, scores: Scores, draw: Draw, world: World, source: Source, plan: Plan) -> Row:
    """The strategy chooses and the student hears it; returns what is told of the choice."""
    if _supply(student, world) < plan.budget:
        raise SaladError(
            f"round {r} of '{name}' wants {plan.budget:.0f} s but the simulated texts that are left make less",
            "lower --budget or --rounds, or raise --texts",
        )
    table, predicted, explained = scores
    view = SimulatedView(
        ids=world.ids, embeddings=world.texts.vectors, cluster=world.texts.cluster, predicted_divergence=predicted[:, 0],
        predicted_se=predicted[:, 1], content_divergence=predicted[:, 2], est_seconds=world.est_seconds,
        taken=student.taken, trained=student.trained, clusters=table, history=student.history, keys=world.keys,
    )  # fmt: skip
    started = time.perf_counter()
    selector = make_selector(name)
    rng = generator(draw.seed, "select", r, selector.name)
    chosen = choose(selector, view, Budget(plan.budget), rng, source.near, source.config.select.repeats).indices
    took = time.perf_counter() - started
    student.taken[chosen] = student.trained[chosen] = True
    cost = world.est_seconds[chosen].astype(np.float64)
    student.seconds += float(cost.sum())
    student.fed = np.bincount(world.texts.cluster[chosen], cost, world.k)
    student.heard = student.heard + draw.counts @ np.bincount(world.cell[chosen], cost, len(draw.heard))
    return {
        "texts": len(chosen), "select_seconds": took, "effective_clusters": effective_number(table.p_target),
        "explained": explained,
    }  # fmt: skip


def _student(draw: Draw) -> Student:
    return Student(draw.heard.copy(), draw.aside.copy(), np.zeros(len(draw.d), bool), np.zeros(len(draw.p_web)))


def _supply(student: Student, world: World) -> float:
    return float(world.est_seconds[~student.taken].sum(dtype=np.float64))


def _left(student: Student, draw: Draw, response: Response) -> np.ndarray:
    """(C,) share of its first D that a text of each cell has left."""
    return response.ratio(student.heard, draw.beta) / response.ratio(draw.heard, draw.beta)


def _measured(draw: Draw, world: World, r: int, left: np.ndarray) -> np.ndarray:
    """(n,) D of the probes as round r measures it."""
    noise = generator(draw.seed, "measure", r).normal(size=len(draw.rows))
    return np.asarray(draw.d[draw.rows] * left[world.cell[draw.rows]] * np.exp(np.sqrt(draw.noise_var) * noise), np.float64)


def _row(name: str, r: int, student: Student, draw: Draw, world: World, response: Response) -> Row:
    """True D now: of the pool, of its worst cluster, of the texts that have the most."""
    left = _left(student, draw, response)
    now = draw.d * left[world.cell].astype(np.float32)
    many = max(int(WORST * len(now)), 1)
    by_cluster = (draw.weight @ left)[draw.p_web > 0] / draw.p_web[draw.p_web > 0]
    return {
        "strategy": name, "seed": draw.number, "round": r, "seconds": student.seconds,
        "divergence": float(draw.weight.sum(0) @ left), "worst_cluster": float(by_cluster.max()),
        "worst_decile": float(np.partition(now, -many)[-many:].mean()),
        "texts": 0, "select_seconds": 0.0, "effective_clusters": float("nan"), "explained": float("nan"),
    }  # fmt: skip


def _scores(signal: np.ndarray, draw: Draw, world: World, source: Source, plan: Plan) -> Scores:
    """What the pipeline would write."""
    config = source.config
    found, predicted, fitted = surrogate.estimate(world.texts, draw.rows, signal, config.score.estimate, world.k, config.seed)
    content = surrogate.at_average_layout(fitted, world.texts, predicted[:, 0])
    p_web = draw.p_web
    gamma = plan.gamma if plan.target_ess is None else gamma_for(p_web, found.shrunk, plan.target_ess)
    p_target = target_distribution(p_web, found.shrunk, gamma)
    table = ClusterTable(p_web, p_target, found.shrunk, found.shrunk * found.shrunk_log_sd, world.centroids)
    return table, np.column_stack([predicted, content]), fitted.explained
