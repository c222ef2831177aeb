"""`salad eval`: what it prints, what it makes once, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from salad.artifact import checksum
from salad.cli import app
from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline.stages import Run
from tests.fakes import write_config

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Path:
    """A run up to its Stage I checkpoint."""
    place = tmp_path_factory.mktemp("run")
    probe = {"per_cluster": 3, "budget": 100, "waves": 1, "heldout": 24}
    evaluate = {"items": 8, "bootstrap": 100}
    run = Run(load_config(write_config(place, fake_models, probe=probe, evaluate=evaluate)))
    run.store.root.mkdir(parents=True)
    run.store.bind(run.config)
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "stage-one/checkpoint":
            return run.store.root
    raise AssertionError


def salad(*arguments: object) -> Any:
    return runner.invoke(app, ["eval", *map(str, arguments)])


def test_a_run_is_measured_once(folder: Path) -> None:
    done = salad(folder)
    assert done.exit_code == 0, done.output
    assert "continuation: accuracy (chance 0.250)" in done.output
    for said in ("Q on text", "P on speech, untrained", "P on speech, stage-one", "eval.json"):
        assert said in done.output
    found = json.loads((folder / "eval/eval.json").read_text())
    assert found["items"] == {"continuation": 8}
    assert list(found["students"]) == ["untrained", "stage-one"]
    assert found["students"]["stage-one"]["all"]["D_low"] < found["students"]["stage-one"]["all"]["D"]
    made = {p: checksum(p) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    again = salad(folder)
    assert again.output.count("done") == 6  # four stages of the benchmark, two students
    assert {p: checksum(p) for p in made} == made


def test_another_number_of_items_touches_nothing_of_the_run(folder: Path) -> None:
    salad(folder)
    before = checksum(folder / "benchmarks/continuation/items/items.parquet")
    assert salad(folder, "--items", 5).exit_code == 0
    assert json.loads((folder / "eval/eval.json").read_text())["items"] == {"continuation": 5}
    assert (folder / "benchmarks/continuation@5/items/items.parquet").is_file()
    assert checksum(folder / "benchmarks/continuation/items/items.parquet") == before


def test_a_named_checkpoint(folder: Path) -> None:
    checkpoint = folder / "stage-one/checkpoint/stable"
    done = salad(folder, "--checkpoint", checkpoint)
    assert done.exit_code == 0, done.output
    assert list(json.loads((folder / "eval/eval.json").read_text())["students"]) == [str(checkpoint)]
    assert isinstance(salad(folder, "--checkpoint", folder).exception, SaladError)
    assert "is no checkpoint" in str(salad(folder, "--checkpoint", folder).exception)


def test_what_has_a_name_is_listed_without_a_run() -> None:
    done = salad("--list")
    assert done.exit_code == 0
    for name in ("arc-challenge", "continuation", "hellaswag", "mmsu", "openbookqa", "piqa", "storycloze"):
        assert name in done.output


def test_what_cannot_be_measured_is_refused(folder: Path, tmp_path: Path) -> None:
    assert salad().exit_code == 2
    assert "is not a run of salad" in str(salad(tmp_path).exception)
    error = salad(folder, "--benchmark", "continuatoin").exception
    assert "unknown benchmark 'continuatoin'; did you mean 'continuation'?" in str(error)
    assert getattr(error, "exit_code", None) == 2
    with Run(load_config(folder.parents[1] / "config.yaml")).store.lock():
        assert "is in use by" in str(salad(folder).exception)
