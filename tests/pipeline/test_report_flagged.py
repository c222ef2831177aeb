"""Flagged clusters in the report: why, and their probes to read and to hear, from artefacts written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from salad.pipeline import ledger, shards
from salad.pipeline.report import write_report
from salad.pipeline.report.flagged import SHOWN, flagged
from salad.pipeline.schema import CLUSTER_SCORES, PROBE_SCORES
from salad.pipeline.stages import Run
from tests.pipeline import test_report as small

RATE = small.RATE
HOSTILE = small.HOSTILE
CER = {0: [0.0, 0.02, 0.04], 1: [0.5, 0.7, 1.5, 0.6], 2: [], 3: [0.03, 0.01, None], 4: [0.0, 0.0]}
FLAGS = ["", "cer", "no probe", "", ""]
CONFIG = {**small.CONFIG, "rounds": 1, "cluster": {"k": 5}}


def probes(cer: dict[int, list[Any]]) -> list[dict[str, Any]]:
    rows = [(c, i, x) for c, values in cer.items() for i, x in enumerate(values)]
    texts = [*HOSTILE, *(f"plain words number {i} are heard and then read" for i in range(len(rows)))]
    return [{"id": f"{c}-{i}", "text": texts[(i + c - 1) % len(texts)], "cluster": c, "cer": x} for c, i, x in rows]


def tone(row: dict[str, Any]) -> np.ndarray:
    """A length of its own for each probe, so that sounds can be told apart."""
    c, i = map(int, row["id"].split("-"))
    return (np.sin(np.arange(RATE // 4 + 100 * c + i) / 10) / 4).astype(np.float32)


def write_probes(out: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (out / "data").mkdir(parents=True)
    spoken = [small.speech_row(row, (0, 9), tone(row), words_per_second=3.0) for row in rows]
    shards.write_speech(spoken, out / "data/train-00000-of-00001.parquet")
    turned_down = [
        {"id": f"2-{i}", "text": f"{HOSTILE[0]} {i}", "cluster": 2, "seconds": 9.0, "heard": "A A", "rejected": "too slow"}
        for i in range(5)
    ]
    turned_down.insert(0, {**turned_down[0], "seconds": None, "heard": None, "rejected": ledger.NOT_REACHED})
    shards.write_rejected(turned_down, out / "rejected.parquet")
    return {}


def write_scores(out: Path, cer: dict[int, list[Any]], flags: list[str]) -> dict[str, Any]:
    meta = small.write_scores(out)
    shared = {"n_pool": 2, "signal": "divergence"}
    rows = [{**shared, "cluster": c, "p_target": 0.2, "p_web": 0.2, "divergence": 1.0, "flag": f} for c, f in enumerate(flags)]
    pq.write_table(pa.Table.from_pylist(rows, CLUSTER_SCORES), out / "clusters.parquet")
    pq.write_table(pa.Table.from_pylist(probes(cer), PROBE_SCORES), out / "probes.parquet")
    return meta


def publish(
    folder: Path,
    cer: dict[int, list[Any]] = CER,
    flags: list[str] = FLAGS,
    until: str = "",
    changes: dict[str, Any] | None = None,
) -> Run:
    """A run of one round whose probes lie in one folder, published up to the stage `until`."""

    def build(out: Path, name: str) -> dict[str, Any]:
        if name == "probe":
            return write_probes(out, probes(cer))
        if name == "round-000/scores":
            return write_scores(out, cer, flags)
        return small.build(out, name)

    return small.publish_with({**CONFIG, **(changes or {}), "runs_dir": str(folder)}, build, until)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return publish(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def index(run: Run) -> Path:
    return write_report(run)


@pytest.fixture(scope="module")
def text(index: Path) -> str:
    """The section's words, white space made even."""
    words = " ".join(small.Page(small.map_of(index)).text.split())
    return words[words.index("Flagged clusters") : words.index("The pool 14")]


def test_a_flagged_cluster_says_why(text: str) -> None:
    assert "Cluster 1 The ASR does not understand it: its CER is 0.600, the median cluster’s 0.010." in text
    assert "above 0.150 in this round: 5 robust standard deviations above the median cluster (0.010)" in text
    assert "at least 0.15 and at most 0.3. The highest is 0.600." in text
    assert "Cluster 2 It has no probe" in text
    assert "Cluster 0" not in text
    assert "Cluster 3" not in text


