"""Runs to compare, written by hand: students of a chosen D, and selections, as far as `salad compare` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salad.config import Config
from salad.pipeline.schema import SELECTION
from salad.pipeline.stages import Run
from tests.pipeline import test_report as small

TEXTS = 24
DOMAINS = ("kitchen", "court", "<b onclick=alert(2)>law</b>", "{0.__class__} [red]x[/red]")
CONFIG: dict[str, Any] = {**small.CONFIG, "name": "one", "student": {"lm": "full"}}
FALLS = {"stage-one": 2.0, "round-000": 1.6, "round-001": 1.4, "control": 1.9, "before": 2.5}
READ = ("pool", "clusters", "selection", "speech", "checkpoint", "metrics")  # kinds of stages with something to read


def config_of(folder: Path | str, changes: Mapping[str, Any]) -> Config:
    """`changes`: dotted keys."""
    whole = json.loads(json.dumps(CONFIG | {"runs_dir": str(folder)}))
    for key, value in changes.items():
        *parents, last = key.split(".")
        at = whole
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return Config.model_validate(whole)


def publish(
    folder: Path | str,
    name: str = "one",
    falls: Mapping[str, float] | None = None,
    until: str | None = None,
    texts: int = TEXTS,
    heldout: str = "h",
    chosen: Sequence[int] = range(10),
    gap: float | None = None,
    **changes: Any,
) -> Run:
    """A run below `folder` (or a URL), published up to the stage `until` (None: whole).

    falls: mean D by the first part of a student's name; heldout: how ids of held-out texts begin; chosen: numbers of the texts
    that each round chooses; changes: dotted keys of the configuration, with __ for the dot.
    """
    levels = FALLS | dict(falls or {})
    config = config_of(folder, {"name": name, **{key.replace("__", "."): value for key, value in changes.items()}})

    def build(out: Path, stage: str) -> dict[str, Any]:
        head, _, kind = stage.rpartition("/")
        if kind == "metrics" or head == "before":
            return _metrics(out, levels[head], texts, heldout, gap)
        if kind == "selection":
            return _selection(out, int(head.removeprefix("round-")), chosen)
        if kind == "speech" and head.startswith("round"):
            return {"seconds": 60.5, "budget": 60.0, "rows": 10, "rejected": {"not understood": 2}, "cer": 0.05}
        if kind == "checkpoint":
            stable = {"stage-one": 8, "control": 4 * config.rounds}.get(head, 4)
            return {"steps": stable + 2, "stable_steps": stable}
        return {"passages": 200} if stage == "pool" else {}

    return small.publish_with(config, build, until)


def _metrics(out: Path, level: float, texts: int, heldout: str, gap: float | None) -> dict[str, Any]:
    """D differs far more between texts than between students: only pairs can tell these apart."""
    rng = np.random.default_rng(7)
    d = level * rng.lognormal(0, 0.6, texts) + np.random.default_rng(int(1000 * level)).normal(0, 0.02, texts)
    d[0] = np.nan
    domain = [DOMAINS[i % len(DOMAINS)] for i in range(texts)]
    columns = {"divergence": d, "misalignment": d / 2, "forgetting": d / 4}
    ids = [f"{heldout}{i:031x}" for i in range(texts)]
    pq.write_table(pa.table({"id": ids, "domain": domain, **columns}), out / "heldout.parquet")
    values = {"D": d[1:], "M": d[1:] / 2, "F": d[1:] / 4}
    found: dict[str, Any] = {"texts": texts - 1}
    for measure, of in values.items():
        mean, width = float(of.mean()), 1.96 * float(of.std()) / len(of) ** 0.5
        found |= {measure: mean, f"{measure}_low": mean - width, f"{measure}_high": mean + width}
    found["D_se"] = float(d[1:].std()) / (texts - 1) ** 0.5
    asked = {} if gap is None else {"<i>quiz</i>": {"gap": gap, "gap_low": gap - 0.1, "gap_high": gap + 0.1}}
    (out / "metrics.json").write_text(json.dumps({"all": found, "domains": {}, "benchmarks": asked}))
    return {}


def _selection(out: Path, round_: int, chosen: Sequence[int]) -> dict[str, Any]:
    rows = [
        {"id": f"{round_}-{i}", "text": f"text {i}", "domain": DOMAINS[i % 4], "cluster": i % 3, "est_seconds": 6.0, "rank": n}
        for n, i in enumerate(chosen)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SELECTION), out / "selection.parquet")
    return {"texts": len(rows)}
