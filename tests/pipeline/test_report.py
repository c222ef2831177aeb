"""The report of a small run whose artefacts are written here by hand, hostile texts among them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from salad import audio
from salad.config import Config
from salad.errors import SaladError
from salad.pipeline import ledger, shards, summary
from salad.pipeline.report import overview, sample_table, samples, write_report
from salad.pipeline.report.look import templates
from salad.pipeline.report.story import story
from salad.pipeline.schema import CLUSTER_SCORES, CLUSTER_WORDS, MAP_POINTS, POOL, PROBE_SCORES
from salad.pipeline.stages import Run, Stage

HOSTILE = [
    "<script>document.title = 'owned'</script> stir the soup",
    "</script><!-- <img src=x onerror=alert(1)> --> until it is smooth",
    "\"quotes\" & 'apostrophes' &amp; [a link](javascript:alert(1)) **bold**",
    "\u202eright to left\u202c and مرحبا بالعالم beside {{ 7 * 7 }} {% raw %}",
]
DOMAIN = "<b onclick=alert(2)>law</b>"
RATE = 16_000
D = {"before/no-speech": 2.5, "before/untrained": 2.6, "stage-one/metrics": 2.0, "control/metrics": 1.75}
D |= {"round-000/metrics": 1.5, "round-001/metrics": 1.25}
ALIGNMENT = {"before/untrained": [0.0, 0.0625, 0.125], "stage-one/metrics": [0.25, 0.5, float("nan")]}
ALIGNMENT |= {"round-000/metrics": [float("nan")] * 3, "control/metrics": [0.25, 0.375, 0.5]}  # none of the last round
CONFIG = {
    "name": "small",
    "rounds": 2,
    "models": {"lm": "some/lm", "encoder": "some/whisper", "embedder": "some/bert", "asr": "some/whisper"},
    "pool": {"sources": [{"dataset": "texts.jsonl"}]},
    "natural": {"domains": ["kitchen"], "seconds": 300},
    "cluster": {"k": 3},
    "select": {"budget": 60},
    "student": {"lm": "frozen"},
    "train": {"stage_one_steps": 8, "round_steps": 4, "decay_steps": 2},
}
STABLE = {"stage-one": 8, "round": 4, "control": 8}  # steps before the decay, by stage
CLUSTERS = {
    "cluster": [0, 1, 2],
    "n_pool": [6, 6, 2],
    "n_probe": [4, 1, 4],
    "divergence": [1.125, 2.25, 0.5],
    "divergence_se": [0.25, None, 0.125],
    "divergence_low": [0.75, None, 0.25],
    "divergence_high": [1.75, None, 0.875],
    "signal": ["divergence"] * 3,
    "divergence_shrunk": [1.25, 2.0, 0.75],
    "log_sd": [0.125, 0.25, 0.125],
    "text_log_sd": [0.5, 0.5, 0.5],
    "forgetting": [0.0, 0.0, 0.0],
    "teacher_entropy": [2.5, 2.5, 2.5],
    "cer": [0.125, 0.125, 0.875],
    "words_per_second": [3.0, 3.0, 3.0],
    "p_web": [0.4, 0.4, 0.2],
    "p_target": [0.25, 0.75, 0.0],
    "flag": ["", "", "cer"],
}
SCORES_META = {"signal": "divergence", "estimate": "surrogate", "gamma": 5.0, "effective_clusters": 1.6}
SCORES_META |= {"p_target_error": 0.125, "flagged": 1, "probes": 9, "seconds": 34.5, "quarantined": 2}


def texts() -> list[dict[str, Any]]:
    """Fourteen texts of two domains."""
    words = [*HOSTILE, *(f"plain words number {i} are read and then heard" for i in range(10))]
    return [{"id": f"{i:032x}", "text": t, "domain": DOMAIN if i < 4 else "kitchen"} for i, t in enumerate(words)]


def write_pool(out: Path) -> dict[str, Any]:
    rows = [{**row, "source": "texts.jsonl", "n_words": 8, "est_seconds": 2.0} for row in texts()]
    pq.write_table(pa.Table.from_pylist(rows, POOL), out / "part-00000.parquet")
    return {"passages": 14, "refused": {"too short": 1234, HOSTILE[1]: 5}, "domains": {DOMAIN: 4, "kitchen": 10}}


def write_clusters(out: Path) -> dict[str, Any]:
    np.save(out / "assignment.npy", np.array([0] * 6 + [1] * 6 + [2] * 2, np.int32))
    return {}


def write_map(out: Path) -> dict[str, Any]:
    """Ten of the texts, and hostile words and examples of two clusters."""
    rows = np.arange(10)
    pq.write_table(pa.table({"row": rows, "x": rows / 2, "y": -rows / 4}, MAP_POINTS), out / "points.parquet")
    about = {
        "cluster": range(3),
        "words": [["soup", HOSTILE[0]], ["stir"], []],
        "examples": [[HOSTILE[1], "x" * 100_000], [], []],
    }
    pq.write_table(pa.table(about, CLUSTER_WORDS), out / "clusters.parquet")
    return {"points": 10}


def write_embeddings(out: Path) -> dict[str, Any]:
    x = np.eye(14, 8) + 0.01
    np.save(out / "embeddings.npy", (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16))
    return {"rows": 14}


def write_scores(out: Path, meta: dict[str, Any] | None = None, clusters: dict[str, Any] | None = None) -> dict[str, Any]:
    pq.write_table(pa.table({**CLUSTERS, **(clusters or {})}).cast(CLUSTER_SCORES), out / "clusters.parquet")
    probes = [{"id": str(i), "cluster": c, "cer": 0.9 if c == 2 else 0.1} for i, c in enumerate([0] * 4 + [1] + [2] * 4)]
    pq.write_table(pa.Table.from_pylist(probes, PROBE_SCORES), out / "probes.parquet")
    np.save(out / "predicted.npy", np.ones((14, 2), np.float32))
    return {**SCORES_META, **(meta or {})}


def speech_row(row: dict[str, Any], span: tuple[int, int], wave: np.ndarray, **facts: Any) -> dict[str, Any]:
    """A row of the speech schema of which one span is heard, said as it is written."""
    said = row["text"][slice(*span)]
    return shards.speech_row(row, [span], [said], audio.to_flac(wave, RATE), RATE, [len(wave)], **facts)


def write_speech(out: Path) -> dict[str, Any]:
    """Two shards of six texts, and three texts turned down."""
    (out / "data").mkdir()
    rows = [
        {**row, "cluster": 1, "rank": i, "predicted_divergence": 1.5, "predicted_se": 0.25, "reason": f"{HOSTILE[0]} {i}"}
        for i, row in enumerate(texts())
    ]
    wave = (np.sin(np.arange(RATE // 4) / 10) / 4).astype(np.float32)
    spoken = [speech_row(row, (0, 5), wave, cer=None if row["rank"] else 0.0625) for row in rows]
    for part in (0, 1):
        shards.write_speech(spoken[6 * part : 6 * part + 6], out / "data" / f"train-{part:05d}-of-00002.parquet")
    turned_down = [
        {**speech_row(rows[-1], (0, 5), wave, cer=0.5, heard="fine"), "rejected": ledger.OVER_BUDGET},
        {**rows[-1], "rejected": ledger.NOT_REACHED},
        {**speech_row(rows[-1], (0, 5), wave, cer=0.75, heard=HOSTILE[1]), "rejected": "not understood"},
    ]
    shards.write_rejected(turned_down, out / "rejected.parquet")
    return {"rows": 12, "seconds": 59.5, "budget": 60.0, "rejected": {"not understood": 1, "over budget": 1}, "cer": 0.0625}


def write_checkpoint(out: Path, name: str) -> dict[str, Any]:
    log = [{"step": 5.0, "kl": 2.0, "loss": 2.0}, {"step": 10.0, "kl": 1.0, "loss": 1.0}]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    stable = STABLE[name.partition("/")[0].partition("-0")[0]]
    return {"steps": stable + CONFIG["train"]["decay_steps"], "stable_steps": stable}


def write_metrics(out: Path, name: str) -> dict[str, Any]:
    d = np.array([-0.5, 0.0, 0.5]) + D[name]
    table = {"id": [row["id"] for row in texts()[:3]], "divergence": d, "misalignment": d, "forgetting": np.zeros(3)}
    pq.write_table(pa.table(table), out / "heldout.parquet")
    if name in ALIGNMENT:
        layers = pa.array(range(3), pa.int32())
        pq.write_table(pa.table({"layer": layers, "cka": ALIGNMENT[name]}), out / "alignment.parquet")
    found = {"texts": 3, "D": float(d.mean()), "D_se": 0.5 / 3**0.5, "M": float(d.mean()), "F": 0.0}
    if name == "round-001/metrics":
        found |= {"D_low": found["D"] - 0.5, "D_high": found["D"] + 0.25}
    (out / "metrics.json").write_text(json.dumps({"all": found, "domains": {DOMAIN: {**found, "D": D[name] + 1}}}))
    return found


def build(out: Path, name: str) -> dict[str, Any]:
    """Write a stage's artefact as far as the report reads it."""
    folder, _, kind = name.rpartition("/")
    if name == "natural":
        return {"seconds": 298.5}
    if folder == "before" or kind == "metrics":
        return write_metrics(out, name)
    if kind == "selection":
        return {"selector": "importance-diverse", "clusters": 2}
    writers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "pool": write_pool,
        "embeddings": write_embeddings,
        "clusters": write_clusters,
        "map": write_map,
        "scores": write_scores,
        "speech": write_speech,
        "checkpoint": lambda out: write_checkpoint(out, name),
    }
    return writers[kind](out) if kind in writers else {}


