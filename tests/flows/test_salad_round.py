"""The flow: its parameters, its stages, what its tasks are given, how it fails. No server is needed here."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Completed, Failed

from salad.errors import NetworkError, SaladError
from salad.flows import stage as module
from salad.flows.salad_round import salad_round
from salad.flows.salad_run import salad
from salad.flows.salad_stage_one import salad_stage_one
from salad.flows.stage import own_log, run_of, run_stage
from salad.pipeline.patience import DELAYS
from salad.pipeline.stages import open_run


def test_parameters_are_those_documented() -> None:
    parameters = salad_round.parameters.properties
    assert {name: p.get("default") for name, p in parameters.items()} == {
        "config": "configs/demo.yaml",
        "name": None,
        "round": 0,
        "selector": None,
        "budget": None,
        "round_seed": None,
        "from_run": None,
    }
    assert all(p["description"] for p in parameters.values())
    assert parameters["round"]["minimum"] == 0


def test_parameters_of_the_others_are_documented() -> None:
    for flow in (salad, salad_stage_one):
        parameters = flow.parameters.properties
        assert all(p["description"] for p in parameters.values())
        assert parameters["config"]["default"] == "configs/demo.yaml"
    parameters = salad.parameters.properties
    assert (parameters["max_rounds"]["default"], parameters["max_rounds"]["minimum"]) == (10, 1)
    assert (parameters["plateau"]["type"], parameters["least_fall"]["minimum"]) == ("boolean", 0)


def test_deployments_are_the_flows_that_prefect_yaml_names() -> None:
    named = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    assert all(d["schedules"] == [] and d["pull"] for d in named), "`prefect deploy` asks a terminal for what is left out"
    found = {d["name"]: load_flow_from_entrypoint(d["entrypoint"]) for d in named}
    assert {name: flow.name for name, flow in found.items()} == {f.name: f.name for f in (salad_round, salad, salad_stage_one)}


def test_a_stage_is_tried_as_often_as_on_the_command_line() -> None:
    assert (run_stage.retries, run_stage.retry_delay_seconds) == (len(DELAYS), list(DELAYS))


def test_prefect_keeps_no_second_record_of_what_is_done() -> None:
    assert all(flow.persist_result is False for flow in (salad_round, salad, salad_stage_one))
    assert run_stage.persist_result is False
    assert run_stage.cache_policy is NO_CACHE


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the tasks were given, in a flow whose tasks do nothing."""
    calls: list[tuple[Any, ...]] = []

    def note(*args: Any) -> State[Any]:
        calls.append(args)
        return Completed()

    monkeypatch.setattr(module, "run_stage", note)
    monkeypatch.setattr("salad.pipeline.report.write_report", lambda _: tmp_path / "index.html")
    monkeypatch.setattr("salad.flows.artifacts.show_results", lambda *_: None)
    return calls


@pytest.mark.parametrize("round_", [0, 1, 2])
def test_one_task_a_stage_given_strings_alone(fake_config_path: Path, given: list[tuple[Any, ...]], round_: int) -> None:
    state = salad_round.fn(config=str(fake_config_path), round=round_)
    run = open_run(fake_config_path, {}, at_least=round_ + 1)
    assert state.is_completed()
    assert [stage for _, _, stage in given] == [s.name for s in run.round_stages(round_)]
    assert {name for _, name, _ in given} == {"fake"}
    assert all(type(x) is str for call in given for x in call)
    assert run.store.config() == run.config


def test_overrides_reach_the_run(fake_config_path: Path, given: list[tuple[Any, ...]]) -> None:
    salad_round.fn(config=str(fake_config_path), name="other", selector="uniform", budget=3.0, round_seed=5)
    config = run_of(given[0][0]).config
    assert (config.name, config.select.selector, config.select.budget) == ("other", "uniform", 3.0)
    assert config.of_rounds.seed == 5


@pytest.mark.parametrize("flow", [salad_round, salad_stage_one])
def test_what_another_run_has_is_taken_over(
    flow: Any,
    fake_config_path: Path,
    given: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    donor = open_run(fake_config_path, {"name": "donor"})
    with donor.store.lock():
        donor.store.bind(donor.config)
        donor.execute(donor.stages[0], lambda *_: None)
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("theirs"))
    with caplog.at_level(logging.INFO):
        state = flow.fn(config=str(fake_config_path), from_run=str(donor.config.run_dir))
    assert state.is_completed()
    assert open_run(fake_config_path, {}).store.manifest("pool").key == donor.store.manifest("pool").key
    assert "run fake: 1 of " in caplog.text
    assert flow.fn(config=str(fake_config_path), from_run="nowhere").is_failed()


def test_models_are_loaded_once_a_process(fake_config_path: Path) -> None:
    text = open_run(fake_config_path, {}).config.model_dump_json()
    assert run_of(text) is run_of(text)
    more = open_run(fake_config_path, {"rounds": 7}).config.model_dump_json()
    assert run_of(more).models is run_of(text).models


def test_what_salad_logs_in_a_stage_goes_to_prefect_with_run_and_stage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = logging.getLogger("theirs")
    monkeypatch.setattr(module, "get_run_logger", lambda: theirs)
    ours = logging.getLogger("salad.pipeline.somewhere")
    before = (logging.getLogger("salad").level, logging.getLogger("salad").propagate)
    with caplog.at_level(logging.INFO), own_log("[demo · round-000/speech]"):
        ours.info("%d of %d", 1, 2)
        thread = threading.Thread(target=ours.warning, args=("from a thread",))
        thread.start()
        thread.join()
    assert caplog.record_tuples == [
        ("theirs", logging.INFO, "[demo · round-000/speech] 1 of 2"),
        ("theirs", logging.WARNING, "[demo · round-000/speech] from a thread"),
    ]
    assert (logging.getLogger("salad").level, logging.getLogger("salad").propagate) == before
    assert logging.getLogger("salad").handlers == []


@pytest.mark.parametrize("error", [SaladError("the disk is full"), NetworkError("no answer")])
def test_a_stage_that_fails_ends_the_flow_in_one_line(
    fake_config_path: Path, error: SaladError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_stage(*_: str) -> State[Any]:
        if isinstance(error, NetworkError):
            raise error  # its tries are over
        return Failed(message=str(error))

    monkeypatch.setattr(module, "run_stage", run_stage)
    state = salad_round.fn(config=str(fake_config_path))
    assert state.is_failed()
    assert state.message == str(error)


def test_a_mistake_of_the_user_fails_in_one_line(tmp_path: Path) -> None:
    state = salad_round.fn(config=str(tmp_path / "none.yaml"))
    assert state.is_failed()
    assert state.message
    assert "none.yaml" in state.message
    assert "\n" not in state.message


def test_a_run_in_use_is_refused(fake_config_path: Path, given: list[tuple[Any, ...]]) -> None:
    with open_run(fake_config_path, {}).store.lock():
        state = salad_round.fn(config=str(fake_config_path))
    assert state.is_failed()
    assert state.message
    assert "is in use by" in state.message
    assert given == []


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9/api"])
def test_serve_without_a_server_says_which_commands_start_one(tmp_path: Path, url: str | None) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path), **({"PREFECT_API_URL": url} if url else {})}
    salad = Path(sys.executable).with_name("salad")
    done = subprocess.run([salad, "serve"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "`prefect server start`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`" in done.stderr


def test_the_flow_takes_what_salad_round_takes() -> None:
    from salad.cli import one_round

    options = set(inspect.signature(one_round).parameters) - {"number"}
    assert set(salad_round.parameters.properties) == options | {"round"}
