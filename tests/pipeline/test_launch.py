"""Training in several processes: the same curve as one, one error, and nobody left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from salad.config import Config, load_config
from salad.errors import SaladError
from salad.pipeline import distil, launch
from salad.pipeline.stages import Run

ROOT = Path(__file__).parents[2]
TWO = ROOT / "configs/accelerate/two-cpu-processes.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_files_are_understood_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    command, environment = launch._command(path, 8 * found.num_processes)
    assert command[command.index("--config_file") + 1] == str(path)
    assert ("ACCELERATE_USE_CPU" in environment) == (path == TWO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("[1, 2]", "no num_processes"),
        ("num_processes: many", "no num_processes"),
        ("num_processes: 0", "no num_processes"),
        ("num_processes: true", "no num_processes"),
        ("num_processes: 3", "batch_size 8 cannot be shared by the 3 processes"),
    ],
)
def test_a_launch_file_that_will_not_do_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "launch.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SaladError, match=said) as e:
        launch._command(path, 8)
    assert str(path) in str(e.value)


def test_the_first_error_that_somebody_said_is_the_one(tmp_path: Path) -> None:
    def say(rank: int, message: str, known: bool, at: float) -> None:
        (tmp_path / f"error-{rank}.json").write_text(json.dumps({"message": message, "known": known, "time": at}))

    (tmp_path / "output.txt").write_text(
        "noise\nRoot Cause (first observed failure):\n  rank : 1 (local_rank: 1)\n  exitcode : -9 (pid: 4)\n\n"
    )
    assert "training process 1 was killed by signal 9" in str(launch._failure(tmp_path, 1))
    (tmp_path / "output.txt").write_text("last words\n\n")
    assert "status 3 (last words)" in str(launch._failure(tmp_path, 3))
    say(0, "RuntimeError: connection closed by peer", False, 1.0)
    assert "connection closed" in str(launch._failure(tmp_path, 1))
    say(1, "the loss became nan: look", True, 3.0)
    say(2, "the disk is full: free some", True, 2.0)
    assert str(launch._failure(tmp_path, 1)) == "the disk is full: free some"


# -- launched ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Run:
    """A run with what Stage I needs."""
    from tests.fakes import write_config

    sizes = {"adapter": {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 1}, "lm": "full"}
    run = Run(load_config(write_config(tmp_path_factory.mktemp("launched"), fake_models, student=sizes)))
    for stage in run.stages:
        if stage.name == "before/no-speech":
            return run
        run.execute(stage)
    raise AssertionError


def config_of(run: Run, **train: Any) -> Config:
    changed = run.config.model_dump(mode="json")
    changed["train"] |= train
    return Config.model_validate(changed)


def arguments(run: Run, out: Path, config: Config, steps: int) -> dict[str, Any]:
    at = run.store.path
    sources = {"natural": [at("prepared/natural")], "text": [at("prepared/text")]}
    out.mkdir(exist_ok=True)
    return {
        "out": out, "config": config, "models": run.models, "start": None, "sources": sources, "stable_steps": steps,
        "scope": "stage-one/checkpoint", "progress": lambda step: None, "probes": at("prepared/probe"),
    }  # fmt: skip


def curve(out: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return np.array([[row["loss"], row["kl"], row["grad_norm"], row["positions"]] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("lm", ["full", "frozen", "lora"])
def test_two_processes_give_the_curve_of_one(prepared: Run, tmp_path: Path, lm: str) -> None:
    _compare(prepared, tmp_path, lm, TWO)


SHARDS_ON_CPUS = """
import os
if "RANK" in os.environ:
    from accelerate import state
    from accelerate.utils import DistributedType

    start = state.PartialState.__init__

    def as_if_gpus(self, *args, **kwargs):  # accelerate shards on accelerators only; FSDP2 itself runs on CPUs too
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.PartialState.__init__ = as_if_gpus
"""


@pytest.fixture
def fsdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped file, for two processes on CPUs."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SHARDS_ON_CPUS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    found = yaml.safe_load((ROOT / "configs/accelerate/fsdp.yaml").read_text())
    path = tmp_path / "fsdp.yaml"
    path.write_text(yaml.safe_dump({**found, "use_cpu": True, "num_processes": 2}))
    return path


@pytest.mark.slow
def test_sharded_weights_give_the_curve_of_one_also_when_resumed(prepared: Run, tmp_path: Path, fsdp: Path) -> None:
    _compare(prepared, tmp_path, "full", fsdp)
    sharded = list(tmp_path.glob("two/_trainer/checkpoint-*/pytorch_model_fsdp.bin"))
    assert sharded, "or nothing was sharded"
    one, two = (load_file(tmp_path / name / "final/model.safetensors") for name in ("one", "two"))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    assert all(torch.allclose(one[k], two[k], rtol=1e-2, atol=1e-4) for k in one)
    for folder in (tmp_path / "two/_trainer").iterdir():
        if folder.name != "checkpoint-6":
            shutil.rmtree(folder)
    whole = curve(tmp_path / "two")
    steps: list[int] = []
    config = config_of(prepared, launch=str(fsdp), gradient_checkpointing=True, **CHANGES)
    distil.build_checkpoint(**{**arguments(prepared, tmp_path / "two", config, 12), "progress": steps.append})
    assert min(step for step in steps if step) > 6
    assert np.allclose(curve(tmp_path / "two"), whole, rtol=1e-5, atol=1e-7)


CHANGES = {"accumulate": 2, "early_stop": {"every": 3, "patience": 1, "least": 0.5}}


def _compare(prepared: Run, tmp_path: Path, lm: str, launched_by: Path) -> None:
    meta = {}
    for name, launched in (("one", None), ("two", str(launched_by))):
        config = config_of(prepared, launch=launched, gradient_checkpointing=lm == "full", **CHANGES)
        config = config.model_copy(update={"student": config.student.model_copy(update={"lm": lm})})
        seen: list[int] = []
        meta[name] = distil.build_checkpoint(**{**arguments(prepared, tmp_path / name, config, 12), "progress": seen.append})
        assert seen[-1] == meta[name]["steps"]
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) < 14, "it was stopped early, in both at the same step"
    assert np.allclose(one, two, rtol=1e-3, atol=1e-6)
    assert meta["one"]["D"] == pytest.approx(meta["two"]["D"], rel=1e-3)
    assert {p.name for p in (tmp_path / "two").iterdir() if p.name[0] != "_"} == {"stable", "final", "log.jsonl"}


@pytest.mark.slow
def test_an_error_in_one_process_is_one_error(prepared: Run, tmp_path: Path) -> None:
    """Its sound is broken for the second process alone."""
    broken = tmp_path / "natural"
    _spoil(prepared.store.path("prepared/natural"), broken)
    given = arguments(prepared, tmp_path / "out", config_of(prepared, launch=str(TWO)), 12)
    given["sources"] = {"natural": [broken]}
    with pytest.raises(SaladError, match=r"the loss became nan at step \d+, samples [0-9a-f]+: "):
        distil.build_checkpoint(**given)
    assert not (tmp_path / "out/final").exists()
    assert not _left(tmp_path / "out")


def _spoil(source: Path, out: Path) -> None:
    shutil.copytree(source, out)
    frames = np.load(out / "frames.npy")
    frames[len(frames) // 2] = np.nan
    np.save(out / "frames.npy", frames)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a rank", "the run by SIGTERM", "the run by SIGKILL", "Ctrl+C"])
def test_whoever_is_killed_all_end_and_it_goes_on_from_there(prepared: Run, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    given = arguments(prepared, out, config_of(prepared, launch=str(TWO)), 4000)
    process = _in_a_process(given)
    try:
        _wait_for(lambda: launch._step(out / "_launch") > 4, 120)
        ranks = _left(out)
        assert len(ranks) >= 2
        if how == "a rank":
            next(p for p in ranks if p.environ().get("RANK") == "1").kill()
        else:
            process.send_signal({"Ctrl+C": signal.SIGINT, "the run by SIGTERM": signal.SIGTERM}.get(how, signal.SIGKILL))
        said = process.communicate(timeout=60)[1]
        _wait_for(lambda: not _left(out), 60)  # who is left behind would stay for ever
    finally:
        process.kill()
    if how == "a rank":
        assert "SaladError: training process 1 was killed by signal 9" in said
    assert not (out / "final").exists()
    assert not (out / "log.jsonl").exists()
    resumed: list[int] = []
    config = config_of(prepared, launch=None)
    done = max(int(p.parent.name.split("-")[1]) for p in out.glob("_trainer/checkpoint-*/_complete.json"))

    class Enough(Exception):
        pass

    def first(step: int) -> None:
        resumed.append(step)
        raise Enough

    with pytest.raises(Enough):
        distil.build_checkpoint(**{**arguments(prepared, out, config, 4000), "progress": first})
    assert resumed == [done + 1]


def _in_a_process(given: dict[str, Any]) -> subprocess.Popen[str]:
    """`build_checkpoint` in a process of its own, as `salad run` would."""
    script = f"""
import json
from pathlib import Path
from salad.config import Config
from salad.pipeline import distil
given = json.loads({json.dumps(json.dumps({k: _plain(v) for k, v in given.items() if k not in ("models", "progress")}))})
given["config"] = Config.model_validate(given["config"])
given["sources"] = {{k: [Path(f) for f in v] for k, v in given["sources"].items()}}
given |= {{"out": Path(given["out"]), "probes": Path(given["probes"]), "models": None, "progress": lambda step: None}}
distil.build_checkpoint(**given)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {k: [str(f) for f in v] for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _left(out: Path) -> list[psutil.Process]:
    """Processes that still work on the job."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(out / "_launch") in (process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def _wait_for(true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
