"""What is asked, as lists of arms. Arms that stand in several lists are trained once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evidence.arms import Arm

POOLS = (80, 50, 20)  # per cent of the pool that Stage I covers
SEEDS = (1, 2, 3)
FULL = 1600  # seconds of speech: 40 % of what Stage I heard
FOURTH = FULL // 4  # of leaning and of the ablations
BUDGETS = (FULL // 16, FOURTH, FULL)
ABLATED = 80  # the pool of the budgets, the rounds and the ablations: where choosing has most to gain


@dataclass(frozen=True)
class Strategy:
    """What chooses: a selector, and what of the configuration goes with it. selector None: nothing is chosen or spoken."""

    label: str
    selector: str | None
    changes: tuple[tuple[str, Any], ...] = ()

    def arm(self, pool: int, budget: int, seed: int, rounds: int = 1, changes: tuple[tuple[str, Any], ...] = ()) -> Arm:
        return Arm(pool, self.selector, budget, seed, rounds, (*self.changes, *changes))


NONE = Strategy("Stage I data only", None)
UNIFORM = Strategy("uniform", "uniform")
IMPORTANCE = Strategy("importance", "importance")
AS_IT_IS = Strategy("importance-diverse", "importance-diverse")  # D(c) of texts as they are laid out
CONTENT = Strategy("importance-diverse, content", "importance-diverse", (("score.estimate", "content"),))
MAIN = (NONE, UNIFORM, IMPORTANCE, AS_IT_IS, CONTENT)
DEFAULT = CONTENT
UNCERTAINTY = Strategy("uncertainty", "uncertainty")  # the highest D first, whatever the pool holds
OTHERS = (UNCERTAINTY, Strategy("facility-location", "facility-location"))  # `salad simulate`'s best in one round (docs/log.md)
BUDGETED = (*MAIN[1:], *OTHERS)  # with smaller budgets too: all of them on the pool of ABLATED, uniform and the default on all


def selection() -> Iterator[Arm]:
    """Every strategy at the full budget, pool by pool, seed by seed; then smaller budgets, first where most can be gained."""
    for pool in POOLS:
        for seed in SEEDS:
            yield from (strategy.arm(pool, FULL, seed) for strategy in MAIN)
    for budget in BUDGETS[:-1]:
        for seed in SEEDS:
            yield from (strategy.arm(ABLATED, budget, seed) for strategy in (UNIFORM, DEFAULT))
    for seed in SEEDS:
        yield from (strategy.arm(ABLATED, FULL, seed) for strategy in OTHERS)
    for pool in POOLS:
        for budget in BUDGETS[:-1]:
            for seed in SEEDS:
                yield from (strategy.arm(pool, budget, seed) for strategy in (UNIFORM, DEFAULT))
    for budget in BUDGETS[:-1]:
        for seed in SEEDS:
            yield from (strategy.arm(ABLATED, budget, seed) for strategy in BUDGETED)


LONGER = (("train.round_steps", 500),)
TRAINED_LONGER = {FULL: (NONE, UNIFORM, DEFAULT), FOURTH: (UNIFORM, DEFAULT)}


def longer() -> Iterator[Arm]:
    """Five times the steps, with and without speech, and then with a quarter of it."""
    for budget, strategies in TRAINED_LONGER.items():
        for seed in SEEDS:
            yield from (strategy.arm(ABLATED, budget, seed, changes=LONGER) for strategy in strategies)


QUARTER = (("train.round_steps", 25),)


def rounds() -> Iterator[Arm]:
    """One big selection against four rounds of a quarter, of as many stable steps in all."""
    for seed in SEEDS:
        yield from (strategy.arm(ABLATED, FULL, seed, 4, QUARTER) for strategy in (DEFAULT, UNIFORM))


CHANGES: tuple[tuple[str, Any], ...] = (
    ("score.estimate", "surrogate"),
    ("score.estimate", "shrunk"),
    ("score.estimate", "plain"),
    ("train.teacher", "cached"),
    ("models.asr", "openai/whisper-tiny.en"),
    ("cluster.k", 6),
    ("probe.per_cluster", 2),
)
# What makes Stage I another student: another teacher or texts turned down, or other probes and so other texts.
BEFORE_ROUNDS = ("train.teacher", "models.asr", "cluster.k", "probe.per_cluster")


def ablated(key: str, value: Any) -> Strategy:
    """The default with one thing changed."""
    kept = tuple((k, v) for k, v in DEFAULT.changes if k != key)
    return Strategy(f"`{key}: {value}`", DEFAULT.selector, (*kept, (key, value)))


# How many of the 24 clusters P_target amounts to is told, whatever D's spread.
HALF, SIXTH = ablated("select.target_ess", 12.0), ablated("select.target_ess", 4.0)
TOLD = (HALF, SIXTH)
TOLD_OF = ((ABLATED, FULL), (ABLATED, FOURTH), *((pool, FULL) for pool in POOLS if pool != ABLATED))

# From little to all: the larger γ is, the more P_target is of the clusters with the highest D.
LEANS = (
    ablated("select.gamma", 1.0),
    ablated("select.gamma", 2.5),
    DEFAULT,
    ablated("select.gamma", 10.0),
    SIXTH,
    UNCERTAINTY,
)


def leaning() -> Iterator[Arm]:
    """How far to lean towards the highest D, at a quarter of the full budget; where least is covered, from the default on."""
    for pool, strategies in ((POOLS[0], LEANS), (POOLS[-1], LEANS[LEANS.index(DEFAULT) : -1])):
        for seed in SEEDS:
            yield from (strategy.arm(pool, FOURTH, seed) for strategy in (UNIFORM, *strategies))


def told() -> Iterator[Arm]:
    """Leans that do not hang on how D is spread, beside the default's, which does."""
    for pool, budget in TOLD_OF:
        for seed in SEEDS:
            yield from (strategy.arm(pool, budget, seed) for strategy in (UNIFORM, DEFAULT, HALF))


def ablations() -> Iterator[Arm]:
    """One thing changed at a time in the default; where Stage I is then another, uniform beside it."""
    for seed in SEEDS:
        for key, value in CHANGES:
            yield ablated(key, value).arm(ABLATED, FOURTH, seed)
            if key in BEFORE_ROUNDS:
                yield UNIFORM.arm(ABLATED, FOURTH, seed, changes=((key, value),))


HEARD = ablated("models.asr", "openai/whisper-tiny.en")
COSTED = (NONE, UNIFORM, DEFAULT, HEARD)
ALONE = 0  # the seed of arms that only their cost is read of


def cost() -> Iterator[Arm]:
    """What it takes: these one after the other, in one process, on a machine that does nothing else."""
    yield from (strategy.arm(ABLATED, FULL, ALONE) for strategy in COSTED)


PARTS = {
    "selection": selection,
    "leaning": leaning,
    "told": told,
    "rounds": rounds,
    "longer": longer,
    "ablations": ablations,
    "cost": cost,
}
