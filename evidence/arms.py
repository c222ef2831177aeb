"""One Stage I student, and what becomes of it: an arm is a strategy, a budget and a seed, trained on and measured.

Every arm of a pool starts from the same Stage I (`Run.adopt`), takes as many steps, and is measured on the same held-out
texts of every domain, in a voice that no training hears. An arm is a run like any other: `salad report`, `salad inspect` and
`salad compare` open it.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from evidence.texts import DOMAINS, evaluation_sources, pool_sources, split_texts, write_whole
from salad.config import load_config
from salad.console import walk
from salad.errors import RunInUse
from salad.pipeline.benchmarks import wanted
from salad.pipeline.stages import Run

CONFIG = Path(__file__).with_name("config.yaml")
HELDOUT_VOICE = {"engine": "piper", "voice": "en_US-joe-medium"}  # a man; who teaches is hibari, a woman
WAIT = 20  # seconds, for another process to finish what this one needs
Made = TypeVar("Made")


@dataclass(frozen=True)
class Sizes:
    """How large the texts are that everything is made of."""

    passages: int = 12_000  # of a pool
    heard: int = 1_100  # passages that Stage I's speech takes, on top of the pool's
    each: int = 40  # held-out texts of every domain
    items: int = 100  # questions of `continuation`, made of them


@dataclass(frozen=True)
class Arm:
    """What goes on from a Stage I student.

    covered: per cent of the pool's texts that are of the domain Stage I heard; selector: None for Stage I's data alone;
    budget: seconds of speech of all rounds together; changes: dotted keys of the configuration, beyond that.
    """

    covered: int
    selector: str | None
    budget: int
    seed: int
    rounds: int = 1
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The run's folder."""
        rounds = [f"{self.rounds}rounds"] if self.rounds > 1 else []
        strategy = self.selector or "none"
        return "-".join([f"pool{self.covered}", strategy, f"{self.budget}s", f"seed{self.seed}", *rounds, *self.changed])

    @property
    def changed(self) -> list[str]:
        """The changes, as parts of a name."""
        return [f"{key.rpartition('.')[2]}{str(value).rpartition('/')[2]}" for key, value in self.changes]

    @property
    def checkpoints(self) -> list[str]:
        """Its students, in the order they are trained."""
        return ["control/checkpoint"] if self.selector is None else [f"round-{r:03d}/checkpoint" for r in range(self.rounds)]


class Bench:
    """The folder in which everything is made: the texts, the speech that every arm is measured on, and the arms' runs."""

    def __init__(
        self, folder: Path, config: Path = CONFIG, sizes: Sizes = Sizes(), voice: dict[str, str] | None = HELDOUT_VOICE
    ) -> None:
        self.folder, self.config, self.sizes, self.voice = folder, config, sizes, voice

    @cached_property
    def texts(self) -> Path:
        return split_texts(self.folder / "texts")

    @cached_property
    def evaluation(self) -> Run:
        """A run of no pool's texts, as far as its held-out ones are spoken, in the held-out voice, and prepared."""
        run = self._measuring("evaluation", {"speech.heldout_voice": self.voice, "evaluate.benchmarks": ["continuation"]})
        asked = [name for one in wanted(run) for name in one.artefacts]
        build(run, ["prepared/heldout", *asked])
        heldout = self.texts / "heldout.parquet"  # nothing near one of these is chosen
        if not heldout.exists():
            write_whole(pq.read_table(run.store.path("heldout") / "data", columns=["text"]), heldout)
        return run

    @cached_property
    def evaluation_taught(self) -> Run:
        """The same texts in the voice that teaches."""
        run = self._measuring("evaluation-taught", {})
        build(run, ["prepared/heldout"])
        return run

    def _measuring(self, name: str, changes: dict[str, Any]) -> Run:
        sizes = {"probe.heldout": self.sizes.each * len(DOMAINS), "evaluate.items": self.sizes.items, "cluster.k": 1}
        return self._open({"name": name, "pool.sources": evaluation_sources(self.texts, 4 * self.sizes.each), **sizes, **changes})

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """One process at a time for what has this name; RunInUse for a second one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunInUse(f"another process is at {name}") from None
            yield

    def base(self, covered: int, changes: tuple[tuple[str, Any], ...] = ()) -> Run:
        """Stage I of a pool, and the first round's scores; what its first change leaves alone, from the base without it."""
        arm = Arm(covered, "uniform", 1, 0, 1, changes)
        run = self._run_of(arm, "-".join([f"pool{covered}", "base", *arm.changed]))
        build(run, ["stage-one/checkpoint", "round-000/scores"], self.base(covered, changes[1:]) if changes else None)
        return run

    def arm(self, arm: Arm) -> Run:
        """The arm's run, with all its students trained."""
        run = self._run_of(arm, arm.name)
        build(run, arm.checkpoints, self.base(arm.covered, arm.changes))
        return run

    def _run_of(self, arm: Arm, name: str) -> Run:
        assert self.evaluation
        return self._open(
            {
                "name": name,
                "rounds": arm.rounds,
                "control": arm.selector is None,
                "round_seed": arm.seed,
                "pool.sources": pool_sources(self.texts, arm.covered, self.sizes.passages, self.sizes.heard),
                "select.evaluation": [{"dataset": str(self.texts / "heldout.parquet")}],
                "select.selector": arm.selector or "uniform",
                "select.budget": arm.budget / arm.rounds,
                **dict(arm.changes),
            }
        )

    def _open(self, changes: dict[str, Any]) -> Run:
        return Run(load_config(self.config, {"runs_dir": str(self.folder / "runs"), **changes}))


def build(run: Run, names: Sequence[str], donor: Run | None = None) -> None:
    """The stages of these names and all that they need, what fits of the donor's taken over. RunInUse as in `Store.lock`."""
    needed = set(names)
    for stage in reversed(run.stages):
        if stage.name in needed:
            needed.update(stage.inputs)
    stages = [stage for stage in run.stages if stage.name in needed]
    with run.store.lock():
        run.store.bind(run.config)
        if donor:
            run.adopt(donor.store, stages)
        try:
            walk(run, stages)
        finally:
            run.models.close()


def when_free(make: Callable[[], Made]) -> Made:
    """What `make` gives, once no other process is making it."""
    told = False
    while True:
        try:
            return make()
        except RunInUse as e:
            if not told:
                print(f"{e}; waiting for it", flush=True)
            told = True
            time.sleep(WAIT)
