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

if TYPE_CHECKING:
    from salad.pipeline.benchmarks import Wanted
    from salad.pipeline.stages import Run, Stage

CONDITIONS = {"q_text": "Q on text", "cascade": "cascade: ASR, then Q on text", "p_text": "P on text", "p_speech": "P on speech"}
COLUMNS = ["condition", "accuracy", "95 % interval", "gap", "95 % interval", "unnormalised", "questions"]
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
    rounds = sorted(p.parent.parent.name for p in run.store.root.glob("round-*/checkpoint/final"))
    for stage in ["stage-one", *rounds[-1:]]:
        name = f"{stage}/checkpoint"
        if (run.store.path(name) / "final").is_dir():
            run.store.manifest(name)
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
    return Stage(f"eval/{student.name}", build, depends, inputs, total=c.probe.heldout, unit="texts")


def write(run: Run, wanted: Sequence[Wanted], students: Sequence[Candidate]) -> dict[str, Any]:
    """The figures of all students, also to RUN/eval/eval.json: a reader sees the whole file or the one before."""
    from salad.artifact import sync_json

    found = {
        "run": run.config.name,
        "items": {one.benchmark.name: one.items for one in wanted},
        "students": {s.label: json.loads((run.store.path(f"eval/{s.name}") / "metrics.json").read_text()) for s in students},
    }
    sync_json(run.store.path("eval/eval.json"), found)
    return found


def benchmark_rows(found: dict[str, Any], name: str) -> list[list[str]]:
    """Cells of a benchmark's table: the toplines, then each student."""
    students = {label: m["benchmarks"][name] for label, m in found["students"].items()}
    first = next(iter(students.values()))
    rows = [_cells(CONDITIONS[c], first, c) for c in ("q_text", "cascade") if c in first["conditions"]]
    for label, of_student in students.items():
        if of_student["conditions"]["p_text"] != first["conditions"]["q_text"]:
            rows.append(_cells(f"{CONDITIONS['p_text']}, {label}", of_student, "p_text"))
        rows.append(_cells(f"{CONDITIONS['p_speech']}, {label}", of_student, "p_speech"))
    return rows


def _cells(label: str, of_student: dict[str, Any], condition: str) -> list[str]:
    f = of_student["conditions"][condition]
    gap = [f"{of_student['gap']:+.3f}", _interval(of_student, "gap")] if condition == "p_speech" else ["", ""]
    return [
        label,
        f"{f['accuracy']:.3f}",
        _interval(f, "accuracy"),
        *gap,
        f"{f['accuracy_raw']:.3f}",
        str(of_student["questions"]),
    ]


def divergence_rows(found: dict[str, Any]) -> list[list[str]]:
    """Cells of D, M and F by domain, a row a student and domain."""
    rows = []
    for label, m in found["students"].items():
        for domain, of_domain in {"all": m["all"], **m["domains"]}.items():
            cells = [f"{of_domain[k]:.3f} {_interval(of_domain, k)}" for k in MEASURES]
            rows.append([label, domain, *cells, str(of_domain["texts"])])
    return rows


def _interval(values: dict[str, Any], key: str) -> str:
    low, high = values[f"{key}_low"], values[f"{key}_high"]
    return "" if low is None else f"[{low:.3f}, {high:.3f}]"


def show(found: dict[str, Any]) -> None:
    """Print a table a benchmark, and one of D, M and F."""
    for name in found["items"]:
        of_all = [m["benchmarks"][name] for m in found["students"].values()]
        out = f", {of_all[0]['left_out']} left out: no sound" if of_all[0]["left_out"] else ""
        ties = sum(c["ties"] for m in of_all for c in m["conditions"].values())
        tied = f", {ties} ties" if ties else ""
        _print(f"{name}: accuracy (chance {of_all[0]['chance']:.3f}{out}{tied}); gap: Q on text less P on speech", COLUMNS,
               benchmark_rows(found, name))  # fmt: skip
    columns = ["student", "domain", *(f"{k} ({what})" for k, what in MEASURES.items()), "texts"]
    _print("Held-out texts, nats, with 95 % intervals", columns, divergence_rows(found))


def show_known() -> None:
    """Print every benchmark that has a name: where it is from, what it measures, its licence."""
    from salad.pipeline.benchmarks import known, load_benchmark

    benchmarks = [load_benchmark(name) for name in known()]
    rows = [[b.name, f"{b.dataset} {b.subset or ''}".strip(), b.measures, b.licence] for b in benchmarks]
    _print("Benchmarks; your own: the path of a YAML file (docs/evaluation.md)", ["name", "source", "measures", "licence"], rows)


def _print(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from salad.console import console

    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        left = i == 0 or not rows or not rows[0][i][:1].isdigit()
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    (console if console.is_terminal else Console(width=150, highlight=False)).print(table)  # a file has no width of its own