def publish(
    folder: Path, until: str | None = None, scores: dict[str, Any] | None = None, clusters: dict[str, Any] | None = None
) -> Run:
    """A run below `folder`, published up to the stage `until`, the report left out; changes to its scores and their meta."""

    def changed(out: Path, name: str) -> dict[str, Any]:
        return write_scores(out, scores, clusters) if name.endswith("scores") else build(out, name)

    return publish_with(CONFIG | {"runs_dir": str(folder)}, changed, until)


def publish_with(config: dict[str, Any] | Config, build: Callable[[Path, str], dict[str, Any]], until: str | None = None) -> Run:
    """A run of which `build(folder, name of the stage)` writes every artefact up to the stage `until`, the report left out."""
    run = Run(Config.model_validate(config))
    for stage in run.stages[:-1]:
        run.execute(replace(stage, build=lambda out, _, name=stage.name: build(out, name)))
        if stage.name == until:
            break
    run.store.bind(run.config)
    return run


def with_artefact(stage: Stage) -> Stage:
    return replace(stage, build=lambda out, _: build(out, stage.name))


class Page(HTMLParser):
    """Elements with their attributes, the text, and the tables by caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.script = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption = self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables.setdefault(self._caption, self._rows)
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self._rows[-1][-1] += data
        elif self._inside == "caption":
            self._caption += data
        if self._inside in ("script", "style"):
            self.script += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return publish(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def index(run: Run) -> Path:
    return write_report(run)


@pytest.fixture(scope="module")
def page(index: Path) -> Page:
    return Page(index)


@pytest.fixture(scope="module")
def pages(index: Path) -> dict[str, Page]:
    return {path.stem: Page(path) for path in sorted(index.parent.glob("*.html"))}


def figures_of(page: Path) -> dict[str, Any]:
    data = re.search(r'id="figures">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert data
    found: dict[str, Any] = json.loads(data[1], parse_constant=pytest.fail)
    return found


def map_of(index: Path) -> Path:
    return index.parent / "map.html"


def script_data(path: Path, call: str) -> dict[str, Any]:
    """What a page's data script hands over."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"{call}(")
    assert not set(text) & set("<>&")
    found: dict[str, Any] = json.loads(text.removeprefix(f"{call}(").removesuffix(");\n"), parse_constant=pytest.fail)
    return found


