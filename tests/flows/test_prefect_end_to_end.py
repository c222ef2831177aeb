"""The three commands of the README, literally: a real server, `salad serve`, `prefect deployment run salad-round`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from salad.config import load_config
from salad.errors import SaladError
from salad.flows.salad_round import salad_round
from salad.pipeline.stages import Run
from salad.pipeline.store import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
Env = dict[str, str]


@contextmanager
def started(command: list[str], env: Env, log: Path) -> Iterator[None]:
    """A process and all its children, ended with the block."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        for sign in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def wait_for(what: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 90
    while not what():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """The environment of a user who did `prefect server start` and `export PREFECT_API_URL=...`."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = home / "server.log"
    with started(["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)], env, log):
        with SyncPrefectClient(api=url) as client:
            wait_for(lambda: client.api_healthcheck() is None, log)
        yield env


@pytest.fixture(scope="module")
def served(server: Env, example_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """… and `salad serve`, where the example plug-in is installed."""
    server = {**server, "PYTHONPATH": str(example_plugin)}
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with SyncPrefectClient(api=server["PREFECT_API_URL"]) as client, started(["salad", "serve"], server, log):

        def is_there() -> bool:
            try:
                return client.read_deployment_by_name("salad-round/salad-round") is not None
            except ObjectNotFound:
                return False

        wait_for(is_there, log)
        yield server


def prefect(command: str, env: Env) -> subprocess.CompletedProcess[str]:
    words = ["prefect", *command.split()]
    return subprocess.run(words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)


def shown_of(env: Env, config: Path) -> tuple[FlowRun, list[Artifact], list[TaskRun]]:
    """The newest flow run of a configuration, its artefacts and its task runs, as Prefect tells them."""
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        flow_run = max((r for r in client.read_flow_runs() if r.parameters["config"] == str(config)), key=created)
        artifacts = [a for a in client.read_artifacts() if a.flow_run_id == flow_run.id]
        for _ in range(40):  # task runs reach the database a moment after the flow run has ended
            tasks = [t for t in client.read_task_runs() if t.flow_run_id == flow_run.id]
            if all(t.state and t.state.is_final() for t in tasks):
                break
            time.sleep(0.5)
    return flow_run, artifacts, tasks


def created(flow_run: FlowRun) -> datetime:
    assert flow_run.created
    return flow_run.created


def test_the_literal_command_runs_a_round(served: Env, fake_config_path: Path) -> None:
    done = prefect(f"deployment run salad-round --param config={fake_config_path} --watch", served)
    assert done.returncode == 0, done.stdout

    flow_run, artifacts, tasks = shown_of(served, fake_config_path)
    assert flow_run.state is not None
    assert flow_run.state.is_completed()
    store = Store(load_config(fake_config_path).run_dir)
    stages = {t.name for t in tasks}
    assert store.valid("round-000/metrics") is not None
    assert {"pool", "round-000/scores", "round-000/checkpoint", "round-000/metrics"} <= stages
    assert not any(name.startswith("round-001") for name in stages)

    kinds = {kind: [a for a in artifacts if a.type == kind] for kind in ("progress", "table", "markdown")}
    assert len(kinds["progress"]) == len(stages)
    assert {a.data for a in kinds["progress"]} == {100.0}
    assert {a.key for a in kinds["table"]} == {"fake-table-speech", "fake-table-heldout"}
    assert len(kinds["markdown"]) == 1
    assert (store.path("report") / "index.html").is_file()

    again = prefect(f"deployment run salad-round --param config={fake_config_path} --watch", served)
    assert again.returncode == 0, again.stdout
    assert "already done" in " ".join(again.stdout.split())
    _, artifacts, tasks = shown_of(served, fake_config_path)
    assert [t.state.message for t in tasks if t.state] == ["already done"] * len(stages)
    assert {a.type for a in artifacts} == {"table", "markdown"}


def test_a_plugin_chooses_when_a_parameter_names_it(served: Env, fake_config_path: Path) -> None:
    done = prefect(f"deployment run salad-round --param config={fake_config_path} --param selector=novel --watch", served)
    assert done.returncode == 0, done.stdout
    folder = Store(load_config(fake_config_path).run_dir).path("round-000/selection")
    assert set(pq.read_table(folder / "selection.parquet")["selector"].to_pylist()) == {"novel"}


def test_what_goes_wrong_in_a_stage_ends_the_flow_run_in_one_line(
    server: Env, fake_config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: object) -> None:
        raise SaladError("the disk is full", "free some space")

    monkeypatch.setattr(Run, "execute", execute)
    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        state = salad_round(config=str(fake_config_path), return_state=True)
    assert state.is_failed()
    assert state.message == "the disk is full: free some space"
    _, _, tasks = shown_of(server, fake_config_path)
    assert [(t.name, t.state_name) for t in tasks] == [("pool", "Failed")]
