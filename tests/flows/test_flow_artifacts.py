"""Text of the data is inert in Prefect; progress is told rarely, and never at the price of the run."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from httpx import ConnectError
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from salad.flows import artifacts
from salad.flows.artifacts import StageProgress, artifact_key, inert, table_rows
from salad.pipeline.stages import Stage

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=60)


@given(PRINTABLE)
@example("# a *b* _c_ `d` [e](http://f) ![g](h) <script>alert(1)</script> &lt; ~~i~~ | j")
@example("1. one")
@example("2) two")
@example("- item")
@example("+ item")
@example("---")
@example("=== x")
@example("> quote")
@example("    code")
@example("a\n\n# b")
@example("[x]: http://y")
@example("\\*a\\*")
@example("(__a__) a__b__ _ __ x_y_z _é_ a_(b)_c")
@example("## #")
@example("-")
@example("1)")
@example("~~~")
@example("***")
@example("a | b")
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(inert(text))
    words = " ".join(text.split())
    if not words:
        assert tokens == []
        return
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {t.type for t in tokens[1].children or []} <= {"text", "text_special"}
    assert "".join(t.content for t in tokens[1].children or []) == words


@pytest.mark.parametrize("text", ["see http://x.org", "see WWW.x.org", "me@x.org", "mailto:me@x.org", "ftp://x"])
def test_no_bare_link_survives(text: str) -> None:
    """GitHub's dialect makes links of these without any bracket."""
    assert not re.search(r"(?<!\\):(?=//)|(?<!\\)@|www\.", inert(text), re.IGNORECASE)


def test_plain_text_stays_readable() -> None:
    for text in ("0 (importance-diverse), 3.5 s", "round-000/checkpoint: 40 of 200", "/data/my_runs/a.b/index.html", "1.5 #2 -3"):
        assert inert(text) == text


@pytest.mark.parametrize("parts", [("demo", "round-000/scores"), ("My_Run.2", "pool"), ("-x-", "a b")])
def test_keys_are_what_prefect_allows(parts: tuple[str, ...]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", artifact_key(*parts))


def test_table_rows() -> None:
    rows = table_rows(["student", "steps", "D", "CER"], [["<b>x</b>", 10, 0.123456, None]])
    assert rows == [{"student": r"\<b>x\</b>", "steps": 10, "D": 0.1235, "CER": "–"}]


class Shown:
    """Stands for Prefect: a clock to turn, and what was created and updated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, float, str]] = []
        self.fails = False
        monkeypatch.setattr("salad.flows.artifacts.time.monotonic", lambda: self.now)
        monkeypatch.setattr(artifacts, "create_progress_artifact", self._create)
        monkeypatch.setattr(artifacts, "update_progress_artifact", self._update)

    def _create(self, progress: float, key: str, description: str) -> uuid.UUID:
        self._note(f"create {key}", progress, description)
        return uuid.uuid4()

    def _update(self, _: uuid.UUID, progress: float, description: str) -> None:
        self._note("update", progress, description)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails:
            raise ConnectError("no server")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    return Shown(monkeypatch)


def a_stage(total: float | None) -> Stage:
    def build(out: Path, progress: Any) -> dict[str, Any]:
        raise NotImplementedError

    return Stage("round-000/checkpoint", build, {}, total=total, unit="steps")


def test_progress_is_told_every_two_seconds_at_most(shown: Shown) -> None:
    progress = StageProgress("demo", a_stage(total=200))
    for step in range(1, 101):
        shown.now = step * 0.05  # 5 s in all
        progress(step)
    progress.finish(5.0)
    assert [(what, percent) for what, percent, _ in shown.calls] == [
        ("create demo-round-000-checkpoint", 20.0),
        ("update", 40.0),
        ("update", 100.0),
    ]
    assert shown.calls[0][2] == "round-000/checkpoint: 40 of 200 steps"


def test_a_short_stage_is_told_once(shown: Shown) -> None:
    progress = StageProgress("demo", a_stage(total=10))
    progress(5)
    progress.finish(0.5)
    assert [percent for _, percent, _ in shown.calls] == [100.0]


def test_progress_of_unknown_length_is_counted(shown: Shown) -> None:
    progress = StageProgress("demo", a_stage(total=None))
    shown.now = 3.0
    progress(1234)
    assert shown.calls[0][1:] == (0.0, "round-000/checkpoint: 1,234 steps")


def test_more_than_foreseen_is_still_at_most_all(shown: Shown) -> None:
    progress = StageProgress("demo", a_stage(total=10))
    shown.now = 3.0
    progress(12)
    assert shown.calls[0][1] == 100.0


def test_a_silent_server_does_not_stop_a_stage(shown: Shown) -> None:
    shown.fails = True
    progress = StageProgress("demo", a_stage(total=10))
    shown.now = 3.0
    progress(5)
    progress.finish(4.0)
    assert len(shown.calls) == 2
