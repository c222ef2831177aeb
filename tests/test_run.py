"""A whole run with fakes, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from salad import cli
from salad.config import load_config
from salad.pipeline.stages import Run


def salad(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command line in this process; its exit status."""
    monkeypatch.setattr("sys.argv", ["salad", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_one_run_end_to_end(fake_config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert salad("run", str(fake_config_path), monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
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

    capsys.readouterr()
    assert salad("run", str(fake_config_path), monkeypatch=monkeypatch) == 0
    again = capsys.readouterr().out
    assert again.count(" done ") >= len(run.stages), "a finished stage was repeated"


def test_same_seed_same_bytes_other_seed_other_choice(tmp_path: Path, fake_models: dict[str, str]) -> None:
    from tests.fakes import write_config

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


def test_a_full_lm_student_trains_on_three_kinds_and_forgets_measurably(tmp_path: Path, fake_models: dict[str, str]) -> None:
    from tests.fakes import write_config

    student = {"adapter": {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}, "lm": "full"}
    run = Run(load_config(write_config(tmp_path, fake_models, student=student, rounds=1, control=False)))
    for stage in run.stages[:-1]:
        run.execute(stage)
    examples = run.store.manifest("round-000/checkpoint").meta["examples"]
    assert set(examples) == {"natural", "synthetic", "text"}
    assert min(examples.values()) > 0
    after = json.loads((run.store.path("round-000/metrics") / "metrics.json").read_text())["all"]
    assert after["F"] > 0
    assert after["M"] != after["D"]
