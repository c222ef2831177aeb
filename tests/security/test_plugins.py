"""Code beside the data is not run: a selector or an engine comes from a path only where the configuration or command names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from salad.config import load_config
from salad.pipeline.stages import Run
from tests.fakes import write_config

# What somebody might drop where commands are typed, hoping for an import: of Python, of ours, of what we import.
NAMES = (
    "selectors", "uniform", "salad_plugin", "sitecustomize", "usercustomize", "tones", "hibari", "yaml", "numpy", "torch",
    "typer", "rich", "pydantic", "json", "queue", "socket", "types", "random", "string", "transformers", "pyarrow", "mine",
    "conftest", "accelerate",
)  # fmt: skip
SALAD = Path(sys.executable).with_name("salad")


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """A folder to work in that is full of modules which tell when they are imported, and the folder where they tell it."""
    here, told = tmp_path / "here", tmp_path / "told"
    here.mkdir()
    told.mkdir()
    for name in NAMES:
        plant(here / f"{name}.py", told)
    plant(here / "salad" / "selectors" / "uniform.py", told)
    return here, told


def plant(path: Path, told: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import os\nos.mkdir({str(told / path.stem)!r})\nclass Mine:\n    name = 'mine'\n")


def salad(*arguments: str, here: Path, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    given = command or (str(SALAD),) if SALAD.exists() else (sys.executable, "-m", "salad")
    done = subprocess.run(
        [*given, *arguments], cwd=here, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("command", [(), (sys.executable, "-m", "salad")], ids=["salad", "python -m salad"])
def test_no_command_imports_what_lies_about(command: tuple[str, ...], planted: tuple[Path, Path]) -> None:
    here, told = planted
    if command:  # Python itself takes a folder called `salad` for the program that it is asked for
        shutil.rmtree(here / "salad")
    assert salad("strategies", here=here, command=command).returncode == 0
    assert list(told.iterdir()) == []


@pytest.mark.slow
def test_neither_a_run_nor_what_reads_it_does(planted: tuple[Path, Path], fake_models: dict[str, str]) -> None:
    """Training in processes included, and processes that speak; code in the run's own folder too."""
    here, told = planted
    speech = {
        "voices": [{"engine": f"{Path(__file__).parents[1]}/fakes.py:ToneEngine", "voice": "tone"}],
        "shard_rows": 6,
        "workers": 1,
    }
    config = write_config(here, fake_models, rounds=1, control=False, speech=speech, probe={"per_cluster": 2, "heldout": 6})
    data = yaml.safe_load(config.read_text())
    data["train"]["launch"] = str(Path(__file__).parents[2] / "configs/accelerate/two-cpu-processes.yaml")
    config.write_text(yaml.safe_dump(data))
    run = here / "runs" / "fake"
    for name in NAMES:
        plant(run / f"{name}.py", told)
    assert salad("run", str(config), here=here).returncode == 0
    for name in NAMES:
        plant(run / "round-000" / "speech" / f"{name}.py", told)
    for where, *arguments in (
        (here, "status", str(run)),
        (run, "inspect", str(run / "round-000/speech")),
        (run, "report", str(run)),
        (run, "export", str(run), "--to", "hub", "--out", str(here / "out")),
    ):
        assert salad(*arguments, here=where).returncode == 0
    assert list(told.iterdir()) == []


def test_what_is_named_is_run(planted: tuple[Path, Path], fake_config_path: Path) -> None:
    here, told = planted
    said = salad("run", str(fake_config_path), "--selector", "mine.py:Mine", here=here).stderr
    assert "needs a `name` and a method select" in said
    assert [p.name for p in told.iterdir()] == ["mine"]


def test_a_run_that_was_copied_here_runs_no_code_of_its_own(fake_config_path: Path, tmp_path: Path) -> None:
    """`status`, `report` and `inspect` read its configuration; a file that it names is somebody else's."""
    told = tmp_path / "told"
    told.mkdir()
    plant(tmp_path / "evil.py", told)
    config = load_config(
        fake_config_path,
        {"select.selector": f"{tmp_path}/evil.py:Mine", "speech.voices": [{"engine": f"{tmp_path}/evil.py:Mine", "voice": "x"}]},
    )
    run = Run(config)
    run.store.root.mkdir(parents=True)
    run.store.bind(config)
    root = str(run.store.root)
    assert "stages are missing" in salad("status", root, here=tmp_path).stdout
    salad("report", root, here=tmp_path)
    assert list(told.iterdir()) == []
