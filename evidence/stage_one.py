"""Stage I: D, M and F against steps, by distillation and by next-token loss, on speech of one narrow domain.

The paper's finding is that the next-token loss (α = 0) makes misalignment grow outside what is heard, while distillation
(α = 1) saturates. The whole LM trains here, as it does there, so that it can forget. A curve is a chain of stages: each goes on
from the state before the last decay, and is measured after a decay of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from evidence.arms import Bench, when_free
from evidence.measures import machine, measure_student, today
from evidence.results import Results
from salad import artifact
from salad.config import Config
from salad.console import console, stage_progress
from salad.errors import RunInUse
from salad.pipeline.models import Models
from salad.pipeline.stages import Run, Stage

ALPHAS = (1.0, 0.5, 0.0)
STEPS = (20, 40, 80, 160, 320)  # stable steps at which a curve is measured
DECAY = 10
COVERED = 80  # whose base has spoken the natural speech
SEEDS = (1, 2, 3)


def measure_curves(bench: Bench, results: Results) -> None:
    """A row a point: of every α, seed and number of steps."""
    base = when_free(lambda: bench.base(COVERED))
    for seed in SEEDS:
        for alpha in ALPHAS:
            name = f"alpha{alpha:g}-seed{seed}"
            try:
                with bench.at_work(f"stage-one-{name}"):
                    measure_curve(bench, results, base, alpha, seed, bench.folder / "stage-one" / name)
            except RunInUse as e:
                console.print(f"{e}: left to it", markup=False)


def measure_curve(bench: Bench, results: Results, base: Run, alpha: float, seed: int, folder: Path) -> None:
    """The points that are missing. Of the students only the last is kept: one takes a gigabyte."""
    there = {row["steps"] for row in results.rows("stage-one") if (row["alpha"], row["seed"]) == (alpha, seed)}
    if there >= set(STEPS):
        return
    config = configuration(base.config, alpha, seed)
    models = Models(config)
    kept = [steps for steps in STEPS if steps in there and artifact.read_manifest(folder / f"{steps:04d}")]
    first = STEPS.index(kept[-1]) + 1 if kept else 0
    before = folder / f"{kept[-1]:04d}" if kept else None
    for done, steps in list(zip((0, *STEPS), STEPS, strict=False))[first:]:
        out = train(config, models, base, before, steps - done, folder / f"{steps:04d}")
        if steps not in there:
            run = Run(config, models, base.store)
            row: dict[str, Any] = {"alpha": alpha, "seed": seed, "steps": steps, **measure_student(bench, run, out / "final")}
            results.add("stage-one", row | {"machine": machine(), "date": today()})
        if before:
            shutil.rmtree(before)
        before = out


def configuration(config: Config, alpha: float, seed: int) -> Config:
    """The base's, with an LM that trains and another loss."""
    train = config.train.model_copy(update={"alpha": alpha, "decay_steps": DECAY})
    student = config.student.model_copy(update={"lm": "full"})
    return config.model_copy(update={"train": train, "student": student, "seed": seed})


def train(config: Config, models: Models, base: Run, before: Path | None, steps: int, folder: Path) -> Path:
    """So many stable steps and a decay, from the state before the last decay (None: from the teacher), published."""
    from salad.pipeline.distil import build_checkpoint

    inputs = {"natural": base.store.manifest("prepared/natural").key, "before": before.name if before else ""}
    depends = {"train": config.train.model_dump(mode="json"), "student": config.student.model_dump(mode="json"), "steps": steps}
    key = artifact.make_key(stage=folder.name, config=depends, inputs=inputs, code="1", seed=config.seed)
    found = artifact.read_manifest(folder)
    if found is None or found.key != key:
        folder.parent.mkdir(parents=True, exist_ok=True)
        blank = artifact.Manifest(folder.name, key, depends, inputs, "1", config.seed, 0.0)
        sources = {"natural": [base.store.path("prepared/natural")]}
        stage = Stage(f"{folder.parent.name}/{folder.name}", lambda out, progress: {}, {}, total=steps + DECAY, unit="steps")
        with stage_progress(stage) as shown:
            start = before / "stable" if before else None
            made = artifact.publish(
                folder, blank, lambda out: build_checkpoint(out, config, models, start, sources, steps, folder.name, shown)
            )
        console.print(f"{stage.name}: {made.seconds:.0f} s", markup=False)
    return folder
