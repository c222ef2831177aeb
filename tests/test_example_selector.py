"""examples/custom_selector, as its README says: installed, listed, tested by its own suite, and a round run with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow


def run(example_plugin: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(example_plugin), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done


def test_it_is_listed_with_its_origin(example_plugin: Path, tmp_path: Path) -> None:
    said = run(example_plugin, "salad", "strategies", cwd=tmp_path).stdout
    assert "novel                Weights texts by predicted D" in said
    assert "salad-novel 0.1.0 · salad_novel:Novel" in said


def test_its_own_tests_pass(example_plugin: Path) -> None:
    folder = Path(__file__).parents[1] / "examples" / "custom_selector"
    said = run(example_plugin, "pytest", "-q", "-p", "no:cacheprovider", str(folder), cwd=folder).stdout
    assert "2 passed" in said


def test_a_round_is_run_with_it(example_plugin: Path, fake_config_path: Path, tmp_path: Path) -> None:
    run(example_plugin, "salad", "round", str(fake_config_path), "0", "--selector", "novel", cwd=tmp_path)
    rows = pq.read_table(tmp_path / "runs" / "fake" / "round-000" / "selection" / "selection.parquet").to_pylist()
    assert rows
    assert {r["selector"] for r in rows} == {"novel"}
    assert all("from what was heard so far" in r["reason"] for r in rows)
    assert (tmp_path / "runs" / "fake" / "round-000" / "metrics" / "_manifest.json").is_file()
