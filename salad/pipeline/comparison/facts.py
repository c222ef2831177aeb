"""What a comparison knows of one run: its students as far as they are measured, and what lies behind each.

Only manifests, held-out tables and selections are read: of a run elsewhere no sound and no checkpoint is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from salad.errors import SaladError, told
from salad.pipeline import summary

if TYPE_CHECKING:
    from salad.artifact import Manifest
    from salad.config import Config
    from salad.pipeline.stages import Run
    from salad.pipeline.store import Store

MEASURES = {"D": "divergence", "M": "misalignment", "F": "forgetting"}


@dataclass(frozen=True)
class Student:
    """A measured student. rounds, seconds: of synthetic speech behind it; key: of its metrics."""

    label: str
    rounds: int
    seconds: float
    key: str
    code: str
    metrics: dict[str, Any]  # metrics.json
    gaps: dict[str, dict[str, Any]]  # benchmark -> its `gap`, with `gap_low` and `gap_high`
    ids: list[str]  # of the held-out texts
    domains: np.ndarray  # (n,) of them
    values: dict[str, np.ndarray]  # (n,) nats, by measure

    def interval(self, measure: str) -> tuple[float, float] | None:
        """The 95 % interval of a measure's mean over all held-out texts."""
        found = self.metrics["all"].get(f"{measure}_low"), self.metrics["all"].get(f"{measure}_high")
        return None if None in found else (float(found[0]), float(found[1]))


@dataclass(frozen=True)
class Side:
    """A run as one side of a comparison. students: Stage I's, then one a round, as far as each is measured."""

    label: str
    run: Run
    students: list[Student]
    control: Student | None
    missing: list[str] = field(default_factory=list)  # measurements that the run was to have and has not yet

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def store(self) -> Store:
        return self.run.store

    @property
    def last(self) -> Student | None:
        return self.students[-1] if self.students else None

    @property
    def rounds(self) -> int:
        """Rounds that are measured."""
        return self.students[-1].rounds if self.students else 0

    def manifest(self, name: str) -> Manifest | None:
        return self.store.published(name)


def side_of(run: Run, label: str) -> Side:
    """Everything that is measured of a run."""
    students: list[Student] = []
    missing: list[str] = []
    names = ["stage-one", *(f"round-{r:03d}" for r in range(run.config.rounds))]
    seconds = 0.0
    for rounds, name in enumerate(names):
        speech = run.store.published(f"{name}/speech") if rounds else None
        seconds += float(speech.meta["seconds"]) if speech else 0.0
        label_ = f"after round {rounds - 1}" if rounds else "after Stage I"
        found = None if missing else _student(run, f"{name}/metrics", label_, rounds, seconds)
        if found is None:
            missing.append(f"{name}/metrics")
        else:
            students.append(found)
    control = _control(run)
    if run.config.control and control is None:
        missing.append("control/metrics")
    return Side(label, run, students, control, missing)


def _control(run: Run) -> Student | None:
    """Stage I's data alone for as many steps as the rounds; None where there is none, or only one of fewer rounds."""
    return _student(run, "control/metrics", "control", 0, 0.0) if summary.has_control(run) else None


def _student(run: Run, name: str, label: str, rounds: int, seconds: float) -> Student | None:
    import pyarrow.parquet as pq

    manifest = run.store.published(name)
    if manifest is None:
        return None
    run.store.fetch(name)
    folder = run.store.path(name)
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        table = pq.read_table(folder / "heldout.parquet")
        return Student(
            label=label,
            rounds=rounds,
            seconds=seconds,
            key=manifest.key,
            code=manifest.code_version,
            metrics=metrics,
            gaps=_gaps(run, name, metrics),
            ids=table["id"].to_pylist(),
            domains=np.array([d or "unknown" for d in table["domain"].to_pylist()], dtype=object),
            values={measure: table[column].to_numpy().astype(np.float64) for measure, column in MEASURES.items()},
        )
    except (OSError, ValueError, KeyError) as e:  # Arrow's errors are among them
        raise SaladError(f"run {run.store}: '{name}' cannot be read ({told(e)})", f"look with `salad verify {run.store}`") from e


def _gaps(run: Run, name: str, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """As the run measured them, else as `salad eval` did, whose artefacts lie below eval/ under the student's name."""
    found: dict[str, dict[str, Any]] = dict(metrics.get("benchmarks", {}))
    later = f"eval/{name.removesuffix('/metrics')}"
    if run.store.published(later):
        run.store.fetch(later)
        read = json.loads((run.store.path(later) / "metrics.json").read_text(encoding="utf-8"))
        found = read.get("benchmarks", {}) | found
    return found


def labels(places: Sequence[str]) -> list[str]:
    """A name for each run, as short as tells them apart: the last part of its place, or more of them."""
    parts = [place.rstrip("/").split("/") for place in places]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(places)