def test_its_worst_probes_can_be_read_and_heard(index: Path, text: str) -> None:
    sources = [
        a["src"] or "" for tag, a in small.Page(small.map_of(index)).elements if tag == "audio" and "cluster-" in (a["src"] or "")
    ]
    assert sources == [f"audio/cluster-00001-{i}.flac" for i in range(SHOWN)]
    by_id = {row["id"]: row for row in probes(CER)}
    for source, worst in zip(sources, ("1-2", "1-1", "1-3"), strict=True):
        wave, rate = sf.read(index.parent / source, dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(wave, tone(by_id[worst]), atol=1e-4)
    assert text.index("CER1.500") < text.index("CER0.700") < text.index("CER0.600seconds")
    assert "CER0.500" not in text, "the fourth is not shown"


def test_hostile_texts_are_text_here_too(index: Path, text: str) -> None:
    page = small.Page(small.map_of(index))
    assert all(set(a) <= {"src", "type", "id"} for tag, a in page.elements if tag == "script")
    assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "form", "b", "base"}
    for hostile in HOSTILE[1:]:
        assert " ".join(hostile.split()) in text


def test_a_cluster_without_probe_shows_what_was_turned_down(text: str) -> None:
    below = text[text.index("Cluster 2") :]
    assert below.count("turned downtoo slow") == SHOWN
    assert "the ASR heardA A" in below
    assert HOSTILE[0] in below


def test_the_same_report_twice(run: Run, index: Path) -> None:
    first = {p.name: p.read_bytes() for p in index.parent.rglob("*") if p.is_file() and p.name != "_manifest.json"}
    write_report(run)
    assert first == {p.name: p.read_bytes() for p in index.parent.rglob("*") if p.is_file() and p.name != "_manifest.json"}
    assert run.store.manifest("report").meta["sounds"] == len([name for name in first if name.endswith(".flac")])


def test_a_round_without_flags_says_so_and_gives_the_rule(tmp_path: Path) -> None:
    clean = {c: [0.0, 0.02, 0.04 + c / 100] for c in range(5)}
    run = publish(tmp_path, clean, [""] * 5, until="round-000/scores")
    page = small.Page(small.map_of(write_report(run)))
    words = " ".join(page.text.split())
    assert "No cluster is flagged in round 0. A cluster’s character error rate (CER) is" in words
    assert "The highest is 0.010." in words
    assert "audio" not in {tag for tag, _ in page.elements}


def test_the_limit_is_the_run_s_own(tmp_path: Path) -> None:
    run = publish(tmp_path, until="round-000/scores", changes={"score": {"flags": {"max_cer": 0.12}}})
    assert "above 0.120 in this round" in small.Page(small.map_of(write_report(run))).text


def test_without_an_asr_nobody_is_flagged(tmp_path: Path) -> None:
    deaf = {c: [None, None] for c in range(5)}
    run = publish(tmp_path, deaf, [""] * 5, until="round-000/scores")
    assert "No cluster is flagged in round 0. No ASR listened to the probes" in " ".join(
        small.Page(small.map_of(write_report(run))).text.split()
    )


def test_before_any_round_there_is_no_section(tmp_path: Path) -> None:
    run = publish(tmp_path, until="clusters")
    assert "Flagged clusters" not in small.Page(small.map_of(write_report(run))).text


def test_a_quarantined_probe_counts_nowhere(tmp_path: Path) -> None:
    why = {"1-2": "divergence is not finite", "2-0": "sound cannot be decoded"}  # 1-2 has the highest CER of its cluster
    cer = {**CER, 2: [0.9]}
    run = publish(tmp_path, cer, until="clusters")

    def build(out: Path) -> dict[str, Any]:
        meta = write_scores(out, cer, FLAGS)
        rows = [{**row, "quarantined": why.get(row["id"])} for row in probes(cer)]
        pq.write_table(pa.Table.from_pylist(rows, PROBE_SCORES), out / "probes.parquet")
        return meta

    for stage in run.stages[:-1]:
        scored = stage.name == "round-000/scores"
        run.execute(replace(stage, build=lambda out, _, scored=scored: build(out) if scored else {}))
        if scored:
            break
    (tmp_path / "probe").mkdir()
    write_probes(tmp_path / "probe", probes(cer))
    found = flagged(run, [tmp_path / "probe"], tmp_path / "sounds")
    assert found is not None
    assert [row["id"] for row in found["clusters"][0]["probes"]] == ["1-1", "1-3", "1-0"]
    assert "its CER is 0.550, the median" in found["clusters"][0]["reason"]
    assert found["clusters"][1]["reason"] == (
        "None of its probes can be used (sound cannot be decoded), so it stands where the others lead one to expect."
    )


def test_probes_may_lie_in_several_folders(run: Run, tmp_path: Path) -> None:
    rows = probes(CER)
    folders = [tmp_path / "probe", tmp_path / "round-000/probe"]
    for folder, some in zip(folders, (rows[:5], rows[5:]), strict=True):
        write_probes(folder, some)
    (tmp_path / "sounds").mkdir()
    found = flagged(run, folders, tmp_path / "sounds")
    assert found is not None
    assert [(row["id"], row["sound"]) for row in found["clusters"][0]["probes"]] == [
        (i, f"sounds/cluster-00001-{n}.flac") for n, i in enumerate(("1-2", "1-1", "1-3"))
    ]
    assert json.dumps([c["cluster"] for c in found["clusters"]]) == "[1, 2]"
