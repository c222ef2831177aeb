"""What is asked, as lists of arms. Arms that stand in several lists are trained once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evidence.arms import Arm

POOLS = (80, 50, 20)  # per cent of the pool that Stage I covers
SEEDS = (1, 2, 3)
FULL = 1600  # seconds of speech: 40 % of what Stage I heard
BUDGETS = (FULL // 4, FULL // 2, FULL)
DEFAULT = "importance-diverse"
STRATEGIES = (None, "uniform", "importance", DEFAULT)
OTHERS = ("uncertainty", "facility-location")  # the two best others of `salad simulate` in one round (docs/log.md)
ABLATED = 80  # the pool of the ablations, of the rounds and of the budgets: where choosing matters most


def selection() -> Iterator[Arm]:
    """Every strategy at the full budget, pool by pool, seed by seed; then smaller budgets, where choosing matters most."""
    for pool in POOLS:
        for seed in SEEDS:
            yield from (Arm(pool, strategy, FULL, seed) for strategy in STRATEGIES)
    for budget in BUDGETS[:-1]:
        for seed in SEEDS:
            yield from (Arm(ABLATED, strategy, budget, seed) for strategy in ("uniform", DEFAULT))
    for seed in SEEDS:
        yield from (Arm(ABLATED, strategy, FULL, seed) for strategy in OTHERS)
    for pool in POOLS:
        for budget in BUDGETS[:-1]:
            for seed in SEEDS:
                yield from (Arm(pool, strategy, budget, seed) for strategy in STRATEGIES[1:])


def rounds() -> Iterator[Arm]:
    """One big selection against four rounds of a quarter, of as many stable steps in all."""
    steps = (("train.round_steps", 25),)
    for seed in SEEDS:
        yield from (Arm(ABLATED, strategy, FULL, seed, 4, steps) for strategy in (DEFAULT, "uniform"))


CHANGES: tuple[tuple[str, Any], ...] = (
    ("select.gamma", 1.0),
    ("select.gamma", 2.5),
    ("select.gamma", 10.0),
    ("select.target_ess", 4.0),
    ("score.estimate", "shrunk"),
    ("score.estimate", "plain"),
    ("train.teacher", "cached"),
    ("models.asr", "openai/whisper-tiny.en"),
    ("cluster.k", 6),
    ("cluster.k", 96),
    ("probe.per_cluster", 2),
    ("probe.per_cluster", 20),
)
BEFORE_ROUNDS = ("cluster.k", "probe.per_cluster")  # other probes, so other texts for Stage I, and another student


def ablations() -> Iterator[Arm]:
    """One thing changed at a time in the default; where Stage I is then another, uniform beside it."""
    for seed in SEEDS:
        for key, value in CHANGES:
            for strategy in (DEFAULT, "uniform") if key in BEFORE_ROUNDS else (DEFAULT,):
                yield Arm(ABLATED, strategy, FULL // 2, seed, 1, ((key, value),))


PARTS = {"selection": selection, "rounds": rounds, "ablations": ablations}
