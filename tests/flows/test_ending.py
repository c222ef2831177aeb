"""A flow run waits for its run; told to end, it is gone in seconds with all its processes, and Prefect says so."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running

from salad.config import load_config
from salad.flows import holding
from salad.flows.salad_round import salad_round
from salad.pipeline.stages import Run
from tests import slow
from tests.fakes import write_config
from tests.servers import Env, ask_for, descendants, history, prefect, read, salad_serve, started, state_of, wait_for, words_of

pytestmark = pytest.mark.slow
LONGEST = 20.0  # seconds from the order to the end of the last process: Prefect itself would kill after 30


@pytest.fixture
def env(server: Env, tmp_path: Path) -> Env:
    (tmp_path / "slow").touch()
    return {**server, "SALAD_SLOW": str(tmp_path / "slow")}


def config_of(folder: Path, models: dict[str, str], engine: str, workers: int) -> Path:
    speech = {"voices": [{"engine": f"{slow.HERE}:{engine}", "voice": "tone"}], "shard_rows": 6, "workers": workers}
    return write_config(folder, models, speech=speech)


@pytest.fixture
def speaking(tmp_path: Path, fake_models: dict[str, str]) -> Path:
    """A configuration whose two speaking processes are slow."""
    return config_of(tmp_path, fake_models, "SlowEngine", 2)


def speakers(pid: int) -> list[psutil.Process]:
    return [p for p in descendants(pid) if "salad.tts.worker" in words_of(p)]


def whole_family(pid: int) -> list[psutil.Process]:
    """The process that works on the flow run, and those that speak for it: not the witness, who stays a little longer."""
    return [p for p in descendants(pid) if not any(word in words_of(p) for word in ("witness", "resource_tracker"))]


def end(family: list[psutil.Process]) -> float:
    """Seconds until the last of them is gone."""
    start = time.monotonic()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, [p.cmdline() for p in alive]
    return time.monotonic() - start


def only_valid_artefacts(config: Path, **changes: object) -> None:
    """What is published is whole, and the same command goes on from there."""
    run = Run(load_config(config, changes))
    published = [p.parent for p in run.store.root.rglob("_manifest.json") if not any(x.startswith(".") for x in p.parts[1:])]
    names = [str(p.relative_to(run.store.root)) for p in published]
    assert all(run.store.valid(name) for name in names)
    assert "pool" not in names or run.done(run.stages[0])
    with run.store.lock():
        pass


def test_the_second_waits_for_the_first_which_is_cancelled(env: Env, speaking: Path, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    with salad_serve(env, log, limit=2) as serve:
        first = ask_for(env, "salad-round", config=str(speaking))
        wait_for(lambda: len(speakers(serve.pid)) == 2, log)
        family = whole_family(serve.pid)
        second = ask_for(env, "salad-round", config=str(speaking))
        wait_for(lambda: state_of(env, second) == "AwaitingRun", log)
        said = read(env, second).state
        assert said
        assert f"fake is in use by process {family[0].pid}" in str(said.message)
        other = ask_for(env, "salad-round", config=str(speaking), name="other")
        wait_for(lambda: state_of(env, other) == "Running", log)  # the one that waits has no place

        done = prefect(f"flow-run cancel {first.id}", env)
        assert done.returncode == 0, done.stdout
        assert end(family) < LONGEST
        wait_for(lambda: state_of(env, first) == "Cancelled", log)
        (tmp_path / "slow").unlink()
        for flow_run in (second, other):
            wait_for(lambda flow_run=flow_run: state_of(env, flow_run) == "Completed", log, 300)  # type: ignore[misc]
    assert history(env, second).count("Running") >= 2
    assert Run(load_config(speaking)).store.valid("round-000/metrics")


def told(env: Env, flow_run: FlowRun, log: Path) -> str:
    wait_for(lambda: state_of(env, flow_run) in ("Crashed", "Cancelled", "Completed", "Failed"), log)
    return state_of(env, flow_run)


@pytest.mark.parametrize("by", ["Ctrl+C", "SIGTERM to `salad serve` alone", "SIGKILL to it"])
def test_the_end_of_serve_ends_its_flow_runs(env: Env, speaking: Path, tmp_path: Path, by: str) -> None:
    log = tmp_path / "serve.log"
    with salad_serve(env, log) as serve:
        flow_run = ask_for(env, "salad-round", config=str(speaking))
        wait_for(lambda: len(speakers(serve.pid)) == 2, log)
        family = whole_family(serve.pid)
        if by == "Ctrl+C":
            os.killpg(serve.pid, signal.SIGINT)
        else:
            serve.send_signal(signal.SIGTERM if "SIGTERM" in by else signal.SIGKILL)
        assert end(family) < LONGEST
        assert serve.wait(20) is not None
    assert told(env, flow_run, log) == "Crashed"
    only_valid_artefacts(speaking)


def test_who_has_the_lock_says_of_others_that_they_are_dead(server: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut nobody else can say it."""
    monkeypatch.setattr(holding, "get_run_logger", lambda: logging.getLogger("test"))
    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        runs = [client.create_flow_run(salad_round, state=Running(), tags=tags) for tags in (["run:a"], ["run:b"], [])]
        holding.bury(runs[2], "run:a")
        found = [client.read_flow_run(r.id) for r in runs]
    assert [r.state.name for r in found if r.state] == ["Crashed", "Running", "Running"]
    assert found[2].tags == ["run:a"]


