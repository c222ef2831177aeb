"""Every command that the documentation shows is run as it stands there, or its reason not to be is in `elsewhere.py`.

The folder it is run in looks like the reader's: `configs/demo.yaml` is a configuration of the fakes, `runs/demo` its finished
run. Simulations get smaller numbers.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.docs.elsewhere import ELSEWHERE
from tests.docs.reading import ROOT, Command, commands, filled, lines

Salad = Callable[..., str]
LIGHT = ("--help", "strategies", "plan")  # need no run
SMALLER = {"--texts": "400", "--clusters": "4", "--seeds": "2", "--budget": "60"}  # in place of a page's millions


def parsed(words: list[str]) -> str:
    """Put the words of a `salad` command through the command line's own parser: "whole", or "mention" where it lacks arguments.

    Raises what the command line would tell its user.
    """
    import typer

    from salad.cli import app

    group: Any = typer.main.get_command(app)
    before = [w for w in words[1:2] if w in ("--help", "-h", "--debug")]
    after = words[1 + len(before) :]
    if not after:
        return "whole"
    if after[0] not in group.commands:
        raise ValueError(f"there is no command {after[0]!r}")
    try:
        group.commands[after[0]].make_context(after[0], after[1:])
    except typer.Exit:
        return "whole"
    except Exception as e:
        if type(e).__name__ == "MissingParameter":
            return "mention"
        raise
    return "whole"


def runnable() -> list[Any]:
    """The commands to run here, each a test of its own."""
    found = []
    for command in commands():
        if command.text in ELSEWHERE or not command.words or command.words[0] not in ("salad", "python"):
            continue
        if command.words[0] == "salad" and _kind(command) != "whole":
            continue
        light = any(word in command.words for word in LIGHT)
        found.append(pytest.param(command, id=command.typed, marks=() if light else pytest.mark.slow))
    return found


def _kind(command: Command) -> str:
    try:
        return parsed(command.words)
    except Exception:
        return "wrong"  # test_is_understood says how


@pytest.mark.parametrize("command", [c for c in commands() if c.text.startswith("salad")], ids=lambda c: c.typed)
def test_is_understood(command: Command) -> None:
    parsed(command.words)


@pytest.mark.parametrize(
    "words", ["salad rnu configs/demo.yaml", "salad run configs/demo.yaml --buget 3", "salad plan --cores 0 x"]
)
def test_what_is_misspelt_is_found(words: str) -> None:
    with pytest.raises(Exception, match=r"no command|No such option|greater than or equal to 1"):
        parsed(shlex.split(words))


def test_every_other_command_has_its_reason() -> None:
    run = {param.values[0].text for param in runnable()}
    for command in commands():
        mentioned = command.words[0] == "salad" and parsed(command.words) == "mention"
        assert command.text in ELSEWHERE or command.text in run or mentioned, f"{command.page}: {command.text}"


def test_no_reason_outlives_its_command() -> None:
    shown = {command.text for command in commands()}
    assert [text for text in ELSEWHERE if text not in shown] == []


def test_reasons_name_tests_that_exist() -> None:
    for reason in ELSEWHERE.values():
        for named in re.findall(r"tests/[\w/]+\.py", reason):
            assert (ROOT / named).is_file(), named


def test_what_make_and_python_are_asked_for_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert target in targets, f"{page.name}: make {target}"
        for script in re.findall(r"`(?:python|pytest)\s+((?:bench|tests)/[\w/.-]+)", text):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


def test_deployments_have_the_parameters_that_are_shown() -> None:
    from salad.flows.salad_round import salad_round

    known = set(inspect.signature(salad_round.fn).parameters)
    shown = [c.words for c in commands() if c.words[:3] == ["prefect", "deployment", "run"]]
    assert shown
    for words in shown:
        assert words[3] == "salad-round"
        assert {w.partition("=")[0] for before, w in pairwise(words) if before == "--param"} <= known


def test_the_reader_fills_in_what_stands_for_something() -> None:
    assert filled("salad eval RUN [--items N]…") == ["salad eval runs/demo --items 4", "salad eval runs/demo"]
    assert lines("console", "$ salad run x  # go\nprinted\n") == ["salad run x"]
    assert lines("yaml", "salad run x\n") == []


@pytest.mark.parametrize("command", runnable())
def test_runs(
    command: Command, request: pytest.FixtureRequest, reader_folder: Path, monkeypatch: pytest.MonkeyPatch, salad: Salad
) -> None:
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("reader_run")
    monkeypatch.chdir(reader_folder)
    words = command.words
    if words[0] == "python":
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, *words[1:]], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    if words[1] == "simulate":
        words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
        words += [] if "--texts" in words else ["--texts", SMALLER["--texts"]]
    assert salad(*words[1:])