def rows_of(index: Path) -> list[dict[str, Any]]:
    """The rows of the table of samples."""
    parts = [script_data(path, "addRows") for path in sorted((index.parent / "rows").glob("*.js"))]
    return [dict(zip(part, row, strict=True)) for part in parts for row in zip(*part.values(), strict=True)]


def test_hostile_texts_are_text(index: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        scripts = [attributes for tag, attributes in page.elements if tag == "script"]
        assert all(set(attributes) <= {"src", "type", "id"} for attributes in scripts), name
        assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "form", "b", "base"}
        assert not [attribute for _, attributes in page.elements for attribute in attributes if attribute.startswith("on")]
        assert not [text for text in (*HOSTILE, DOMAIN) if text in page.script], name
    for text in (HOSTILE[0], HOSTILE[1], DOMAIN):
        assert text in pages["map"].text
    rows = rows_of(index)
    assert {row["text"] for row in rows} >= set(HOSTILE)
    assert {row["domain"] for row in rows} == {DOMAIN, "kitchen"}
    assert set(script_data(index.parent / "map-data.js", "drawMap")["text"]) >= set(HOSTILE)


def test_json_cannot_leave_its_script() -> None:
    template = templates().from_string("<script>{{ data|tojson }}</script>")
    shown = template.render(data={"text": HOSTILE})
    assert shown.count("<") == shown.count(">") == 2
    with pytest.raises(ValueError, match="JSON compliant"):
        template.render(data=[float("nan")])