def test_a_call_that_hears_no_signal_is_ended_all_the_same(env: Env, tmp_path: Path, fake_models: dict[str, str]) -> None:
    config, log = config_of(tmp_path, fake_models, "StuckEngine", 0), tmp_path / "serve.log"
    with salad_serve(env, log) as serve:
        flow_run = ask_for(env, "salad-round", config=str(config))
        wait_for(Path(env["SALAD_SLOW"] + ".stuck").exists, log)
        family = whole_family(serve.pid)
        serve.send_signal(signal.SIGTERM)
        assert end(family) < LONGEST
    assert told(env, flow_run, log) == "Crashed"
    only_valid_artefacts(config)


def test_a_work_pool_and_a_worker(env: Env, speaking: Path, fake_models: dict[str, str], tmp_path: Path) -> None:
    """The commands of docs/prefect.md; then a cancel; then Ctrl+C, at which a worker kills its flow runs without a word."""
    log = tmp_path / "worker.log"
    for command in ("work-pool create salad --type process", "deploy --all"):
        done = prefect(command, env)
        assert done.returncode == 0, done.stdout
    (tmp_path / "quick").mkdir()
    quick = write_config(tmp_path / "quick", fake_models)
    with started(["prefect", "worker", "start", "--pool", "salad"], env, log) as worker:
        done = prefect(f"deployment run salad-round --param config={quick} --param name=pooled --watch", env)
        assert done.returncode == 0, done.stdout + log.read_text()
        assert Run(load_config(quick, {"name": "pooled"})).store.valid("round-000/metrics")

        flow_run = ask_for(env, "salad-round", config=str(speaking))
        wait_for(lambda: len(speakers(worker.pid)) == 2, log)
        family = whole_family(worker.pid)
        assert prefect(f"flow-run cancel {flow_run.id}", env).returncode == 0
        assert end(family) < LONGEST
        wait_for(lambda: state_of(env, flow_run) == "Cancelled", log)

        flow_run = ask_for(env, "salad-round", config=str(speaking))
        wait_for(lambda: len(speakers(worker.pid)) == 2, log)
        family = whole_family(worker.pid)
        os.killpg(worker.pid, signal.SIGINT)
        assert end(family) < LONGEST
        assert told(env, flow_run, log) == "Crashed"
    only_valid_artefacts(speaking)
