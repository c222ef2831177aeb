"""Runs side by side: paired where that is right, honest where it is not, and one line for what cannot be compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from salad.errors import SaladError
from salad.pipeline import comparison
from salad.pipeline.comparison import Comparison, differences, fairness, overlap, tables, verdicts
from salad.pipeline.comparison.facts import labels, side_of
from salad.pipeline.comparison.figures import all_figures, plain
from salad.pipeline.stages import Run, existing_run
from tests.fakes import write_config
from tests.side_by_side import DOMAINS, TEXTS, publish


def compared(*runs: Run, to: str | None = None) -> Comparison:
    return comparison.compare([existing_run(str(run.store)) for run in runs], to)


def row(found: Comparison, who: str, measure: str = "D") -> differences.Difference:
    return next(r for r in found.overall if r.who == who and r.measure == measure)


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    """A run, and one of another strategy that is a little worse: far less than texts differ."""
    other = publish(tmp_path, "two", falls={"round-000": 1.65, "round-001": 1.5}, chosen=range(5, 15), select__selector="uniform")
    return compared(publish(tmp_path, "one"), other)


# -- by how much ----------------------------------------------------------------------------------------------


def test_a_small_difference_shows_text_by_text_and_not_as_two_samples(two: Comparison, tmp_path: Path) -> None:
    paired = row(two, "two")
    assert paired.paired
    assert (paired.verdict, paired.texts) == ("worse", TEXTS - 1)  # one has no finite D
    assert paired.interval is not None
    assert paired.interval.low < paired.mean < paired.interval.high
    apart = publish(tmp_path, "apart", falls={"round-000": 1.65, "round-001": 1.5}, heldout="z")
    unpaired = row(compared(two.sides[0].run, apart), "apart")
    assert not unpaired.paired
    assert unpaired.verdict == "no difference"
    assert unpaired.mean == pytest.approx(paired.mean, abs=0.03)
    assert unpaired.interval is not None
    assert unpaired.interval.high - unpaired.interval.low > 3 * (paired.interval.high - paired.interval.low)


def test_the_mean_is_that_of_differences_of_the_same_texts(two: Comparison) -> None:
    one, other = (side.students[-1].values["D"] for side in two.sides)
    assert row(two, "two").mean == pytest.approx(float(np.nanmean(other - one)))
    kitchen = next(r for r in two.domains if r.who == "two" and r.domain == "kitchen")
    of = two.sides[0].students[-1].domains == "kitchen"
    assert kitchen.mean == pytest.approx(float(np.nanmean((other - one)[of])))
    assert kitchen.texts == TEXTS // 4 - 1


def test_texts_are_paired_by_id_in_whatever_order(two: Comparison) -> None:
    one, other = (side.students[-1] for side in two.sides)
    turned = differences.Student(
        **{**other.__dict__, "ids": other.ids[::-1], "domains": other.domains[::-1]}
        | {"values": {k: v[::-1] for k, v in other.values.items()}}
    )
    found, plainly = differences.difference(turned, one, "x"), differences.difference(other, one, "x")
    assert found
    assert plainly
    assert (found.mean, found.paired) == (pytest.approx(plainly.mean), True)


def test_a_run_and_its_copy_do_not_differ(tmp_path: Path) -> None:
    one = publish(tmp_path, "one")
    shutil.copytree(one.store.root, tmp_path / "copy")
    found = compared(one, existing_run(str(tmp_path / "copy")))
    assert (row(found, "copy").mean, row(found, "copy").verdict) == (0.0, "no difference")
    assert any("copies of one run" in note for note in comparison.notes(found))


def test_too_few_texts_are_no_verdict(tmp_path: Path) -> None:
    found = compared(publish(tmp_path, "one", texts=2), publish(tmp_path, "two", texts=2, falls={"round-001": 1.5}))
    assert row(found, "two").verdict == "too few texts"
    assert "cannot be told from" in verdicts(found)[0]
    assert "on 1 held-out text:" in verdicts(found)[0]


def test_m_and_f_count_where_the_lm_is_trained(two: Comparison, tmp_path: Path) -> None:
    assert {r.measure for r in two.overall} == {"D", "M", "F"}
    frozen = [publish(tmp_path, name, student__lm="frozen") for name in ("three", "four")]
    assert {r.measure for r in compared(*frozen).overall} == {"D"}


def test_the_control_takes_part_once_however_many_share_it(two: Comparison) -> None:
    assert row(two, "control of one, two").verdict == "worse"
    assert row(two, "control of one, two").student == "control"
    against = comparison.compare([side.run for side in two.sides], "control")
    assert [(r.who, r.verdict) for r in against.overall if r.measure == "D"] == [("one", "better"), ("two", "better")]
    assert "difference" not in all_figures(against)
    assert "difference" in all_figures(two)


def test_a_control_of_fewer_rounds_is_no_yardstick(tmp_path: Path) -> None:
    one = publish(tmp_path, "one")
    assert side_of(one, "one").control
    assert side_of(one.with_rounds(3), "one").control is None


def test_the_base_may_be_any_of_them(two: Comparison) -> None:
    runs = [side.run for side in two.sides]
    for to in ("two", str(runs[1].store), str(runs[1].store) + "/"):
        turned = comparison.compare(runs, to)
        assert row(turned, "one").verdict == "better"
        assert row(turned, "one").mean == pytest.approx(-row(two, "two").mean)
    with pytest.raises(
        SaladError, match=r"--to tow is none of these runs; did you mean 'two'\?: name one of: one, two; or control"
    ):
        comparison.compare(runs, "tow")


# -- at what cost ---------------------------------------------------------------------------------------------


def test_cost_is_for_a_tenth_of_a_nat(two: Comparison) -> None:
    cost = two.costs[0]
    assert cost.change is not None
    assert cost.each(cost.speech) == pytest.approx(121.0 * 0.1 / -cost.change.mean)
    assert cost.beyond is not None
    assert -cost.beyond.mean < -cost.change.mean  # the control's steps alone gave some


def test_cost_is_not_defined_where_nothing_was_gained(tmp_path: Path) -> None:
    flat = publish(tmp_path, "flat", falls={"round-000": 2.0, "round-001": 2.0})
    worse = publish(tmp_path, "worse", falls={"round-001": 2.4})
    found = compared(flat, worse)
    columns, rows = tables.costs(found.sides, found.costs)
    assert [r[columns.index("so")] for r in rows] == ["nothing gained", "D rose"]
    assert all(r[columns.index("speech s per 0.1") :] == [None] * 4 for r in rows)


# -- alike? ---------------------------------------------------------------------------------------------------


def test_overlap_of_selections(two: Comparison) -> None:
    (found,) = two.overlaps
    assert (found.texts, found.common) == ((20, 20), 10)
    assert found.jaccard == 10 / 30
    assert found.by_chance == pytest.approx(2 / 38)  # 20 · 20 / 200 texts in common
    assert found.clusters == pytest.approx(0.9)  # 4, 3, 3 of ten in the one; 3, 3, 4 in the other
    assert found.domains == pytest.approx(0.9)


def test_overlap_of_other_clusters_and_pools_is_not_made_up(tmp_path: Path) -> None:
    found = compared(publish(tmp_path, "one"), publish(tmp_path, "two", seed=1))
    assert (found.overlaps[0].clusters, found.overlaps[0].by_chance) == (None, None)
    assert found.overlaps[0].jaccard == 1.0


def test_in_common() -> None:
    assert overlap.in_common({"a": 1.0, "b": 1.0}, {"a": 30.0, "b": 30.0}) == 1.0
    assert overlap.in_common({"a": 1.0}, {"b": 1.0}) == 0.0
    assert overlap.in_common({"a": 3.0, "b": 1.0}, {"a": 1.0, "c": 1.0}) == 0.5


# -- fair? ----------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_strategy_alone_are_fair(two: Comparison) -> None:
    assert two.unfair == []
    assert [(one.what, one.values) for one in two.chosen_by] == [("select.selector", ["importance-diverse", "uniform"])]
    assert comparison.notes(two) == []


@pytest.mark.parametrize(
    ("changes", "what", "grave"),
    [
        ({"models__lm": "other/lm"}, "teacher", True),
        ({"heldout": "z"}, "held-out texts", True),
        ({"speech__heldout_voice": {"engine": "espeak", "voice": "en"}}, "held-out voice (speech.heldout_voice)", True),
        ({"seed": 3}, "seed", False),
        ({"select__budget": 90}, "budget a round (s)", False),
        ({"train__round_steps": 5}, "training (train.round_steps)", False),
        ({"rounds": 1}, "rounds measured", False),
        ({"models__encoder": "other/ears"}, "speech encoder", False),
    ],
)
def test_what_is_unfair_stands_at_the_top(tmp_path: Path, changes: dict[str, object], what: str, grave: bool) -> None:
    found = compared(publish(tmp_path, "one"), publish(tmp_path, "two", **changes))  # type: ignore[arg-type]
    assert {one.what: one.grave for one in found.unfair}[what] is grave
    assert comparison.notes(found)[0].startswith("These runs differ in: ")
    assert what in comparison.notes(found)[0]


@pytest.mark.parametrize("changes", [{"control": False}, {"compute__runner": "processes"}, {"speech__workers": 3}])
def test_what_changes_no_figure_is_not_unfair(tmp_path: Path, changes: dict[str, object]) -> None:
    assert compared(publish(tmp_path, "one"), publish(tmp_path, "two", **changes)).unfair == []  # type: ignore[arg-type]


def test_long_values_that_begin_alike_still_differ() -> None:
    one, other = fairness._shown(["x" * 100_000 + "a"]), fairness._shown(["x" * 100_000 + "b"])
    assert one != other
    assert len(one) < 100


# -- seeds ----------------------------------------------------------------------------------------------------


def test_strategies_over_seeds_are_paired_by_seed(tmp_path: Path) -> None:
    levels = {1: 1.2, 2: 1.5, 3: 1.8}  # seeds differ by more than strategies
    runs = [publish(tmp_path, f"ours-{s}", falls={"round-001": d}, seed=s) for s, d in levels.items()]
    for s, d in levels.items():
        runs.append(publish(tmp_path, f"uniform-{s}", falls={"round-001": d + 0.1}, seed=s, select__selector="uniform"))
    found = compared(*runs)
    assert found.rounds == 2
    ours, uniform = found.strategies
    assert (ours.label, uniform.label, len(ours.sides)) == ("importance-diverse", "uniform", 3)
    assert (uniform.paired, uniform.verdict) == (True, "worse")
    fewer = compared(*runs[:5])
    assert (fewer.strategies[1].paired, fewer.strategies[1].verdict) == (False, "no difference")
    alone = compared(*runs[:4])
    assert alone.strategies[1].verdict == "too few runs"
    assert compared(runs[0], runs[3]).strategies == []


# -- what there is --------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    one = publish(tmp_path, "one")
    half = publish(tmp_path, "half", falls={"round-000": 1.9}, until="round-001/scores")
    stage_one = publish(tmp_path, "begun", until="stage-one/metrics")
    bare = publish(tmp_path, "bare", until="pool")
    found = compared(one, half, stage_one, bare)
    assert [r.student for r in found.overall if r.who == "half" and r.measure == "D"] == ["after round 0", "after round 0, both"]
    assert row(found, "begun").student == "after Stage I"
    assert not any(r.who == "bare" for r in found.overall)
    notes = " ".join(comparison.notes(found))
    assert "half is unfinished; not measured yet: round-001/metrics, control/metrics." in notes
    assert "bare is unfinished; nothing is measured yet." in notes
    columns, rows = tables.runs(found.sides, found.costs)
    assert [(r[0], r[columns.index("rounds")]) for r in rows] == [
        ("one", "2"), ("half", "1 of 2"), ("begun", "0 of 2"), ("bare", "0 of 2"), ("control of one", None),
    ]  # fmt: skip
    assert len(found.overlaps) == 1
    for figure in all_figures(found).values():
        assert figure["data"]


def test_a_base_without_a_student_is_refused(tmp_path: Path) -> None:
    bare, one = publish(tmp_path, "bare", until="pool"), publish(tmp_path, "one")
    with pytest.raises(SaladError, match=r"bare has no student that is measured yet.*--to \(one\)"):
        compared(bare, one)
    assert compared(bare, one, to="one").overall
    with pytest.raises(SaladError, match=r"no student that is measured yet.*`salad run` does"):
        compared(bare, publish(tmp_path, "too", until="pool"))
    nothing = publish(tmp_path, "two", until="stage-one/metrics", control=False)
    with pytest.raises(SaladError, match="none of these runs has a control"):
        compared(nothing, bare, to="control")


def test_runs_by_folder_and_by_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    for name, selector in (("a", "uniform"), ("b", "uniform"), ("c", "kmeans++")):
        publish(runs, name, until="pool", select__selector=selector)
    monkeypatch.chdir(tmp_path)

    def names(*given: str) -> list[str]:
        return [run.config.name for run in comparison.find_runs(given)]

    assert names("runs/c", "runs/a") == ["c", "a"]
    assert names("runs/c", "uniform") == ["c", "a", "b"]
    assert names("runs/b", "uniform") == ["b", "a"]
    assert names("kmeans++", "uniform") == ["c", "a", "b"]
    for given, said in {
        ("runs/a",): "that is one run .*name two runs or more",
        ("runs/a", "runs/../runs/a"): "runs/a is named twice",
        ("runs/a", "unifrom"): "no folder unifrom, and no run below runs/ with a selector of that name; did you mean 'uniform'",
        ("runs/a", "runs"): "is not a run of salad",
        ("runs/a", "runs/nowhere"): "is not a run of salad",
    }.items():
        with pytest.raises(SaladError, match=said):
            names(*given)


def test_a_run_elsewhere_is_fetched_as_far_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "first"))
    publish("memory://compared", "far", falls={"round-001": 1.7})
    near = publish(tmp_path, "near")
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "second"))  # another machine
    found = comparison.compare(comparison.find_runs([str(near.store.root), "memory://compared/far"]))
    assert [side.label for side in found.sides] == ["near", "far"]
    assert row(found, "far").verdict == "worse"
    assert found.overlaps[0].jaccard == 1.0
    fetched = {p.parent.parent.name for p in (tmp_path / "second").rglob("_manifest.json")} | {
        p.parent.name for p in (tmp_path / "second").rglob("_manifest.json")
    }
    assert {"metrics", "selection"} <= fetched
    assert not {"checkpoint", "speech"} & fetched
    with pytest.raises(SaladError, match="named twice"):
        comparison.find_runs(["memory://compared/far", "memory://compared/far/"])


def test_gaps_are_the_runs_own_or_those_of_eval(tmp_path: Path) -> None:
    one, two = publish(tmp_path, "one", gap=0.3), publish(tmp_path, "two", falls={"round-001": 1.5})
    asked = {"later": {"gap": 0.5, "gap_low": None, "gap_high": None}, "<i>quiz</i>": {"gap": 0.9}}
    for run in (one, two):
        blank = replace(run.store.manifest("pool"), stage="eval/round-001")
        run.store.publish("eval/round-001", blank, lambda out: _write(out, {"benchmarks": asked}))
    found = compared(one, two)
    columns, rows = tables.runs(found.sides, found.costs)
    shown = [[r[columns.index(f"gap {name}")] for name in ("<i>quiz</i>", "later")] for r in rows]
    assert shown == [["+0.300 [0.200, 0.400]", "+0.500"], ["+0.900", "+0.500"], ["+0.300 [0.200, 0.400]", None]]
    assert {"gap-0-rounds", "gap-1-rounds"} <= all_figures(found).keys()


def _write(out: Path, metrics: dict[str, object]) -> dict[str, object]:
    (out / "metrics.json").write_text(json.dumps(metrics))
    return {}


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    one, two = publish(tmp_path, "one"), publish(tmp_path, "two", seed=1)
    (two.store.root / "round-000/metrics/heldout.parquet").write_bytes(b"no table")
    with pytest.raises(SaladError, match=r"two: 'round-000/metrics' cannot be read .*salad verify"):
        compared(one, two)


def test_a_copy_is_no_second_try_of_a_strategy(tmp_path: Path) -> None:
    one = publish(tmp_path, "one")
    shutil.copytree(one.store.root, tmp_path / "copy")
    assert compared(one, existing_run(str(tmp_path / "copy"))).strategies == []


def test_labels_tell_runs_apart() -> None:
    assert labels(["/x/runs/a", "/x/runs/b"]) == ["a", "b"]
    assert len(set(labels(["/x/runs/a", "/y/runs/a", "s3://bucket/a"]))) == 3


def test_the_command_prints_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, salad: Callable[..., str]) -> None:
    publish(tmp_path / "runs", "one")
    publish(tmp_path / "runs", "two", falls={"round-001": 1.7}, select__selector="uniform")
    monkeypatch.chdir(tmp_path)
    said = salad("compare", "runs/one", "runs/two")
    assert "two after round 1 is worse than one after round 1: D +0." in said
    assert "with as much synthetic speech." in said
    assert DOMAINS[2] in said
    assert DOMAINS[3] in said  # rich obeyed nothing in it
    assert (tmp_path / "comparison" / "index.html").is_file()
    assert "named twice" in salad("compare", "runs/one", "runs/one", status=1)
    assert "Missing argument" in salad("compare", status=2)


def test_names_that_a_terminal_would_obey_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, salad: Callable[..., str]
) -> None:
    name = "\x1b[31m[red]<b>{0.__class__}\u202e"
    publish(tmp_path, "one").store.root.rename(tmp_path / name)
    publish(tmp_path, "two", falls={"round-001": 1.7})
    monkeypatch.chdir(tmp_path)
    said = salad("compare", name, "two", "--out", "page", "--to", "two")
    assert "�[31m[red]<b>{0.__class__}� after round 1 is better than two after round 1" in said
    assert not {c for c in said if not c.isprintable() and c != "\n"}


def test_it_loads_no_model_library() -> None:
    code = (
        "import sys, salad.compare, salad.pipeline.comparison.page, salad.pipeline.comparison.strategies\n"
        "heavy = {'torch', 'transformers', 'faiss', 'prefect', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_strategies_of_real_students(
    tmp_path: Path, fake_models: dict[str, str], monkeypatch: pytest.MonkeyPatch, salad: Callable[..., str]
) -> None:
    """Tiny models, everything else as it is: pool, held-out texts, Stage I and the control are the same for both."""
    config = write_config(tmp_path, fake_models, rounds=1)
    monkeypatch.chdir(tmp_path)
    for name, selector in (("ours", "importance-diverse"), ("even", "uniform")):
        salad("run", str(config), "--name", name, "--selector", selector)
    said = salad("compare", "runs/even", "runs/ours")
    assert "differ in" not in said
    assert "unpaired" not in said
    assert "control of even, ours" in said
    found = comparison.compare(comparison.find_runs(["runs/even", "runs/ours"]))
    assert [row.texts for row in found.overall] == [9, 9]
    first, second = (side.students[0] for side in found.sides)
    assert first.key == second.key
    assert 0 < found.overlaps[0].common < min(found.overlaps[0].texts)
    assert all(cost.wall["training"] > 0 for cost in found.costs)


# -- names in figures -----------------------------------------------------------------------------------------


def test_names_in_figures_hold_nothing_that_plotly_reads() -> None:
    names = plain(
        ["<script>alert(1)</script>", "a<br>b", "%{x} $x$", "x" * 100_000, "x" * 99_999, "\u202eright\x1b[31m", "кухня 2"]
    )
    assert len(set(names)) == len(names)
    assert not any(set("<>&%{}$\x1b\u202e") & set(name) for name in names)
    assert max(map(len, names)) < 40
    assert names[-1] == "кухня 2"


def test_same_names_once_they_are_plain_stay_apart() -> None:
    assert plain(["a<b", "a>b", "a·b"]) == ["a·b", "a·b 2", "a·b 3"]