def test_tables_hold_the_numbers_of_the_artefacts(pages: dict[str, Page]) -> None:
    heldout = pages["index"].tables["Held-out texts"]
    assert heldout[0] == ["student", "steps", "D", "± SE", "M", "F"]
    assert heldout[-2] == ["after round 1", "18", "1.250", "0.289", "1.250", "0.000"]
    assert pages["index"].tables["D by domain, which the method never sees"][1] == ["no speech at all", "3.500"]
    assert pages["samples"].tables["Speech chosen and spoken"][2] == ["1", "60", "59.5", "12", "2", "0.062", "1.6", "12%"]
    assert pages["map"].tables["Refused"][1:] == [["too short", "1,234"], [HOSTILE[1], "5"]]
    assert pages["machine"].tables["Wall time (s)"][0][-1] == "sum"
    heads, first, second, third = pages["map"].tables[""]
    assert heads == [
        "cluster", "about", "mostly", "flag", "texts", "probes", "D", "95%", "D est.", "±", "CER", "P_web", "P_target",
    ], "F is 0 throughout"  # fmt: skip
    assert first == ["1", "stir", "kitchen 100%", "", "6", "1", "2.250", "–", "2.000", "0.500", "0.125", "0.400", "0.750"]
    assert second[1:5] == [f"soup, {HOSTILE[0]}", f"{DOMAIN} 67%", "", "6"]
    assert second[5:10] == ["4", "1.125", "0.750–1.750", "1.250", "0.156"]
    assert third[3] == "cer"


def test_every_stage_says_what_it_took(pages: dict[str, Page], run: Run) -> None:
    heads, *rows = pages["machine"].tables[""]
    assert heads == ["stage", "seconds", "memory (GB)", "done", "a second"]
    assert [row[0] for row in rows] == [stage.name for stage in run.stages[:-1]]
    took = {row[0]: row for row in rows}
    assert took["pool"][3] == "14 passages"
    assert took["round-001/speech"][3] == "60 s of speech"
    assert took["stage-one/checkpoint"][3] == "10 steps"
    assert took["clusters"][3:] == ["–", "–"]
    assert all(0.01 < float(row[2]) < 100 for row in rows)


def test_a_glance_says_what_was_spent_and_won(run: Run, page: Page) -> None:
    found = [(tile.value, tile.note) for tile in overview.tiles(run)]
    assert found == [
        ("119 s", "of 120 s to spend; 24 texts in 2 of 2 rounds"),
        ("2.60 → 1.25", "nats, before Stage I to after round 1 [0.75, 1.50]; 3 texts"),
        ("–", "no benchmark was asked"),
        ("−0.500", "[−0.500, −0.500]; Stage I data alone, for as many steps"),
    ]
    assert all(said in page.text for tile in found for said in tile)


def test_a_difference_that_may_be_none_is_called_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "paired_difference", lambda *_: (-0.1, 0.1))
    assert "no difference" in overview.tiles(run)[3].note


