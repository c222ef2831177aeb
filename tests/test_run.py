"""A whole run with fakes, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from salad.config import load_config
from salad.pipeline.stages import Run
from tests.fakes import write_config


def test_one_run_end_to_end(fake_config_path: Path, salad: Callable[..., str]) -> None:
    out = salad("run", str(fake_config_path))
    assert "after round 1" in out
    assert "index.html" in out
    run = Run(load_config(fake_config_path))
    assert all(run.done(stage) for stage in run.stages)
    for r in (0, 1):
        speech = run.store.manifest(f"round-{r:03d}/speech").meta
        assert 98 <= speech["seconds"] <= 102
    chosen = [pq.read_table(run.store.path(f"round-{r:03d}/speech/data"), columns=["id"])["id"].to_pylist() for r in (0, 1)]
    aside = [
        pq.read_table(run.store.path(f"{n}/data"), columns=["id"])["id"].to_pylist() for n in ("probe", "heldout", "natural")
    ]
    ids = [i for group in (*chosen, *aside) for i in group]
    assert len(ids) == len(set(ids)), "a text was used twice"

    again = salad("run", str(fake_config_path))
    assert again.count(" done ") >= len(run.stages), "a finished stage was repeated"


def test_same_seed_same_bytes_other_seed_other_choice(tmp_path: Path, fake_models: dict[str, str]) -> None:
    chosen = {}
    path = write_config(tmp_path, fake_models, rounds=1, control=False)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run = Run(load_config(path, {"name": name, "seed": seed}))
        for stage in run.stages:
            run.execute(stage)
            if stage.name == "round-000/selection":
                break
        chosen[name] = (run.store.path("round-000/selection") / "selection.parquet").read_bytes()
    assert chosen["a"] == chosen["b"]
    assert chosen["a"] != chosen["c"]


@pytest.mark.parametrize(
    ("lm", "teacher", "encoder", "kind"),
    [("full", "states", None, "mlp"), ("full", "cached", None, "transformer"), ("lora", "online", "logmel", "mlp")],
)
def test_a_student_whose_lm_trains_learns_three_kinds_and_forgets_measurably(
    tmp_path: Path, fake_models: dict[str, str], lm: str, teacher: str, encoder: str | None, kind: str
) -> None:
    student = {"adapter": {"kind": kind, "layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}, "lm": lm}
    path = write_config(tmp_path, fake_models, student=student, rounds=1, control=False)
    run = Run(load_config(path, {"train.teacher": teacher, "train.top_k": 8, "models.encoder": encoder}))
    for stage in run.stages[:-1]:
        run.execute(stage)
        if stage.name == "stage-one/checkpoint":
            assert ("teacher" in run.models.__dict__) == (teacher != "cached"), "cached targets need no teacher"
    examples = run.store.manifest("round-000/checkpoint").meta["examples"]
    assert set(examples) == {"natural", "synthetic", "text"}
    assert min(examples.values()) > 0
    after = json.loads((run.store.path("round-000/metrics") / "metrics.json").read_text())["all"]
    assert after["F"] > 0
    assert after["M"] != after["D"]


def test_a_run_is_measured_on_its_benchmarks_and_may_end_a_stage_early(
    tmp_path: Path, fake_models: dict[str, str], salad: Callable[..., str]
) -> None:
    probe = {"per_cluster": 3, "heldout": 24}
    evaluate = {"benchmarks": ["continuation"], "items": 8, "bootstrap": 100}
    path = write_config(tmp_path, fake_models, probe=probe, evaluate=evaluate, rounds=1)
    early = {"every": 1, "patience": 2, "least": 0.9}  # no D falls by nine tenths
    config = yaml.safe_load(path.read_text())
    config["train"] |= {"early_stop": early, "stage_one_steps": 9}
    path.write_text(yaml.safe_dump(config))
    shown = salad("run", str(path))
    assert "continuation: accuracy (chance 0.250" in shown
    for row in ("Q on text", "P without ears, no speech at all", "P on speech, after Stage I", "P on speech, after round 0"):
        assert row in shown
    run = tmp_path / "runs/fake"
    assert "P on speech, after round 0" in (run / "report/index.html").read_text()
    meta = json.loads((run / "stage-one/checkpoint/_manifest.json").read_text())["meta"]
    assert meta["stable_steps"] == 4, "warm-up, the first measurement, and two that are no better"
    assert list(meta["D"]) == ["2", "3", "4"]


def test_rounds_of_another_seed_from_the_same_stage_one(
    tmp_path: Path, fake_models: dict[str, str], salad: Callable[..., str]
) -> None:
    path = write_config(tmp_path, fake_models, rounds=1, control=True)
    runs = Path(load_config(path).runs_dir)
    salad("run", str(path), "--name", "first")
    said = salad("run", str(path), "--name", "second", "--round-seed", "1", "--from", str(runs / "first"))
    assert "and are taken over" in said
    first, second = (Run(load_config(path, {"name": n})).store for n in ("first", "second"))
    same = {n for n in ("stage-one/checkpoint", "round-000/scores") if first.manifest(n).key == second.manifest(n).key}
    assert same == {"stage-one/checkpoint", "round-000/scores"}
    weights = "stage-one/checkpoint/final/model.safetensors"
    assert (first.root / weights).samefile(second.root / weights), "the disk holds it twice"
    drawn = "round-000/selection/selection.parquet"
    assert (first.root / drawn).read_bytes() != (second.root / drawn).read_bytes()
    assert first.manifest("control/checkpoint").key != second.manifest("control/checkpoint").key
    assert second.manifest("report").key != first.manifest("report").key

    alone = salad("run", str(path), "--name", "third", "--round-seed", "1")
    assert "taken over" not in alone
    third = Run(load_config(path, {"name": "third"})).store
    assert (third.root / drawn).read_bytes() == (second.root / drawn).read_bytes()


def test_taking_over_refuses_what_is_damaged_or_of_another_configuration(
    tmp_path: Path, fake_models: dict[str, str], salad: Callable[..., str]
) -> None:
    path = write_config(tmp_path, fake_models, rounds=1, control=False)
    runs = Path(load_config(path).runs_dir)
    salad("round", str(path), "0", "--name", "first")
    with (runs / "first/clusters/centroids.npy").open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x55")
    run = Run(load_config(path, {"name": "second"}))
    taken = run.adopt(Run(load_config(path, {"name": "first"})).store, run.stages)
    assert "embeddings" in taken
    assert "clusters" not in taken
    assert "probe" not in taken, "what lacks an input was taken over"

    other = Run(load_config(path, {"name": "other", "seed": 99}))
    assert other.adopt(Run(load_config(path, {"name": "first"})).store, other.stages) == []
