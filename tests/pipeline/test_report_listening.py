"""The listening page and the rates of quality control, from artefacts written by hand, hostile words among them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from salad import audio
from salad.config import Config
from salad.pipeline import ledger, shards
from salad.pipeline.report import PAGES, listening, rates, write_report
from salad.pipeline.report.difference import ADDED, MISSED, SAME, differences, normal_form
from salad.pipeline.report.rates import Tried
from salad.pipeline.stages import Run
from salad.tts.quality import character_errors
from tests.pipeline import test_report as small

RATE = small.RATE
HOSTILE = small.HOSTILE
K = 14
EVIL = {"engine": "/some/where/plug<i>in.py:Loud", "voice": "<img src=x onerror=alert(3)>"}
SHOWN_EVIL = "<img src=x onerror=alert(3)> · plug<i>in.py:Loud"
BROKEN = "engine failed (<img src=x onerror=alert(4)>)"
NEW = ("heard", "edge_silence", "pause", "clipped", "gain")  # columns that old shards do not have
CONFIG = {**small.CONFIG, "rounds": 1, "cluster": {"k": K}}


def tone(row: dict[str, Any]) -> np.ndarray:
    """A length of its own for each text, so that sounds can be told apart."""
    return (np.sin(np.arange(RATE // 4 + 10 * row["rank"]) / 10) / 4).astype(np.float32)


def sample(number: int, cluster: int, **facts: Any) -> dict[str, Any]:
    text = [*HOSTILE, "Take 12 eggs and stir them well"][number % 5]
    row = {"id": f"{number:04d}", "text": text, "cluster": cluster, "rank": number}
    wave = tone(row)
    measured = {"words_per_second": 2.0, "edge_silence": 0.0625, "pause": 0.25, "clipped": 0.001, "gain": -3.25}
    start = len(text) - len(text.lstrip()) + 5
    said = text[start:].replace("12", "twelve")
    return shards.speech_row(
        row, [(start, len(text))], [said], audio.to_flac(wave, RATE), RATE, [len(wave)], **{**measured, **facts}
    )


def probes() -> list[dict[str, Any]]:
    """One a cluster, by a voice that is understood worse from cluster to cluster."""
    return [
        sample(c, c, engine="hibari", voice="heart", cer=None if c == 13 else c / 128, heard=f"{HOSTILE[0]} | {c}")
        for c in range(K)
    ]


def turned_down() -> list[dict[str, Any]]:
    """Of clusters 2 and 3: six too slow, one that broke its engine, one that did not fit, and one whose turn never came."""
    slow = [{**sample(200 + i, 2, **EVIL, cer=0.5, heard="three two one"), "rejected": "too slow"} for i in range(6)]
    broken = {"id": "0300", "text": HOSTILE[1], "cluster": 3, **EVIL, "rejected": BROKEN}
    fits_not = {**sample(301, 3, **EVIL, cer=0.0), "rejected": ledger.OVER_BUDGET}
    return [*slow, broken, fits_not, {"id": "0302", "text": "never", "cluster": 3, "rejected": ledger.NOT_REACHED}]


def write_speech(out: Path, kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> dict[str, Any]:
    (out / "data").mkdir(parents=True)
    shards.write_speech(kept, out / "data/train-00000-of-00001.parquet")
    shards.write_rejected(rejected, out / "rejected.parquet")
    return {}


def build(out: Path, name: str) -> dict[str, Any]:
    if name == "probe":
        return write_speech(out, probes(), [])
    if name == "natural":
        write_speech(out, [sample(100 + i, 2, **EVIL, cer=0.0, heard="fine") for i in range(3)], turned_down())
        return {"seconds": 3.0}
    return small.build(out, name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = CONFIG | {"runs_dir": str(tmp_path_factory.mktemp("runs"))}
    return small.publish_with(config, build, until="round-000/scores")


@pytest.fixture(scope="module")
def index(run: Run) -> Path:
    return write_report(run)


@pytest.fixture(scope="module")
def page(index: Path) -> small.Page:
    return small.Page(index.parent / listening.PAGE)


def sounds_of(page: small.Page) -> list[str]:
    return [str(attributes["src"]) for tag, attributes in page.elements if tag == "audio"]


def articles(index: Path) -> list[str]:
    """The words of each sample, white space made even."""
    html = (index.parent / listening.PAGE).read_text(encoding="utf-8")
    return [" ".join(re.sub(r"<[^>]+>", " ", a).split()) for a in re.findall(r"<article>(.*?)</article>", html, re.DOTALL)]


def test_rates_by_voice_count_faults_alone(index: Path, page: small.Page) -> None:
    heads, evil, heart = page.tables["Texts that were tried, by voice"]
    assert heads == ["voice", "tried", "kept", "seconds", "CER", "words/s", "turned down", "too slow", "engine failed"]
    seconds = sum(len(tone({"rank": c})) for c in range(K)) / RATE
    assert heart == ["heart · hibari", "14", "14", f"{seconds:,.0f}", "0.047", "2.00", "0.0%", "0", "0"]
    cer = 6 * 0.5 / 9
    assert evil == [SHOWN_EVIL, "10", "3", "1", f"{cer:.3f}", "2.00", "70.0%", "6", "1"], "over budget is no fault"
    samples = small.Page(index.parent / "samples.html")
    assert samples.tables["Texts that were tried, probes and held-out ones too, by voice"] == [heads, evil, heart]


def test_rates_by_cluster_begin_with_the_worst_and_fold_the_rest(page: small.Page) -> None:
    worst = page.tables[f"By cluster, the worst {listening.CLUSTERS}"]
    assert [row[:2] for row in worst[1:3]] == [["2", "kitchen 100%"], ["3", "–"]], "its domain, where the pool has texts of it"
    assert [row[0] for row in worst[3:]] == [str(c) for c in (12, 11, 10, 9, 8, 7, 6, 5, 4, 1)], "then by CER"
    assert worst[1][2:4] == ["10", "4"]
    assert worst[2][2:4] == ["2", "1"]
    assert [row[0] for row in page.tables[""][1:]] == ["0", "13"]


def test_every_voice_has_a_handful_from_different_clusters_and_its_worst(index: Path) -> None:
    of_heart = [words for words in articles(index) if "voice heart · hibari" in words]
    assert len(of_heart) == listening.HANDFUL + listening.WORST
    clusters = [re.search(r"cluster (\d+)", words)[1] for words in of_heart]  # type: ignore[index]
    assert len(set(clusters)) == len(clusters)
    left = sorted(set(range(13)) - set(map(int, clusters[: listening.HANDFUL])))
    assert clusters[listening.HANDFUL :] == [str(c) for c in left[::-1][: listening.WORST]]


def test_of_every_fault_a_few_can_be_heard(index: Path, page: small.Page) -> None:
    assert "too slow (6)" in page.text
    assert "engine failed (1)" in page.text
    assert ledger.OVER_BUDGET not in page.text
    slow = [words for words in articles(index) if "turned down too slow" in words]
    assert len(slow) == listening.FAULTY
    (broken,) = (words for words in articles(index) if "turned down engine failed" in words)
    assert "There is no sound of it." in broken
    assert "gain" not in broken


def test_sounds_are_those_of_their_texts(index: Path, page: small.Page) -> None:
    sources = sounds_of(page)
    assert sources == [f"audio/sample-{n:05d}.flac" for n in range(1, len(sources) + 1)]
    assert {attributes["preload"] for tag, attributes in page.elements if tag == "audio"} == {"none"}
    heard = []
    for source, words in zip(sources, articles(index), strict=False):  # the last has no sound
        wave, rate = sf.read(index.parent / source)
        assert rate == RATE
        heard.append((len(wave) - RATE // 4) // 10)
        seconds = float(re.search(r"seconds ([\d.]+)", words)[1])  # type: ignore[index]
        assert seconds == pytest.approx(len(wave) / RATE, abs=0.05)
    assert len(set(heard)) == len(heard), "nothing is heard twice"
    assert {n // 100 for n in heard} == {0, 1, 2}


def test_a_sample_tells_what_was_said_heard_and_measured(index: Path) -> None:
    (eggs, *_) = (words for words in articles(index) if "Take 12 eggs" in words and "turned down" in words)
    assert "said twelve eggs and stir them well" in eggs
    assert "the ASR heard" in eggs
    assert "spoken for Stage I cluster 2 turned down too slow CER 0.500" in eggs
    assert "words a second 2.00 edge silence 0.06 s longest pause 0.25 s clipped 0.10% gain -3.2 dB" in eggs
    assert any("spoken for probes cluster" in words for words in articles(index))


def test_the_pages_lead_to_each_other(index: Path, page: small.Page) -> None:
    targets = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    pages = [name for name, _ in PAGES]
    assert targets[: len(pages)] == pages
    assert {t.removeprefix("#") for t in targets[len(pages) :]} == ids
    for name in pages:
        there = small.Page(index.parent / name)
        assert [a["href"] for tag, a in there.elements if tag == "a"][: len(pages)] == pages
        assert [a["href"] for _, a in there.elements if a.get("aria-current")] == [name]
    assert len(ids) == 4, "rates, two voices, what was turned down"


def test_hostile_words_are_words(index: Path, page: small.Page) -> None:
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [{}]
    assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "form", "b", "i", "base", "link"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for words in (*HOSTILE, SHOWN_EVIL, BROKEN):
        assert words in page.text
        assert words not in page.script
    assert "default-src 'none'" in (index.parent / listening.PAGE).read_text(encoding="utf-8")
    links = [str(a[name]) for _, a in page.elements for name in ("src", "href") if name in a]
    assert all((index.parent / link).is_file() for link in links if not link.startswith("#"))
    assert not re.search(r"https?://|//\w|@import|url\(", page.script)


def test_the_same_run_gives_the_same_pages(run: Run, index: Path) -> None:
    first = {p.name: p.read_bytes() for p in index.parent.rglob("*") if p.is_file() and p.name != "_manifest.json"}
    write_report(run)
    assert first == {p.name: p.read_bytes() for p in index.parent.rglob("*") if p.is_file() and p.name != "_manifest.json"}


def texts_tried(n: int) -> list[Tried]:
    return [
        Tried("probe", Path(), i, f"{i}", cluster=i % 9, engine="e", voice="v", seconds=1.0, cer=i / 100, words_per_second=None,
              rejected=None)
        for i in range(n)
    ]  # fmt: skip


def test_another_seed_draws_others_and_order_means_nothing() -> None:
    texts = texts_tried(90)
    drawn = {seed: [text.id for text in listening.across_clusters(texts, seed, 5)] for seed in range(3)}
    assert len({tuple(ids) for ids in drawn.values()}) == 3
    assert drawn[0] == [text.id for text in listening.across_clusters(texts[::-1], 0, 5)]
    more = [text.cluster for text in listening.across_clusters(texts, 0, 12)]
    assert len(set(more[:9])) == 9, "each cluster once before one comes again"


def test_the_worst_are_those_that_are_not_shown_yet_and_were_misheard() -> None:
    texts = texts_tried(5)  # the first has a CER of 0
    assert [text.id for text in listening.worst(texts, but=texts[4:])] == ["3", "2", "1"]
    assert [text.id for text in listening.worst(texts[:2], but=[])] == ["1"]


def old(path: Path) -> None:
    """Make a file one of the old schema."""
    table = pq.read_table(path)
    dropped = NEW if "rejected" not in table.column_names else (*NEW, "audio", "spans", "engine", "voice", "words_per_second")
    pq.write_table(table.drop_columns(list(dropped)), path)


def test_shards_of_before_still_show(tmp_path: Path) -> None:
    def build_old(out: Path, name: str) -> dict[str, Any]:
        meta = build(out, name)
        for path in out.rglob("*.parquet") if name in ("probe", "natural") else ():
            old(path)
        return meta

    index = write_report(small.publish_with(CONFIG | {"runs_dir": str(tmp_path)}, build_old, until="natural"))
    page = small.Page(index.parent / listening.PAGE)
    assert [row[:3] for row in page.tables["Texts that were tried, by voice"][1:]] == [
        [SHOWN_EVIL, "3", "3"], ["heart · hibari", "14", "14"], ["–", "7", "0"],
    ]  # fmt: skip
    (first, *_), slow = articles(index), [words for words in articles(index) if "turned down too slow" in words]
    assert "edge silence – longest pause – clipped – gain –" in first
    assert "the ASR heard" not in first
    assert "There is no sound of it." in slow[0]


def as_wav(flac: bytes) -> bytes:
    wave, rate = audio.from_bytes(flac)
    file = io.BytesIO()
    sf.write(file, wave, rate, format="WAV")
    return file.getvalue()


def test_speech_that_was_brought_is_heard_and_not_rated(tmp_path: Path) -> None:
    rows = [sample(i, 0) for i in range(4)]
    rows[0]["audio"]["bytes"] = as_wav(rows[0]["audio"]["bytes"])
    rows[1]["audio"]["bytes"] = b"<script>no sound</script>"
    rows[2]["audio"]["bytes"] = None

    def brought(out: Path, name: str) -> dict[str, Any]:
        if name != "natural":
            return small.build(out, name)
        (out / "data").mkdir()
        shards.write_speech(rows, out / "data/theirs.parquet")
        table = pq.read_table(out / "data/theirs.parquet", columns=["id", "text", "audio", "spans"])
        pq.write_table(table, out / "data/theirs.parquet")
        return {"rows": 4}

    (tmp_path / "theirs").mkdir()
    config = CONFIG | {"runs_dir": str(tmp_path), "natural": {"shards": str(tmp_path / "theirs")}}
    index = write_report(small.publish_with(config, brought, until="natural"))
    page = small.Page(index.parent / listening.PAGE)
    assert page.tables == {}
    assert "natural speech" in page.text
    words = articles(index)
    assert len(words) == 4
    assert sum("There is no sound of it." in w for w in words) == 2
    lengths = set()
    for source in sounds_of(page):
        assert (index.parent / source).read_bytes().startswith(b"fLaC"), "whatever was brought"
        lengths.add(sf.info(index.parent / source).frames)
    assert lengths == {len(tone(rows[0])), len(tone(rows[3]))}


def test_before_anything_is_spoken_there_is_no_page(tmp_path: Path) -> None:
    index = write_report(small.publish(tmp_path, until="clusters"))
    assert not (index.parent / listening.PAGE).exists()
    assert "listening" not in index.read_text(encoding="utf-8")


def test_all_that_the_rates_are_of_is_what_the_run_spoke(run: Run) -> None:
    assert rates.synthesised(run) == ["probe", "heldout", "natural"]
    assert listening.brought(run) == []
    of_rounds = Config.model_validate(CONFIG | {"probe": {"budget": 60, "waves": 1}})
    assert {listening.purpose(name) for name in Run(of_rounds).spoken(1)} == {
        "probes", "held-out texts", "probes, wave 1", "Stage I", "round 0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "heard", "shown"),
    [
        ("Half full.", "half full", [("half full", SAME)]),
        ("forty-two birds", "42 birds", [("42 birds", SAME)]),
        ("back ground", "background", [("background", SAME)]),
        ("half full", "full", [("half ", MISSED), ("full", SAME)]),
        ("full half", "full", [("full", SAME), (" half", MISSED)]),
        ("the cat sat", "the cut sat", [("the c", SAME), ("a", MISSED), ("u", ADDED), ("t sat", SAME)]),
        ("lymph node", "limp node", [("l", SAME), ("ymph", MISSED), ("imp", ADDED), (" node", SAME)]),  # not l-y+imp-h
        ("stir the soup", "", [("stir the soup", MISSED)]),
        ("", "thank you", [("thank you", ADDED)]),
        ("", "", []),
    ],
)
def test_differences_stand_where_they_are(said: str, heard: str, shown: list[tuple[str, str]]) -> None:
    assert differences(said, heard) == shown


WORDS = st.lists(st.sampled_from("stir a soup, soap (then) than 12 twelve don't مرحبا <b>".split()), max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_differences_hold_both_wordings_and_mark_what_the_cer_counts(said: str, heard: str) -> None:
    pieces = differences(said, heard)
    assert "".join(text for text, kind in pieces if kind != MISSED) == normal_form(heard).strip()
    in_said = "".join(text for text, kind in pieces if kind != ADDED)
    assert in_said.replace(" ", "") == normal_form(said).replace(" ", "")
    errors, length = character_errors(said, heard)
    assert length == len(normal_form(said).replace(" ", "")), "both compare the same form"
    missed, added = (sum(len(t.replace(" ", "")) for t, kind in pieces if kind == k) for k in (MISSED, ADDED))
    assert (missed + added > 0) == (errors > 0)
    assert missed + added >= errors