def test_sounds_lie_beside_the_page_and_decode(index: Path) -> None:
    sounds = [row["sound"] for row in rows_of(index)]
    assert len(set(sounds)) == len(sounds) == 2 * (12 + 2)
    for sound in sounds:
        wave, rate = sf.read(index.parent / sound)
        assert (len(wave), rate) == (RATE // 4, RATE)
        assert np.abs(wave).max() > 0.2


def test_a_row_holds_what_is_known_of_a_text(index: Path) -> None:
    first, *_ = rows = rows_of(index)
    assert (first["round"], first["rank"], first["id"], first["cluster"]) == (0, 0, f"{0:032x}", 1)
    assert (first["predicted_divergence"], first["predicted_se"], first["cer"], first["seconds"]) == (1.5, 0.25, 0.0625, 0.25)
    assert (first["reason"], first["rejected"], first["spans"]) == (f"{HOSTILE[0]} 0", None, [[0, 5, 0.0, 0.25]])
    assert [row["round"] for row in rows] == [0] * 14 + [1] * 14
    assert [row["rejected"] for row in rows[12:14]] == [ledger.OVER_BUDGET, "not understood"]
    assert ledger.NOT_REACHED not in {row["rejected"] for row in rows}


def test_rows_come_in_parts_and_sounds_only_so_many(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_table, "PART", 10)
    monkeypatch.setattr(sample_table, "SOUNDS", 5)
    monkeypatch.setattr(sample_table, "FOLDER", 3)
    written = sample_table.write_samples(sample_table.samples_of(run), tmp_path)
    assert (written.parts, written.rows, written.kept, written.silent) == (
        ["rows/00000.js", "rows/00001.js", "rows/00002.js"], 28, 24, 23,
    )  # fmt: skip
    sounds = [row["sound"] for row in rows_of(tmp_path / "index.html")]
    assert sounds[:6] == [*(f"audio/samples/{at}.flac" for at in ("000/000", "000/001", "000/002", "001/000", "001/001")), None]
    assert len(list(tmp_path.rglob("*.flac"))) == 5


def test_the_map_has_what_was_chosen_too(index: Path) -> None:
    found = script_data(index.parent / "map-data.js", "drawMap")
    assert {len(values) for name, values in found.items() if name != "sample"} == {12}
    assert found["sample"] == 10
    assert found["x"][:3] == [0.0, 0.5, 1.0]
    assert found["id"][10:] == [f"{i:032x}" for i in (10, 11)], "two of those chosen were not on the map"
    assert found["round"] == [0] * 12
    assert found["D"] == [1.0] * 12
    assert found["cluster"] == [0] * 6 + [1] * 6


def test_nothing_is_loaded_from_elsewhere(index: Path, pages: dict[str, Page]) -> None:
    for page in pages.values():
        links = [
            str(a[name]) for _, a in page.elements for name in ("src", "href", "srcset", "data", "poster", "action") if name in a
        ]
        assert all(not (file := link.partition("#")[0]) or (index.parent / file).is_file() for link in links), links
        assert not [a for tag, a in page.elements if tag == "link"]
        assert not re.search(r"https?://|//\w|@import|url\(", page.script)


def test_the_same_artefacts_give_the_same_bytes(run: Run, index: Path) -> None:
    first = {p.relative_to(index.parent): p.read_bytes() for p in index.parent.rglob("*") if p.is_file()}
    files = run.store.manifest("report").files
    shutil.rmtree(index.parent)
    _, built = run.execute(run.stages[-1])
    assert built
    assert run.store.manifest("report").files == files
    write_report(run)
    for path, data in first.items():
        if path.name != "_manifest.json":
            assert (index.parent / path).read_bytes() == data, path
    assert run.done(run.stages[-1]), "a finished run's report is its stage's artefact, however it was written"


def test_plotly_knows_every_word_of_the_figures(index: Path) -> None:
    story_of, map_figures = figures_of(index), figures_of(map_of(index))
    assert (set(story_of), set(map_figures)) == ({"curve", "training", "alignment"}, {"clusters-0", "clusters-1"})
    for figure in (*story_of.values(), *map_figures.values()):
        go.Figure(figure)


def test_figures_show_the_numbers_of_the_artefacts(index: Path) -> None:
    figures = figures_of(index)
    d, *_, control = [t for t in figures["curve"]["data"] if t["name"] == "D"]
    assert d["x"] == ["before Stage I", "after Stage I", "round 0", "round 1"]
    assert d["y"] == pytest.approx([2.6, 2.0, 1.5, 1.25])
    assert (d["error_y"]["array"], d["error_y"]["arrayminus"]) == ([None] * 3 + [0.25], [None] * 3 + [0.5])
    assert (control["x"], control["y"], control["mode"]) == (["control"], [1.75], "markers")
    assert figures["curve"]["layout"]["shapes"][0]["y0"] == 2.5
    assert {t["name"]: t["x"] for t in figures["training"]["data"]} == {
        "Stage I": [5, 10], "round 0": [13, 18], "round 1": [17, 22], "control": [13, 18],
    }  # fmt: skip
    web, target, measured, estimated = figures_of(map_of(index))["clusters-1"]["data"]
    assert (web["x"], web["y"], target["y"]) == (["1", "0", "2"], [0.4, 0.4, 0.2], [0.75, 0.25, 0.0])
    assert measured["y"] == [2.25, 1.125, 0.5]
    assert (measured["error_y"]["arrayminus"], measured["error_y"]["array"]) == ([None, 0.375, 0.25], [None, 0.625, 0.375])
    assert (estimated["y"], estimated["error_y"]["array"]) == ([2.0, 1.25, 0.75], [0.5, 0.15625, 0.09375])


def test_alignment_by_layer_is_shown_where_it_was_measured(index: Path, page: Page) -> None:
    figures = figures_of(index)
    lines = {t["name"]: t for t in figures["alignment"]["data"]}
    assert {name: (t["x"], t["y"]) for name, t in lines.items()} == {
        "before Stage I": ([0, 1, 2], [0.0, 0.0625, 0.125]),
        "after Stage I": ([0, 1, 2], [0.25, 0.5, None]),
        "control": ([0, 1, 2], [0.25, 0.375, 0.5]),
    }
    assert list(lines) == ["before Stage I", "after Stage I", "control"]
    colours = {t["name"]: t["line"] for t in figures["training"]["data"]}
    assert lines["after Stage I"]["line"] == colours["Stage I"]
    assert lines["control"]["line"] == colours["control"]
    assert [a for _, a in page.elements if a.get("id") == "alignment"]


def test_without_alignment_there_is_no_figure_of_it(tmp_path: Path) -> None:
    run = publish(tmp_path, until="before/no-speech")
    assert summary.published(run, "before/no-speech")
    assert summary.alignment(run, "before/no-speech") is None
    page = Page(write_report(run))
    assert "by layer" not in page.text
    assert not [a for _, a in page.elements if a.get("id") == "alignment"]


def test_the_story_says_what_the_figures_cannot(run: Run) -> None:
    told = " ".join(story(run))
    assert "D, how far the student that hears is from the teacher that reads, measured on 9 probes: 34 seconds of speech" in told
    assert "2 more probes cannot be used and count nowhere. In round 1, 1 cluster is flagged and left out of P_target." in told
    assert "No human voice was used: 298 seconds of texts from kitchen, spoken by the synthetic voice “heart” (hibari)" in told
    assert "F is 0 and M equals D by construction" in told
    assert "circular" in told
    assert "2.600 before Stage I, 2.000 after Stage I, 1.500 after round 0 and 1.250 after round 1" in told
    assert "D after round 1 is 0.500 ± 0.000 below the control’s." in told


def test_the_story_claims_no_more_than_the_run_did(run: Run) -> None:
    changes = {"models": {**CONFIG["models"], "asr": "another/asr"}, "student": {"lm": "full"}, "natural": {"shards": "mine"}}  # type: ignore[dict-item]
    other = Run(Config.model_validate({**CONFIG, **changes, "runs_dir": run.config.runs_dir}))
    told = " ".join(story(other))
    assert "natural speech from mine" in told
    assert "circular" not in told
    assert "by construction" not in told


@pytest.mark.parametrize(
    ("meta", "expected", "absent"),
    [
        ({}, "With γ = 5, P_target amounts to 1.6 equal clusters (1/Σp²), and 12% of it is expected to lie", "M were known"),
        ({}, "a regression on all probes predicts D of every text", "pulled to the mean"),
        ({"estimate": "shrunk"}, "pulled to the mean of all clusters", "regression"),
        ({"estimate": "plain"}, "the plain mean of the cluster’s probes, or of all probes where it has none", "regression"),
        ({"signal": "misalignment", "gamma": 12.345}, "With γ = 12.3, P_target", "D were known"),
        ({"signal": "misalignment"}, "in other clusters than if M were known", "D were known"),
        ({"signal": "excess"}, "P_target follows from D − F as estimated", "from D as"),
    ],
)
def test_the_page_says_how_the_target_came_about(tmp_path: Path, meta: dict[str, Any], expected: str, absent: str) -> None:
    run = publish(tmp_path, until="round-000/scores", scores=meta)
    words = " ".join(Page(map_of(write_report(run))).text.split())
    assert expected in words
    assert absent not in words


def test_columns_that_say_nothing_are_left_out_and_the_signal_has_its_name(tmp_path: Path) -> None:
    columns = {"signal": ["excess"] * 3, "forgetting": [None, 0.0625, 0.125], "flag": [""] * 3, "cer": [None] * 3}
    run = publish(tmp_path, until="round-000/scores", scores={"signal": "excess"}, clusters=columns)
    page = map_of(write_report(run))
    heads, first, second, _ = Page(page).tables[""]
    assert heads == [
        "cluster",
        "about",
        "mostly",
        "texts",
        "probes",
        "D",
        "95%",
        "D − F est.",
        "±",
        "F",
        "CER",
        "P_web",
        "P_target",
    ]
    assert (first[9:11], second[9:11]) == (["0.062", "–"], ["–", "–"])
    names = [trace["name"] for trace in figures_of(page)["clusters-0"]["data"]]
    assert names == ["P_web", "P_target", "D, 95%", "D − F, estimated ± SE"]


def test_a_story_with_nothing_amiss_does_not_mention_it(tmp_path: Path) -> None:
    run = publish(tmp_path, until="round-000/scores", scores={"quarantined": 0, "flagged": 0, "probes": 1})
    told = " ".join(story(run))
    assert "measured on 1 probe: 34 seconds" in told
    assert "cannot be used" not in told
    assert "flagged" not in told
    assert "(γ = 5)" in told
    other = Run(Config.model_validate({**CONFIG, "select": {"budget": 60, "target_ess": 12}, "runs_dir": str(tmp_path)}))
    assert "(γ such that P_target amounts to 12 equal clusters)" in " ".join(story(other))


def test_an_unfinished_run_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    run = publish(tmp_path, until="round-000/scores")
    index = write_report(run)
    page = Page(index)
    assert "This run is unfinished" in page.text
    assert "round-001/checkpoint" in page.text
    assert set(figures_of(index)) == {"curve", "training", "alignment"}
    assert set(figures_of(map_of(index))) == {"clusters-0"}
    assert "No round has spoken yet" in Page(index.parent / "samples.html").text
    assert run.store.valid("report", run.store.manifest("report").key)
    for stage in run.stages[:-1]:
        run.execute(with_artefact(stage))
    assert run.done(run.stages[-1]) is None, "the finished run must not keep the unfinished report"
    assert "unfinished" not in Page(write_report(run)).text


def test_a_pool_without_a_map_is_no_fault(tmp_path: Path) -> None:
    run = publish(tmp_path, until="clusters")
    assert "The pool has no map yet" in Page(map_of(write_report(run))).text


def test_a_run_that_has_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SaladError, match="nothing to report"):
        write_report(Run(Config.model_validate({**CONFIG, "runs_dir": str(tmp_path)})))


def test_a_text_is_cut_where_hearing_begins_and_ends() -> None:
    text = "Stir it slowly, then serve."
    spans = [{"char_start": 0, "char_end": 8}, {"char_start": 15, "char_end": 21}]
    cut = samples.pieces(text, spans)
    assert "".join(piece for piece, _ in cut) == text
    assert [piece for piece, heard in cut if heard] == ["Stir it", "then"]


def test_a_report_needs_no_torch(run: Run, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from types import SimpleNamespace
from salad.pipeline.report import build_report
from salad.pipeline.stages import Run
from salad.pipeline.store import Store
run = object.__new__(Run)  # its models and how its stages are built are never asked for
run.store = Store(Path(sys.argv[1]))
run.config = run.store.config()
run.stages = [SimpleNamespace(name=name) for name in sys.argv[3:]]
build_report(Path(sys.argv[2]), run, print)
"""
    names = [stage.name for stage in run.stages]
    subprocess.run([sys.executable, "-c", program, str(run.store.root), str(tmp_path), *names], check=True, timeout=120)
    assert (tmp_path / "index.html").read_bytes() == (run.store.path("report") / "index.html").read_bytes()
