"""Rounds until there is a reason to stop: which stages, in which order, with how many rounds in the run's configuration."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from salad.artifact import Manifest
from salad.flows import salad_run as module
from salad.flows.salad_run import rounds_until
from salad.pipeline.stages import Run, Stage, open_run
from salad.pipeline.stopping import Limits, Measured


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were built; each published, with nothing in it."""
    names: list[str] = []

    def build(run: Run, stages: list[Stage], from_run: str | None) -> None:
        assert from_run is None
        for stage in stages:
            names.append(stage.name)
            run.store.publish(stage.name, Manifest(stage.name, "key", {}, {}, "1", 0, 0.0), lambda out: {})

    monkeypatch.setattr(module, "build", build)
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(
        "salad.flows.artifacts.show_round", lambda run, rounds: names.append(f"shown {rounds} of {run.config.rounds}")
    )
    monkeypatch.setattr("salad.pipeline.stopping.measured", lambda run, rounds: Measured(rounds, 100.0 * rounds, 1.0, None, None))
    return names


def until(config: Path, limits: Limits, **changes: object) -> tuple[Run, str]:
    run = open_run(config, changes)
    with run.store.lock():
        return rounds_until(run, limits)


def test_it_builds_what_the_command_line_builds(fake_config_path: Path, built: list[str]) -> None:
    run, reason = until(fake_config_path, Limits(3, least_fall=None), rounds=1)
    assert reason == "stopped after round 2: rounds: 3 of at most 3"
    of_the_command = open_run(fake_config_path, {"rounds": 3})
    shown = [name for name in built if name.startswith("shown")]
    assert shown == ["shown 1 of 2", "shown 2 of 3"]  # what comes next is another round; the end has its own
    assert built.index("shown 1 of 2") == built.index("round-000/metrics") + 1
    assert [n for n in built if n not in shown] == [
        s.name for s in of_the_command.stages[:-1]
    ]  # the report is written in any case
    assert run.config == of_the_command.config == run.store.config()


def test_no_control_where_none_is_asked_for(fake_config_path: Path, built: list[str]) -> None:
    until(fake_config_path, Limits(1), control=False)
    assert built[-1] == "round-000/metrics"


def test_the_budget_ends_it(fake_config_path: Path, built: list[str]) -> None:
    run, reason = until(fake_config_path, Limits(9, seconds=250.0, least_fall=None))
    assert run.config.rounds == 2
    assert reason == "stopped after round 1: budget: 200 of 250 s are spoken, and a round takes 100"


def test_rounds_that_are_there_are_kept_and_judged_after_the_last(fake_config_path: Path, built: list[str]) -> None:
    until(fake_config_path, Limits(3, least_fall=None))
    built.clear()
    run, reason = until(fake_config_path, Limits(1, least_fall=None))
    assert run.config.rounds == run.store.config().rounds == 3
    assert reason == "stopped after round 2: rounds: 3 of at most 1"
    assert not any(name.startswith("round-003") for name in built)


def test_more_rounds_later(fake_config_path: Path, built: list[str]) -> None:
    until(fake_config_path, Limits(1, least_fall=None))
    run, _ = until(fake_config_path, Limits(2, least_fall=None))
    assert run.config.rounds == 2
    assert built.count("control/checkpoint") == 2, "its steps are as many as the rounds'"
