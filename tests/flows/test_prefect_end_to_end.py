"""The three commands of the README, literally: a real server, `salad serve`, `prefect deployment run salad-round`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from salad.config import load_config
from salad.errors import NetworkError, SaladError
from salad.flows.salad_round import salad_round
from salad.flows.stage import run_stage
from salad.pipeline.stages import Run
from salad.pipeline.store import Store
from tests.servers import Env, prefect, salad_serve

pytestmark = pytest.mark.slow
Told = TypeVar("Told")


@pytest.fixture(scope="module")
def served(server: Env, example_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """`salad serve`, where the example plug-in is installed."""
    server = {**server, "PYTHONPATH": os.pathsep.join([str(example_plugin), server["PYTHONPATH"]])}
    with salad_serve(server, tmp_path_factory.mktemp("serve") / "serve.log"):
        yield server


def shown_of(env: Env, config: Path, tasks: int = 1) -> tuple[FlowRun, list[Artifact], list[TaskRun]]:
    """The newest flow run of a configuration, its artefacts and its task runs (so many at least), as Prefect tells them."""
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        flow_run = max((r for r in client.read_flow_runs() if r.parameters.get("config") == str(config)), key=created)
        artifacts = [a for a in client.read_artifacts() if a.flow_run_id == flow_run.id]
        told = max(tasks, sum(a.type == "progress" for a in artifacts))

        def task_runs() -> list[TaskRun]:
            return [t for t in client.read_task_runs() if t.flow_run_id == flow_run.id]

        def all_told(found: list[TaskRun]) -> bool:
            return len(found) >= told and all(t.state and t.state.is_final() for t in found)

        return flow_run, artifacts, settled(task_runs, all_told)


def settled(read: Callable[[], Told], holds: Callable[[Told], bool]) -> Told:
    """What the server tells once this holds, or in the end: task runs and logs reach its database after the flow run ended."""
    for _ in range(120):
        if holds(found := read()):
            break
        time.sleep(0.5)
    return found


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
    assert all(t.name.startswith("fake · ") for t in tasks)
    stages = {t.name.removeprefix("fake · ") for t in tasks}
    assert store.valid("round-000/metrics") is not None
    assert {"pool", "round-000/scores", "round-000/checkpoint", "round-000/metrics"} <= stages
    assert not any(name.startswith("round-001") for name in stages)

    kinds = {kind: [a for a in artifacts if a.type == kind] for kind in ("progress", "table", "markdown")}
    assert len(kinds["progress"]) == len(stages)
    assert {a.data for a in kinds["progress"]} == {100.0}
    assert {a.key for a in kinds["table"]} == {"fake-table-speech", "fake-table-heldout", "fake-table-clusters"}
    told = {a.key: str(a.data) for a in kinds["markdown"]}
    assert told.keys() == {"fake-summary", "fake-report"}
    assert told["fake-summary"].startswith("Run **fake**, after round 0\n")
    assert "- Next: round 1." in told["fake-summary"]
    assert (store.path("report") / "index.html").resolve().as_uri() in told["fake-report"]
    assert (store.path("report") / "index.html").is_file()

    again = prefect(f"deployment run salad-round --param config={fake_config_path} --watch", served)
    assert again.returncode == 0, again.stdout
    _, artifacts, tasks = shown_of(served, fake_config_path, len(stages))
    assert [t.state.message for t in tasks if t.state] == ["already done"] * len(stages)
    assert {a.type for a in artifacts} == {"table", "markdown"}


def test_a_whole_run_until_it_is_enough_with_a_plugin_that_a_parameter_names(served: Env, fake_config_path: Path) -> None:
    first = prefect(f"deployment run salad-stage-one --param config={fake_config_path} --watch", served)
    assert first.returncode == 0, first.stdout
    run, _, tasks = shown_of(served, fake_config_path)
    names = {t.name for t in tasks}
    assert "fake · stage-one/metrics" in names
    assert not any("probe-1" in name or "round-" in name for name in names)
    assert run.state
    assert str(run.state.message).startswith("run fake, Stage I; the report is")
    # Tasks get the whole configuration, as JSON: the server keeps a flow run's parameters, and of a task's only the names.
    rows = stored(served)
    assert str(fake_config_path) in rows
    assert "runs_dir" not in rows

    given = "--param plateau=false --param max_rounds=5 --param total_budget=200 --param selector=novel"
    done = prefect(f"deployment run salad --param config={fake_config_path} --param name=novel {given} --watch", served)
    assert done.returncode == 0, done.stdout
    run, _, _ = shown_of(served, fake_config_path)
    assert run.state
    assert "stopped after round 1: budget: " in str(run.state.message)
    store = Store(load_config(fake_config_path, {"name": "novel"}).run_dir)
    assert store.config().rounds == 2
    assert store.valid("control/metrics")
    assert store.valid("report")
    assert set(pq.read_table(store.path("round-001/selection") / "selection.parquet")["selector"].to_pylist()) == {"novel"}


def stored(env: Env) -> str:
    """Everything that the server's database holds."""
    database = sqlite3.connect(f"file:{env['PREFECT_HOME']}/prefect.db?mode=ro", uri=True)
    tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
    return "\n".join(str(row) for table in tables for row in database.execute(f'select * from "{table}"'))


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
    assert [(t.name, t.state_name) for t in tasks] == [("fake · pool", "Failed")]


def test_what_the_network_failed_is_tried_again_and_said(
    server: Env, fake_config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, failures = Run.execute, [NetworkError("the hub is silent"), NetworkError("the hub is silent")]

    def fails_twice(*args: object) -> object:
        if failures:
            raise failures.pop()
        return execute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "execute", fails_twice)
    monkeypatch.setattr(run_stage, "retry_delay_seconds", [0.1, 0.2, 0.3])
    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        state = salad_round(config=str(fake_config_path), name="again", return_state=True)
    assert state.is_completed(), state.message
    with SyncPrefectClient(api=server["PREFECT_API_URL"]) as client:
        flow_run = max((r for r in client.read_flow_runs() if r.parameters.get("name") == "again"), key=created)
        of_run = LogFilter.model_validate({"flow_run_id": {"any_": [flow_run.id]}})
        last = "[again · round-000/metrics] built in"
        logs = settled(lambda: client.read_logs(of_run), lambda logs: any(log.message.startswith(last) for log in logs))
        pool = settled(
            lambda: next((t for t in client.read_task_runs() if t.flow_run_id == flow_run.id and t.name == "again · pool"), None),
            lambda pool: pool is not None and pool.run_count == 3,
        )
        assert pool
        states = settled(
            lambda: [s.name for s in client.read_task_run_states(pool.id)], lambda names: names.count("AwaitingRetry") == 2
        )
    assert pool.run_count == 3
    assert states.count("AwaitingRetry") == 2
    assert sum("the hub is silent" in log.message and "Retry" in log.message for log in logs) == 2
    assert any(log.message.startswith("[again · round-000/speech] built in") for log in logs)
