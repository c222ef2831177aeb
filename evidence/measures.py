"""What is kept of an arm: its students on the held-out texts, what was spoken, what it cost, and on which machine."""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evidence.arms import Arm, Bench
from salad.pipeline.benchmarks import wanted
from salad.pipeline.stages import Run


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
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else platform.processor()
    import torch

    from salad.devices import gpu_name, pick_device

    gpu = {"gpu": gpu_name() or "a GPU"} if pick_device().type == "cuda" else {}
    versions = {name: version(package) for name, package in (("torch", "torch"), ("salad", "salad-speech"))}
    return {"cpu": model, "threads": str(torch.get_num_threads()), **versions, **gpu}


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def stage_one_digest(run: Run) -> str:
    """Of the weights that all arms of a pool start from: rows with another one are not of the same experiment."""
    files = run.store.manifest("stage-one/checkpoint").files
    return digest("".join(str(files[name]["checksum"]) for name in sorted(files) if name.startswith("stable/")).encode())
