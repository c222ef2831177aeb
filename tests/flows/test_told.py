"""What a run says of itself in Prefect after a round: facts of its artefacts, in Markdown that the data cannot change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from salad.flows.told import following, name_of, rounds_done, summary_text
from salad.pipeline.stages import Run
from tests.pipeline import test_report as small
from tests.pipeline.test_report import publish

WITH_CONTROL = (
    "Against the control (Stage I’s data for as many steps): Text by text, D after round 1 is 0.500 ± 0.000 below the control’s."
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return publish(tmp_path)


def test_after_the_last_round(run: Run) -> None:
    assert rounds_done(run) == 2
    lines = summary_text(run, 2, "stopped after round 1: budget: 119 of 120 s are spoken").splitlines()
    assert lines[0] == "Run **small**, after round 1"
    assert lines[2].startswith("- Spent: 60 s of speech on 12 texts, of 60 s asked; 119 s in all rounds. The round took 0 s.")
    assert lines[2].endswith("Chosen by importance-diverse.")
    assert "- D fell by 0.250 \\[0.250, 0.250\\] nats since round 0, text by text: better." in lines
    assert f"- {WITH_CONTROL}" in lines
    assert any(
        line.startswith("- Clusters that get the most in round 1: 1 (kitchen 100%; 40% of the pool) 75%; 0 (") for line in lines
    )
    assert "- Flagged, and given nothing: 2 (cer)." in lines
    assert "- Turned down: 1 not understood, 1 over budget." in lines
    assert "- This flow run: stopped after round 1: budget: 119 of 120 s are spoken." in lines
    assert "- Next: nothing; the rounds that were asked for are done." in lines
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| held-out texts (nats) | after round 0 | after round 1 |"
    assert table[2] == r"| D | 1.500 | 1.250 \[0.750, 1.500\] |"


def test_after_stage_one_and_between_rounds(tmp_path: Path) -> None:
    run = publish(tmp_path, until="stage-one/metrics")
    text = summary_text(run, 0)
    assert text.startswith("Run **small**, after Stage I\n\n- Spent: 298 s of natural speech.\n- Next: round 0.\n")
    assert "| held-out texts (nats) | untrained | after Stage I |" in text
    run = publish(tmp_path, until="round-000/metrics")
    assert rounds_done(run) == 1
    text = summary_text(run, 1)
    assert "nats since Stage I, text by text: better." in text
    assert "- Against the control: it is trained when the rounds have ended." in text
    assert "- Next: round 1." in text


def test_before_stage_one_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert rounds_done(publish(tmp_path, until="pool")) is None


def test_a_rise_is_called_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small.D, "round-001/metrics", 1.75)
    worse = publish(run.store.root.parent / "worse")
    assert "D rose by 0.250 \\[0.250, 0.250\\] nats since round 0, text by text: worse." in summary_text(worse, 2)


def test_the_control_comes_after_the_rounds(tmp_path: Path) -> None:
    run = publish(tmp_path, until="round-001/metrics")
    assert following(run, 2).startswith("the control")
    assert following(run, 1) == "round 1"


def test_gaps_stand_beside_d(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"<i>quiz</i> | x": {"gap": 0.25, "gap_low": 0.125, "gap_high": 0.375}}
    from salad.pipeline import summary

    found = summary.metrics
    monkeypatch.setattr(summary, "metrics", lambda run, name: found(run, name) | {"benchmarks": asked})
    line = "| gap on \\<i>quiz\\</i> \\| x | 0.250 \\[0.125, 0.375\\] | 0.250 \\[0.125, 0.375\\] |"
    assert line in summary_text(run, 2).splitlines()


def test_nothing_of_the_data_is_markdown(run: Run) -> None:
    """The domain of four texts is markup."""
    text = summary_text(run, 2, "<script>alert(1)</script> [x](http://x)")
    tags = set(re.findall(r"<[^>]*>", MarkdownIt("commonmark", {"html": True}).enable("table").render(text)))
    assert tags <= {
        f"<{end}{t}>" for t in ("p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td") for end in ("", "/")
    }
    assert "\\<b onclick=alert(2)>law" in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a|b", "x" * 100_000, "\x1b[31mred", "\u202eright", "[x](http://x)"]
)
def test_names_are_short_and_inert(name: str) -> None:
    shown = name_of(name)
    assert len(shown) < 250
    assert shown.isprintable()
    assert not re.search(r"(?<!\\)[<|\[]", shown)
