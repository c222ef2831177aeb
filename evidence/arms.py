"""One Stage I student, and what becomes of it: an arm is a strategy, a budget and a seed, trained on and measured.

Every arm of a pool starts from the same Stage I (`Run.adopt`), takes as many steps, and is measured on the same held-out
texts of every domain, in a voice that no training hears. An arm is a run like any other: `salad report`, `salad inspect` and
`salad compare` open it.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evidence.texts import DOMAINS, evaluation_sources, pool_sources, split_texts
from salad.config import load_config
from salad.console import walk
from salad.errors import RunInUse
from salad.pipeline.benchmarks import wanted
from salad.pipeline.stages import Run

CONFIG = Path(__file__).with_name("config.yaml")
HELDOUT_VOICE = {"engine": "piper", "voice": "en_US-joe-medium"}  # a man; who teaches is hibari, a woman


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
        heldout = self.texts / "heldout.parquet"
        if not heldout.exists():
            pq.write_table(pq.read_table(run.store.path("heldout") / "data", columns=["text"]), heldout)
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
        """Stage I of a pool, and the first round's scores. What the changes leave as it is comes from the base without them."""
        arm = Arm(covered, "uniform", 1, 0, 1, changes)
        run = self._run_of(arm, "-".join([f"pool{covered}", "base", *arm.changed]))
        build(run, ["stage-one/checkpoint", "round-000/scores"], self.base(covered) if changes else None)
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


def measure_student(bench: Bench, run: Run, final: Path, whole: bool = False) -> dict[str, Any]:
    """D, and M and F where the LM trained, text by text on the held-out texts.

    whole: also D in the voice that teaches (`D_taught`), and which questions of `continuation` it gets right.
    """
    from salad.pipeline.benchmarks.score import ask_student
    from salad.trainer.evaluate import measure
    from salad.trainer.student import load_student

    evaluation = bench.evaluation
    student = load_student(final, run.models.teacher)
    examples = heldout(evaluation)
    found = measure(student, run.models.teacher, list(examples.values()))
    row: dict[str, Any] = {"D": rounded(found.divergence)}
    if not student.lm_is_frozen:
        row |= {"M": rounded(found.misalignment), "F": rounded(found.forgetting)}
    if whole:
        taught = heldout(bench.evaluation_taught)
        d = dict(zip(taught, rounded(measure(student, run.models.teacher, list(taught.values())).divergence), strict=True))
        row["D_taught"] = [d.get(text) for text in examples]
        (one,) = wanted(evaluation)
        row["continuation"] = right(ask_student(student, one.of(evaluation), "speech", evaluation.config, run.models), "p_speech")
    return row


def heldout(run: Run) -> dict[str, Any]:
    """The held-out texts of a run as training takes them, by id."""
    from salad.trainer.data import load_examples

    return {e.id: e for e in load_examples(run.store.path("prepared/heldout"))}


def right(answers: pa.Table, condition: str) -> list[int]:
    """1 for each question of `continuation` that was answered right, 0 for the others."""
    return [int(ok) for ok in answers.filter(pc.equal(answers["condition"], condition))["correct"].to_pylist()]


def rounded(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]


def evaluation_texts(bench: Bench) -> dict[str, Any]:
    """Ids and domains of what every row's lists go by, and which questions Q on text gets right."""
    from salad.pipeline import shards

    run = bench.evaluation
    facts = shards.read_columns(run.store.path("heldout"), ["id", "domain"])
    domain = dict(zip(facts["id"].to_pylist(), facts["domain"].to_pylist(), strict=True))
    ids = list(heldout(run))
    (one,) = wanted(run)
    return {
        "ids": ids,
        "domain": [domain[i] for i in ids],
        "q_text": right(pq.read_table(one.of(run).toplines / "answers.parquet"), "q_text"),
    }


def seconds(run: Run, arm: Arm) -> dict[str, float]:
    """Wall time of what the arm itself needed, by kind of work, from the manifests."""
    kinds = {"scores": 0.0, "selection": 0.0, "speech": 0.0, "features": 0.0, "training": 0.0}
    for name in own_stages(arm):
        made = run.store.manifest(name).seconds
        kind = "features" if name.startswith("prepared") else name.rpartition("/")[2].replace("checkpoint", "training")
        kinds[kind] += made
    return {kind: round(value, 1) for kind, value in kinds.items()}


def own_stages(arm: Arm) -> list[str]:
    if arm.selector is None:
        return arm.checkpoints
    per_round = ("round-{r:03d}/scores", "round-{r:03d}/selection", "round-{r:03d}/speech", "prepared/round-{r:03d}")
    return [name.format(r=r) for r in range(arm.rounds) for name in (*per_round, "round-{r:03d}/checkpoint")]


def chosen(run: Run, arm: Arm) -> dict[str, Any]:
    """What was spoken: seconds, texts, and texts by domain."""
    from salad.pipeline import shards

    found: dict[str, Any] = {"seconds": 0.0, "texts": 0, "by_domain": {}}
    for r in range(arm.rounds if arm.selector else 0):
        rows = shards.read_columns(run.store.path(f"round-{r:03d}/speech"), ["seconds", "domain"])
        found["seconds"] += round(float(np.sum(rows["seconds"].to_numpy())), 1)
        found["texts"] += rows.num_rows
        for domain in rows["domain"].to_pylist():
            found["by_domain"][domain] = found["by_domain"].get(domain, 0) + 1
    return found


def machine() -> dict[str, str]:
    """What computed it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    import torch

    return {"cpu": model, "threads": str(torch.get_num_threads()), "torch": version("torch"), "salad": version("salad-speech")}


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def stage_one_digest(run: Run) -> str:
    """Of the weights that all arms of a pool start from: rows with another one are not of the same experiment."""
    files = run.store.manifest("stage-one/checkpoint").files
    return digest("".join(str(files[name]["checksum"]) for name in sorted(files) if name.startswith("stable/")).encode())
