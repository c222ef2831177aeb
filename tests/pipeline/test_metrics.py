"""Measuring as a stage: means with their intervals, by domain and over all, benchmarks beside, what is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline import benchmarks, metrics, summary
from salad.pipeline.stages import Run
from salad.trainer.evaluate import Divergences
from tests.fakes import write_config


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Run:
    """A run with its held-out texts spoken and prepared, and a benchmark of them."""
    folder = tmp_path_factory.mktemp("run")
    probe = {"per_cluster": 3, "budget": 100, "waves": 2, "heldout": 24}
    run = Run(load_config(write_config(folder, fake_models, probe=probe, evaluate={"items": 8, "bootstrap": 200})))
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "prepared/heldout":
            break
    for stage in benchmarks.stages(run, benchmarks.wanted(run, ["continuation"])):
        run.execute(stage)
    return run


def build(run: Run, out: Path, hearing: str = "speech", **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta and metrics.json of the untrained student."""
    out.mkdir()
    given = (run.config, run.models, None, run.store.path("heldout"), run.store.path("prepared/heldout"))
    meta = metrics.build_metrics(out, *given, hearing, lambda n: None, **more)  # type: ignore[arg-type]
    return meta, json.loads((out / "metrics.json").read_text())


def test_means_stand_within_their_intervals_by_domain_and_over_all(spoken: Run, tmp_path: Path) -> None:
    meta, found = build(spoken, tmp_path / "a")
    table = pq.read_table(tmp_path / "a/heldout.parquet").to_pylist()
    for domain, row in {None: found["all"], **found["domains"]}.items():
        texts = [t for t in table if domain in (None, t["domain"])]
        assert row["texts"] == len(texts)
        assert row["D"] == pytest.approx(np.mean([t["divergence"] for t in texts]))
        for key in "DMF":
            assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
        assert row["D_low"] < row["D"] < row["D_high"]
        assert 2 < (row["D_high"] - row["D_low"]) / row["D_se"] < 5.5  # about ± 1.96
    assert meta["D_se"] == found["all"]["D_se"]
    assert (found["all"]["F_low"], found["all"]["F_high"]) == (0, 0)  # a frozen LM
    assert build(spoken, tmp_path / "b")[1] == found


def test_benchmarks_are_asked_where_a_student_is_measured(spoken: Run, tmp_path: Path) -> None:
    (one,) = benchmarks.wanted(spoken, ["continuation"])
    meta, found = build(spoken, tmp_path / "a", benchmarks=[one.of(spoken)])
    of_one = found["benchmarks"]["continuation"]
    assert meta["gap_continuation"] == of_one["gap"]
    assert of_one["questions"] == 8
    assert set(of_one["conditions"]) == {"q_text", "p_text", "p_speech"}  # no ASR, no cascade
    answers = pq.read_table(tmp_path / "a/benchmarks.parquet")
    assert answers.num_rows == 3 * 8
    _, deaf = build(spoken, tmp_path / "b", "nothing", benchmarks=[one.of(spoken)])
    assert set(deaf["benchmarks"]["continuation"]["conditions"]) == {"q_text", "p_text", "p_nothing"}
    assert deaf["benchmarks"]["continuation"]["conditions"]["q_text"] == of_one["conditions"]["q_text"]
    assert build(spoken, tmp_path / "c")[1]["benchmarks"] == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_held_out_text_without_a_finite_divergence_is_named_and_left_out(
    spoken: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    real = metrics.measure
    values = np.zeros(24)

    def broken(*args: Any, **kwargs: Any) -> Divergences:
        found = real(*args, **kwargs)
        found.divergence[2] = bad
        values[:] = found.divergence
        return found

    monkeypatch.setattr(metrics, "measure", broken)
    meta, _ = build(spoken, tmp_path / "a")
    table = pq.read_table(tmp_path / "a/heldout.parquet")
    assert meta["unmeasured"] == [table["id"].to_pylist()[2]]
    assert meta["texts"] == 23
    assert meta["D"] == pytest.approx(np.delete(values, 2).mean(), rel=1e-6)
    assert pq.read_table(tmp_path / "a/alignment.parquet").num_rows == 3
    assert np.isfinite(summary._standard_error(table["divergence"].to_numpy()))

    monkeypatch.setattr(metrics, "measure", lambda *a, **k: Divergences(*(np.full(24, bad) for _ in range(6))))
    with pytest.raises(SaladError, match="none of the 24 held-out texts"):
        build(spoken, tmp_path / "b")
