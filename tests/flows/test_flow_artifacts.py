"""Text of the data is inert in Prefect; progress is told rarely, and never at the price of the run."""

from __future__ import annotations

import logging
import re
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from httpx import ConnectError
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from salad.flows import artifacts
from salad.flows.artifacts import StageProgress, artifact_key, inert, table_rows
from salad.pipeline.stages import Run, Stage
from tests.pipeline.test_report import publish

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
        self.fails: Exception | None = None
        self.takes = 0.0  # seconds of a call
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
        self.now += self.takes
        if self.fails:
            raise self.fails


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


@pytest.mark.parametrize("error", [ConnectError("no server"), RuntimeError("Failed to reach API"), OSError("no route")])
def test_a_silent_server_does_not_stop_a_stage(shown: Shown, error: Exception) -> None:
    shown.fails = error
    progress = StageProgress("demo", a_stage(total=10))
    shown.now = 3.0
    progress(5)
    progress.finish(4.0)
    assert len(shown.calls) == 2


def test_a_silent_server_holds_up_no_stage(shown: Shown) -> None:
    """Prefect repeats a call for two minutes: not with every step."""
    shown.fails, shown.takes = ConnectError("no server"), 126.0
    progress = StageProgress("demo", a_stage(total=1_000))
    for step in range(1, 1_001):
        shown.now += 1.0
        progress(step)
    assert len(shown.calls) == 1
    for step in range(1_000, 3_000):
        shown.now += 1.0
        progress(step)
    assert 2 <= len(shown.calls) <= 3


class Taken:
    """Stands for a Prefect server that takes artefacts until it no longer answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: int = 1_000) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.calls, self.answers = 0, answers
        for kind in ("markdown", "table", "link"):
            monkeypatch.setattr(artifacts, f"create_{kind}_artifact", partial(self._take, kind))

    def _take(self, kind: str, body: Any, key: str, description: str, **more: Any) -> None:
        self.calls += 1
        if self.calls > self.answers:
            raise ConnectError("no server")
        self.found[key] = {"kind": kind, "body": body, "description": description, **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return publish(tmp_path / "a (b) [c] _d_ #e")


def test_what_ends_a_flow_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, page = Taken(monkeypatch), run.store.path("report") / "index.html"
    artifacts.show_results(run, page, "round 1")
    assert {key: of["kind"] for key, of in taken.found.items()} == {
        "small-summary": "markdown", "small-table-clusters": "table", "small-table-speech": "table",
        "small-table-heldout": "table",
        "small-report": "markdown",
    }  # fmt: skip
    assert all(of["description"].startswith("Run small") for of in taken.found.values())
    assert taken.found["small-summary"]["description"] == "Run small, after round 1: D 1.250 nats"
    assert "- This flow run: round 1." in taken.found["small-summary"]["body"]


def test_the_clusters_as_a_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Taken(monkeypatch)
    artifacts.show_round(run, 2)
    assert taken.found.keys() == {"small-summary", "small-table-clusters"}
    rows = taken.found["small-table-clusters"]["body"]
    assert [row["cluster"] for row in rows] == [1, 0, 2]  # by P_target
    assert rows[1] == {
        "cluster": 0, "mostly": "\\<b onclick=alert(2)>law\\</b> 67%", "texts": 6, "probes": 4, "D ± SE": "1.125 ± 0.250",
        "CER": 0.125, "flag": "", "P_web": 0.4, "P_target": 0.25,
    }  # fmt: skip
    assert (rows[0]["D ± SE"], rows[2]["flag"]) == ("2.250", "cer")


def test_the_report_is_a_link_and_a_path(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, page = Taken(monkeypatch), run.store.path("report") / "index.html"
    artifacts.show_results(run, page)
    markdown = MarkdownIt("commonmark")
    monkeypatch.setattr(markdown, "validateLink", lambda url: True)  # of itself it refuses file://
    link, path = (t for t in markdown.parse(taken.found["small-report"]["body"]) if t.type == "inline")
    assert [t.attrGet("href") for t in link.children or [] if t.type == "link_open"] == [page.resolve().as_uri()]
    assert {t.type for t in path.children or []} <= {"text", "text_special"}
    assert "".join(t.content for t in path.children or []) == f"It lies at {page.resolve()}"


def test_the_report_of_a_run_elsewhere_is_its_url(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Taken(monkeypatch)
    monkeypatch.setattr(type(run.store), "__str__", lambda _: "s3://me:secret@bucket/a (b)/[small]")
    artifacts.show_results(run, run.store.path("report") / "index.html")
    report = taken.found["small-report"]
    assert report["kind"] == "link"
    assert report["body"] == "s3://%2A%2A%2A@bucket/a%20%28b%29/%5Bsmall%5D/report/index.html"
    assert report["link_text"] == "The report of run small"


@pytest.mark.parametrize("answers", [0, 2])
def test_a_silent_server_ends_no_flow_and_is_asked_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: int
) -> None:
    """Prefect repeats a call for minutes before it gives up."""
    taken = Taken(monkeypatch, answers)
    monkeypatch.setattr(artifacts, "get_logger", lambda name: logging.getLogger("test"))
    artifacts.show_results(run, run.store.path("report") / "index.html")
    assert taken.calls == answers + 1
    assert [r.getMessage() for r in caplog.records] == ["run small: not shown in Prefect: ConnectError: no server"]


def test_a_table_that_cannot_be_made_leaves_out_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken = Taken(monkeypatch)
    monkeypatch.setattr(artifacts, "get_logger", lambda name: logging.getLogger("test"))
    (run.store.path("round-001/scores") / "clusters.parquet").write_bytes(b"no table")
    artifacts.show_results(run, run.store.path("report") / "index.html")
    assert taken.found.keys() == {"small-table-speech", "small-table-heldout", "small-report"}
    assert len(caplog.records) == 2


def test_before_stage_one_only_the_report_and_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, bare = Taken(monkeypatch), publish(tmp_path, until="pool")
    artifacts.show_results(bare, bare.store.path("report") / "index.html")
    assert taken.found.keys() == {"small-table-speech", "small-table-heldout", "small-report"}
