"""The figures of a run, read from its artefacts: the same rows for the terminal, the report and Prefect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from salad.pipeline.benchmarks import tables

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SPEECH_COLUMNS = ["round", "asked s", "spent s", "texts", "rejected", "CER", "1/Σp²", "P_target ±"]
HELDOUT_COLUMNS = ["student", "steps", "D", "± SE", "M", "F"]


def published(run: Run, name: str) -> bool:
    """Whether a stage's artefact is there to be read."""
    return run.store.has(name)


def metrics(run: Run, name: str) -> dict[str, Any]:
    """metrics.json of a published stage: "all", and "domains" by name."""
    found: dict[str, Any] = json.loads((_at(run, name) / "metrics.json").read_text(encoding="utf-8"))
    return found


def students(run: Run) -> list[tuple[str, str, int]]:
    """(label, metrics artefact, optimiser steps behind it) of every student that was measured."""
    rounds = [f"round-{r:03d}" for r in range(run.config.rounds)]
    before = [("no speech at all", "before/no-speech", 0), ("before Stage I", "before/untrained", 0)]
    chains = [("after Stage I", ["stage-one"])]
    chains += [(f"after round {r}", ["stage-one", *rounds[: r + 1]]) for r in range(len(rounds))]
    if has_control(run):
        chains.append(("Stage I data only", ["stage-one", "control"]))
    trained = [(label, f"{c[-1]}/metrics", _steps(run, c)) for label, c in chains if published(run, f"{c[-1]}/metrics")]
    return [*(row for row in before if published(run, row[1])), *trained]


def has_control(run: Run) -> bool:
    """Whether the control is trained; one of fewer rounds than the run has by now is not its yardstick."""
    checkpoint = run.store.published("control/checkpoint")
    return checkpoint is not None and checkpoint.config["stable_steps"] == run.config.rounds * run.config.train.round_steps


def _steps(run: Run, chain: list[str]) -> int:
    """Optimiser steps of checkpoints of which each starts before the decay of the one before it."""
    metas = [run.store.manifest(f"{name}/checkpoint").meta for name in chain]
    return sum(meta["stable_steps"] for meta in metas[:-1]) + int(metas[-1]["steps"])


def heldout_rows(run: Run) -> list[list[Any]]:
    """One row a student: D, its standard error, M, F on all held-out texts."""
    rows: list[list[Any]] = []
    for label, name, steps in students(run):
        m = metrics(run, name)["all"]
        rows.append([label, steps, m["D"], m["D_se"], m["M"], m["F"]])
    return rows


def against_control(run: Run) -> str | None:
    """In words: the last round against Stage I data alone for as many steps, text by text; None without a control."""
    labels = {name: label for label, name, _ in students(run)}
    last, control = f"round-{run.config.rounds - 1:03d}/metrics", "control/metrics"
    found = paired_difference(run, last, control) if last in labels and control in labels else None
    if found is None:
        return None
    difference, error = found
    side = "below" if difference < 0 else "above"
    clear = "" if abs(difference) > 2 * error else ": no clear difference"
    return f"Text by text, D {labels[last]} is {abs(difference):.3f} ± {error:.3f} {side} the control’s{clear}."


def domain_rows(run: Run) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of D by domain, one row a student."""
    named = [(label, metrics(run, name)) for label, name, _ in students(run)]
    domains = sorted({d for _, m in named for d in m["domains"]})
    return ["student", *domains], [[label, *(m["domains"][d]["D"] for d in domains)] for label, m in named]


def benchmark_tables(run: Run) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of every benchmark of the configuration, as far as students were asked."""
    found = {label: metrics(run, name) for label, name, _ in students(run)}
    names = dict.fromkeys(name for m in found.values() for name in m.get("benchmarks", {}))
    asked = {name: {label: m for label, m in found.items() if name in m.get("benchmarks", {})} for name in names}
    return [(tables.title(name, by), tables.COLUMNS, tables.rows(name, by)) for name, by in asked.items()]


def paired_difference(run: Run, name: str, other: str) -> tuple[float, float] | None:
    """D of one student minus D of another, text by text: mean and standard error. None: they cannot be paired."""
    difference = paired_differences(run, name, other)
    error = _standard_error(difference)
    return None if error is None else (float(difference.mean()), error)


