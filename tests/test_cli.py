"""The command line as a user meets it: quick help, one-line errors, exit codes, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TONES = f"{ROOT}/tests/fakes.py:ToneEngine"


def salad(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "salad", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **env}, check=False)


def one_line_error(*arguments: str, code: int = 1, **options: object) -> str:
    """The error line of a command that must fail cleanly."""
    done = salad(*arguments, **options)  # type: ignore[arg-type]
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    return lines[0]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv=['salad','--help']\n"
        "from salad.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch','transformers','faiss','datasets','prefect','pyarrow','numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "salad run configs/demo.yaml" in " ".join(done.stdout.split())


def test_help_is_quick() -> None:
    """In processor seconds: others on the machine cannot take them away."""
    best = min(_processor_seconds("-m", "salad", "--help") for _ in range(3))
    python = min(_processor_seconds("-c", "pass") for _ in range(3))
    assert best < python + 0.5


def _processor_seconds(*arguments: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_no_folder_of_ours_shadows_the_standard_library() -> None:
    """A top-level `selectors/` would break asyncio, pytest and every Prefect worker started here.

    A folder without `__init__.py`, such as the built `site/`, shadows nothing: modules further down the path come before it.
    """
    names = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert not names & set(sys.stdlib_module_names)
    done = subprocess.run([sys.executable, "-c", "import selectors; selectors.SelectSelector"], cwd=ROOT, check=False)
    assert done.returncode == 0


def changed(path: Path, **changes: object) -> str:
    data = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        top, _, below = key.partition("__")
        if below:
            data[top][below] = value
        else:
            data[top] = value
    out = path.with_name("changed.yaml")
    out.write_text(yaml.safe_dump(data))
    return str(out)


def test_configuration_errors(fake_config_path: Path) -> None:
    assert "unknown key 'select.gama'; did you mean 'gamma'?" in one_line_error(
        "run", changed(fake_config_path, select={"budget": 9, "gama": 1}), code=2
    )
    assert "select.budget" in one_line_error("run", changed(fake_config_path, select__budget=0), code=2)
    assert "No such file" in one_line_error("run", "nowhere.yaml", code=2)
    assert "--budgt" in one_line_error("run", str(fake_config_path), "--budgt", "3", code=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"select__budget": 99_999}, "select.budget is 99999 s but the texts left in the pool make"),
        ({"select__selector": "importence"}, "unknown selector 'importence'; did you mean 'importance'?"),
        ({"speech__voices": [{"engine": "hibary"}]}, "unknown engine 'hibary'; did you mean 'hibari'?"),
        ({"speech__voices": [{"engine": TONES, "voice": "toné"}]}, "has no voice 'toné'; did you mean 'tone'?"),
        ({"cluster__k": 5_000}, "cluster.k is 5000 but the pool has"),
        ({"probe__heldout": 5_000}, "probe.heldout is 5000 but"),
        ({"natural__seconds": 99_999}, "natural.seconds is 99999 but"),
        ({"natural__domains": ["kitschen"]}, "the pool has no domain 'kitschen'"),
        ({"models__lm": "/nowhere/model"}, "model folder /nowhere/model does not exist"),
    ],
)
def test_run_errors_are_one_line(fake_config_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in one_line_error("run", changed(fake_config_path, **changes))


@pytest.mark.slow
def test_a_truncated_model_is_named(fake_config_path: Path, fake_models: dict[str, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(fake_models["lm"], tmp_path / "lm")
    weights = tmp_path / "lm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    line = one_line_error("run", changed(fake_config_path, models={**fake_models, "lm": str(tmp_path / "lm")}))
    assert "cannot be loaded" in line
    assert str(tmp_path / "lm") in line


@pytest.mark.slow
def test_another_configuration_is_refused_and_loses_nothing(fake_config_path: Path) -> None:
    assert salad("run", str(fake_config_path)).returncode == 0
    assert "seed: 5 -> 6" in one_line_error("run", changed(fake_config_path, seed=6))
    run = str(fake_config_path.parent / "runs/fake")
    status = salad("status", run)
    assert "Everything is done" in status.stdout
    shown = salad("inspect", f"{run}/round-000/speech", "--limit", "1")
    assert "speech of round-000 of run fake" in shown.stdout
    assert "holds no Parquet file" in one_line_error("inspect", str(fake_config_path.parent / "nothing"))
    assert "is not a run of salad" in one_line_error("status", str(fake_config_path.parent))
    assert "index.html" in salad("report", run).stdout


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(fake_config_path: Path) -> None:
    command = [sys.executable, "-m", "salad", "run", str(fake_config_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if "clusters" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    again = salad("run", str(fake_config_path))
    assert again.returncode == 0
    assert again.stdout.count("done") >= 3


@pytest.mark.slow
def test_strategies_and_doctor(fake_config_path: Path) -> None:
    assert "importance-diverse" in salad("strategies").stdout
    assert salad("doctor", str(fake_config_path)).returncode == 0
    paper = salad("doctor", "configs/qwen2.5-3b.yaml")
    assert paper.returncode == 1
    for missing in ("Qwen/Qwen2.5-3B", "kyutai/mimi", "kokoro", "libriheavy-emilia"):
        assert missing in paper.stdout


@pytest.mark.slow
def test_voices_lists_what_is_here_and_says_how_to_get_the_rest() -> None:
    shown = salad("voices", TONES).stdout
    assert "tone" in shown
    assert "8,000" in shown or "16,000" in shown
    everything = salad("voices").stdout
    assert "coqui" in everything
    assert "name one: tts_models/en/vctk/vits, or a local folder" in everything or "pip install" in everything
    assert "unknown engine 'hibary'; did you mean 'hibari'?" in one_line_error("voices", "hibary")
