"""`salad eval`: a run's students on benchmarks by ear, beside D, M and F with their intervals; what is missing is made.

Everything is an artefact of the run, so a second call computes nothing: benchmarks below `benchmarks/`, students below
`eval/`, and the last call's tables as `eval/eval.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.errors import SaladError
from salad.pipeline.benchmarks import tables

if TYPE_CHECKING:
    from salad.pipeline.benchmarks import Wanted
    from salad.pipeline.stages import Run, Stage

USUAL = "continuation"  # where neither the command nor the run names a benchmark
MEASURES = {"D": "divergence", "M": "misalignment", "F": "forgetting"}


@dataclass(frozen=True)
class Candidate:
    """A student to be measured. folder: its checkpoint; None: untrained. trained: the artefact that it is of, if any."""

    label: str
    name: str  # of the artefact below eval/
    folder: Path | None
    trained: str | None = None


def candidates(run: Run, checkpoints: Sequence[Path] = ()) -> list[Candidate]:
    """The named checkpoints, or the untrained student, Stage I's and the last round's, as far as the run has them."""
    if checkpoints:
        return [_named(folder) for folder in checkpoints]
    found = [Candidate("untrained", "untrained", None)]
    rounds = [f"round-{r:03d}" for r in range(run.config.rounds)]
    trained = [stage for stage in ("stage-one", *rounds) if run.store.published(f"{stage}/checkpoint")]
    for stage in dict.fromkeys([*trained[:1], *trained[-1:]]):
        name = f"{stage}/checkpoint"
        if run.store.has(name):
            found.append(Candidate(stage, stage, run.store.path(name) / "final", name))
    return found


def _named(folder: Path) -> Candidate:
    folder = folder / "final" if (folder / "final").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise SaladError(f"{folder} is no checkpoint", "name a folder such as runs/demo/round-000/checkpoint/final")
    place = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return Candidate(str(folder), f"checkpoint-{place}", folder)


def evaluate(
    run: Run, names: Sequence[str], checkpoints: Sequence[Path] = (), items: int | None = None
) -> tuple[list[Wanted], list[Stage], list[Candidate]]:
    """What is to be done: the benchmarks, every stage that a table needs, and the students."""
    from salad.pipeline import benchmarks
    from salad.pipeline.models import quiet_libraries

    quiet_libraries()
    wanted = benchmarks.wanted(run, names or run.config.evaluate.benchmarks or [USUAL], items)
    students = candidates(run, checkpoints)
    return wanted, [*benchmarks.stages(run, wanted), *(_stage(run, wanted, s) for s in students)], students


def _stage(run: Run, wanted: Sequence[Wanted], student: Candidate) -> Stage:
    from salad.artifact import checksum
    from salad.pipeline import metrics
    from salad.pipeline.stages import Stage

    c, at = run.config, run.store.path

    def build(out: Path, progress: Any) -> dict[str, Any]:
        benches = [one.of(run) for one in wanted]
        given = (student.folder, at("heldout"), at("prepared/heldout"))
        return metrics.build_metrics(out, c, run.models, *given, "speech", progress, benches)

    depends = {
        "models": c.models.model_dump(mode="json"),
        "student": c.student.model_dump(mode="json"),
        "dtype": c.train.dtype,
        "bootstrap": c.evaluate.bootstrap,
        "benchmarks": [one.name for one in wanted],
    }
    if student.folder and not student.trained:
        depends["checkpoint"] = {p.name: checksum(p) for p in sorted(student.folder.iterdir()) if p.is_file()}
    inputs = ("heldout", "prepared/heldout", *([student.trained] if student.trained else []))
    inputs += tuple(name for one in wanted for name in one.artefacts)
    return Stage(f"eval/{student.name}", build, depends, inputs, c.probe.heldout, "texts", network=True)


def write(run: Run, wanted: Sequence[Wanted], students: Sequence[Candidate]) -> dict[str, Any]:
    """The figures of all students, also to RUN/eval/eval.json: a reader sees the whole file or the one before."""
    found = {
        "run": run.config.name,
        "items": {one.benchmark.name: one.items for one in wanted},
        "students": {s.label: json.loads((run.store.path(f"eval/{s.name}") / "metrics.json").read_text()) for s in students},
    }
    run.store.write_json("eval/eval.json", found)
    return found


def divergence_rows(found: dict[str, Any]) -> list[list[str]]:
    """Cells of D, M and F by domain, a row a student and domain."""
    rows = []
    for label, m in found["students"].items():
        for domain, of_domain in {"all": m["all"], **m["domains"]}.items():
            cells = [f"{of_domain[k]:.3f} {tables.interval(of_domain, k)}" for k in MEASURES]
            rows.append([label, domain, *cells, str(of_domain["texts"])])
    return rows


def show(found: dict[str, Any]) -> None:
    """Print a table a benchmark, and one of D, M and F."""
    from salad.console import print_table

    for name in found["items"]:
        print_table(tables.title(name, found["students"]), tables.COLUMNS, tables.rows(name, found["students"]))
    columns = ["student", "domain", *(f"{k} ({what})" for k, what in MEASURES.items()), "texts"]
    print_table("Held-out texts, nats, with 95 % intervals", columns, divergence_rows(found))


def show_known() -> None:
    """Print every benchmark that has a name: where it is from, what it measures, its licence."""
    from salad.console import print_table
    from salad.pipeline.benchmarks import known, load_benchmark

    benchmarks = [load_benchmark(name) for name in known()]
    rows = [[b.name, f"{b.dataset} {b.subset or ''}".strip(), b.measures, b.licence] for b in benchmarks]
    print_table(
        "Benchmarks; your own: the path of a YAML file (docs/evaluation.md)", ["name", "source", "measures", "licence"], rows
    )