def paired_differences(run: Run, name: str, other: str) -> np.ndarray:
    """D of one student minus D of another on every held-out text that both have a finite one of; empty: not the same texts."""
    one, two = _heldout(run, name), _heldout(run, other)
    if one["id"].to_pylist() != two["id"].to_pylist():
        return np.empty(0)
    difference: np.ndarray = one["divergence"].to_numpy() - two["divergence"].to_numpy()
    return difference[np.isfinite(difference)]


def alignment(run: Run, name: str) -> list[float] | None:
    """A student's linear CKA between heard and read words by layer; None where it was not measured."""
    import pyarrow.parquet as pq

    path = run.store.path(name) / "alignment.parquet"
    return pq.read_table(path)["cka"].to_pylist() if path.is_file() else None


def _heldout(run: Run, name: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(_at(run, name) / "heldout.parquet")


def _at(run: Run, name: str) -> Path:
    """Where the files of a published artefact are: of a run elsewhere, once they have been fetched."""
    run.store.fetch(name)
    return run.store.path(name)


def _standard_error(values: Any) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None


def speech_rows(run: Run) -> list[list[Any]]:
    """One row a round: what was asked for, what was spent, what was turned down, and how sure the target was.

    1/Σp²: how many equal clusters P_target amounts to. P_target ±: the share of it that is expected to lie in other
    clusters than if D were known.
    """
    rows: list[list[Any]] = []
    for r in range(run.config.rounds):
        if published(run, f"round-{r:03d}/speech"):
            speech = run.store.manifest(f"round-{r:03d}/speech").meta
            scores = run.store.manifest(f"round-{r:03d}/scores").meta
            turned_down = sum(speech["rejected"].values())
            rows.append(
                [str(r), f"{speech['budget']:.0f}", f"{speech['seconds']:.1f}", speech["rows"], turned_down, speech["cer"],
                 f"{scores['effective_clusters']:.1f}", f"{scores['p_target_error']:.0%}"]
            )  # fmt: skip
    return rows


def time_rows(run: Run) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of wall seconds: a column for what is done once, one a round, one for the control.

    The report itself is left out: writing it again must give the same page.
    """
    groups: dict[str, dict[str, float]] = {}
    for stage in run.stages:
        if stage.name == "report" or not published(run, stage.name):
            continue
        group, kind = _place(stage.name)
        seconds = groups.setdefault(group, {})
        seconds[kind] = seconds.get(kind, 0.0) + run.store.manifest(stage.name).seconds
    kinds = list(dict.fromkeys(kind for of_group in groups.values() for kind in of_group))
    rows: list[list[Any]] = []
    for kind in kinds:
        of_kind = [g.get(kind) for g in groups.values()]
        rows.append([kind, *map(_seconds, of_kind), _seconds(sum(s or 0.0 for s in of_kind))])
    sums = [sum(g.values()) for g in groups.values()]
    rows.append(["sum", *map(_seconds, sums), _seconds(sum(sums))])
    return ["stage", *groups, "sum"], rows


def _place(name: str) -> tuple[str, str]:
    """(column, row) of a stage in the table of times."""
    kinds = {"probe": "speech", "heldout": "speech", "natural": "speech", "checkpoint": "training", "before": "metrics"}
    head, _, tail = name.partition("/")
    if head == "prepared":
        stage_one = tail in ("natural", "text") or tail.startswith("probe-")
        return ("Stage I" if stage_one else _round(tail) or "once"), "features"
    if head.startswith("probe-"):
        return "Stage I", tail
    if head in ("before", "benchmarks"):
        return "once", kinds.get(head, head)
    if not tail:
        return ("Stage I", "speech") if head == "natural" else ("once", kinds.get(head, head))
    return "Stage I" if head == "stage-one" else _round(head) or head, kinds.get(tail, tail)


def _round(name: str) -> str | None:
    """ "round 3" for "round-003"."""
    return f"round {int(name.removeprefix('round-'))}" if name.startswith("round-") else None


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
