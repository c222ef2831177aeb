"""`prefect deployment run salad-round`, as it is written, and no other command changed."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from prefect.plugins import HookContext

from salad.flows import prefect_plugin
from salad.flows.prefect_plugin import FLAGS, with_full_name

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("deployment run salad-round", "deployment run salad-round/salad-round"),
        ("deployments run salad-round", "deployments run salad-round/salad-round"),
        ("deployment run salad-round --watch", "deployment run salad-round/salad-round --watch"),
        ("deployment run --watch salad-round", "deployment run --watch salad-round/salad-round"),
        ("deployment run -p round=1 x", "deployment run -p round=1 x/x"),
        ("deployment run --param=round=1 x", "deployment run --param=round=1 x/x"),
        ("deployment run --param config=a.yaml --tag t x", "deployment run --param config=a.yaml --tag t x/x"),
        ("--profile local deployment run x", "--profile local deployment run x/x"),
        ("-p local --no-prompt deployment run x", "-p local --no-prompt deployment run x/x"),
    ],
)
def test_a_bare_name_is_completed(given: str, wanted: str) -> None:
    assert with_full_name(given.split()) == wanted.split()


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["version"],
        ["deployment"],
        ["deployment", "run"],
        ["deployment", "run", ""],
        ["deployment", "run", "a/b"],
        ["deployment", "run", "--help"],
        ["deployment", "run", "--id", "0b6e"],
        ["deployment", "inspect", "x"],
        ["deployment", "delete", "x"],
        ["flow-run", "run", "x"],
        ["work-pool", "create", "deployment", "run", "x"],
        ["--profile", "deployment", "run", "x"],
    ],
)
def test_everything_else_is_left_alone(args: list[str]) -> None:
    assert with_full_name(list(args)) == args


def test_the_flags_are_those_of_prefect() -> None:
    from prefect.cli.deployment import run

    options = [p for p in inspect.signature(run, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
    flags = {f"--{p.name.replace('_', '-')}" for p in options if p.annotation.__origin__ is bool}
    assert flags == {"--watch"}
    assert flags | {"--no-watch", "--help", "--prompt", "--no-prompt"} == FLAGS


@pytest.mark.parametrize(
    ("program", "started_as", "changed"),
    [
        ("/some/bin/prefect", [], True),
        ("-m", ["python", "-m", "prefect", "deployment", "run", "x"], True),
        ("-m", ["python", "-m", "other", "deployment", "run", "x"], False),
        ("/some/bin/pytest", [], False),
        ("", [], False),
    ],
)
def test_only_the_prefect_command_is_touched(
    monkeypatch: pytest.MonkeyPatch, program: str, started_as: list[str], changed: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "deployment", "run", "x"])
    monkeypatch.setattr(sys, "orig_argv", started_as)
    prefect_plugin.setup_environment(ctx=HookContext("3", None, logging.getLogger))
    assert sys.argv == [program, "deployment", "run", "x/x" if changed else "x"]


def test_prefect_can_find_the_plugin() -> None:
    found = {e.name: e.value for e in entry_points(group="prefect.plugins")}
    assert found["salad"] == prefect_plugin.__name__
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["prefect"]
    assert settings["plugins"]["enabled"] is True


def test_the_plugin_costs_other_prefect_commands_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "numpy"}
    code = f"import sys, salad.flows.prefect_plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
