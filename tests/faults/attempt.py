"""A process that runs a configuration and is stopped where the test says, and its log.

Lines of the log: "stage NAME" before a stage, "build NAME" when its build starts, "order PID" and "said TEXT" by the engine,
"shard FILE" when a shard's sidecar gets its name, and "end NAME" with the number of changes that the stage took.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.engine import LOG

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
START = "start"  # of the log's stages: the lock and the binding of the configuration


@dataclass(frozen=True)
class Moment:
    """Of a stage: its n-th change (or its end, if it has not so many), or "built", "before rename", "published".

    A change is whatever Python changes in the run's folder, a text said, or progress told: all that happens is between two.
    """

    stage: str
    when: int | str


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Watch:
    """Counts a stage's changes, and acts at the moment."""

    def __init__(self, root: str, log: str, moment: Moment | None, act: Callable[[], None]) -> None:
        self._root, self._log, self._moment, self._act = root, log, moment, act
        self._fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.stage, self.changes = "", 0

    def note(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def enter(self, stage: str) -> None:
        self.stage, self.changes = stage, 0
        self.note("stage", stage)

    def leave(self) -> None:
        self.note("end", self.stage, self.changes)
        left_over = self._moment is not None and isinstance(self._moment.when, int)
        self.at("published", left_over)

    def at(self, when: int | str, or_now: bool = False) -> None:
        if self._moment and self._moment.stage == self.stage and (or_now or self._moment.when == when):
            self._moment = None
            self._act()

    def change(self, *_: Any) -> None:
        self.changes += 1
        self.at(self.changes)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """A hook of `sys.addaudithook`: called before what it tells of."""
        if event == "open":
            path, mode, flags = args
            writes = bool(flags & WRITING) if isinstance(flags, int) else any(c in (mode or "") for c in "wax+")
            if writes and str(path).startswith((self._root, self._log)):
                self.change()
        elif event in CHANGES and (str(args[0]).startswith(self._root) or not str(args[0]).startswith("/")):
            self.change()
            target = str(args[1]) if event == "os.rename" else ""
            if target == f"{self._root}/{self.stage}":
                self.at("before rename")
            if "/_shards/" in target:
                self.note("shard", target)


def live(
    config: str,
    changes: dict[str, Any],
    log: str,
    moment: Moment | None = None,
    act: Callable[[], None] = die,
) -> None:
    """Execute the run's stages, as `salad run` does, and act at a moment. changes: of the configuration."""
    import torch

    gc.freeze()  # what is imported: most of a tiny run's work would be to look for garbage in it
    torch.set_num_threads(1)
    from salad.config import load_config
    from salad.pipeline.models import quiet_libraries
    from salad.pipeline.stages import Run

    quiet_libraries()
    os.environ[LOG] = log
    run = Run(load_config(config, changes))
    watch = Watch(str(run.config.run_dir), log, moment, act)
    sys.addaudithook(watch.audit)
    watch.enter(START)
    with run.store.lock():
        run.store.bind(run.config)
        watch.leave()
        for stage in run.stages:
            watch.enter(stage.name)
            run.execute(replace(stage, build=_noted(stage.build, watch)), watch.change)
            watch.leave()


def _noted(build: Callable[..., dict[str, Any]], watch: Watch) -> Callable[..., dict[str, Any]]:
    def noted(out: Path, progress: Callable[..., None]) -> dict[str, Any]:
        watch.note("build", watch.stage)
        meta = build(out, progress)
        watch.at("built")
        return meta

    return noted


def replace_artefact(folder: str, log: str, change: int) -> None:
    """Publish `key-2` in the place of what is there, and die at a change."""
    from salad import artifact

    path = Path(folder)
    watch = Watch(str(path.parent), log, Moment(path.name, change), die)
    watch.enter(path.name)
    sys.addaudithook(watch.audit)
    artifact.publish(path, artifact.Manifest(path.name, "key-2", {}, {}, "1", 0, 0.0), write_two_files)


def write_two_files(out: Path) -> dict[str, Any]:
    """An artefact's, one of them in a folder, and a scratch file."""
    (out / "data").mkdir(exist_ok=True)
    for name in ("data/one.txt", "two.txt", "_scratch.txt"):
        (out / name).write_text(f"new {name}")
    return {"files": 2}


def command(arguments: list[str], output: str, environment: dict[str, str], barrier: Any = None) -> None:
    """`salad ARGUMENTS` in this process, its output in OUTPUT.out and OUTPUT.err."""
    import torch

    torch.set_num_threads(1)
    from salad import cli

    os.environ.update(environment)
    for fd, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    sys.argv = ["salad", *arguments]
    if barrier is not None:
        barrier.wait()
    cli.main()


PRELOADED = [
    "salad.cli",
    "salad.console",
    "salad.pipeline.stages",
    "salad.pipeline.distil",
    "salad.pipeline.metrics",
    "salad.pipeline.cluster",
    "salad.pipeline.embed",
    "salad.pipeline.natural",
    "salad.pipeline.probe",
    "salad.pipeline.score",
    "salad.pipeline.select",
    "salad.selectors.importance_diverse",
    "salad.pipeline.summary",
    "salad.pipeline.report",
    "salad.trainer.encoders.whisper",
    "salad.trainer.train",
    "salad.whisper",
    "sentence_transformers",
    "faiss",
    "datasets",
    "plotly.offline",
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
    "tests.faults.attempt",
]
