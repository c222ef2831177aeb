"""Run a configuration in a process that is killed where the test says (SIGKILL: nothing gets to clean up)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


def run_and_die(config: str, log: str, stage: str | None, moment: str) -> None:
    """Execute the run's stages; die before, inside or after publishing `stage`. None: live to the end.

    Every build that starts is written to `log`, so that a repeated stage shows.
    """
    import torch

    torch.set_num_threads(1)
    from salad import artifact
    from salad.config import load_config
    from salad.pipeline.stages import Run

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    replace_folder = artifact.replace_folder
    publish = artifact.publish

    def logged_publish(folder: Path, manifest: artifact.Manifest, build: Any) -> artifact.Manifest:
        def counted(out: Path) -> dict[str, Any]:
            with open(log, "a", encoding="utf-8") as f:
                f.write(manifest.stage + "\n")
            meta: dict[str, Any] = build(out)
            if manifest.stage == stage and moment == "built":
                die()
            return meta

        def last_step(new: Path, final: Path) -> None:
            if manifest.stage == stage and moment == "before rename":
                die()
            replace_folder(new, final)

        artifact.replace_folder = last_step
        published = publish(folder, manifest, counted)
        if manifest.stage == stage and moment == "published":
            die()
        return published

    artifact.publish = logged_publish
    run = Run(load_config(config))
    with run.store.lock():
        run.store.bind(run.config)
        for s in run.stages:
            run.execute(s)


PRELOADED = [
    "salad.pipeline.stages",
    "salad.pipeline.distil",
    "salad.pipeline.metrics",
    "salad.pipeline.cluster",
    "salad.pipeline.embed",
    "salad.pipeline.select",
    "salad.pipeline.report",
    "salad.trainer.train",
    "sentence_transformers",
    "faiss",
    "datasets",
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.llama.modeling_llama",
    "tests.killable",
]
