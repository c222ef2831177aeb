"""What is exported is what the shards hold, sample by sample, whoever opens it; what cannot be exported is said."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from salad import audio
from salad.errors import SaladError
from salad.pipeline import card
from salad.pipeline.export import FORMATS, LEFT_OUT, Options, export, hub
from salad.pipeline.export.corpus import BATCH, find_corpus, safe_name
from salad.pipeline.export.nemo import seconds
from salad.pipeline.schema import REJECTED, speech_schema
from salad.tts.base import ENGINES, VoiceInfo
from tests.fakes import ToneEngine
from tests.pipeline.speech_folder import RATE, speech_rows, write_folder, write_run

LHOTSE = {"reason": "pip install lhotse", "exc_type": ImportError}
Heard = list[tuple[str, str, np.ndarray]]  # of each span in order: whole text, its own words, sound


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "kitchen")


def in_shards(*folders: Path) -> Heard:
    """The truth, as docs/shards.md describes it."""
    found = []
    for row in (row for folder in folders for row in pq.read_table(folder / "data").to_pylist()):
        wave, rate = audio.from_bytes(row["audio"]["bytes"])
        for s in row["spans"]:
            at = slice(round(s["audio_start"] * rate), round(s["audio_end"] * rate))
            found.append((row["text"], row["text"][s["char_start"] : s["char_end"]].strip(), wave[at]))
    return found


def same(found: Heard, expected: Heard) -> bool:
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    assert all(np.array_equal(f[2], e[2]) for f, e in zip(found, expected, strict=True))
    return len(found) > 0


# -- each format, read back by the program it is for ---------------------------------------------------------


def test_hub(run: Path, tmp_path: Path) -> None:
    done: list[float] = []
    exported = export(run, "hub", tmp_path / "out", Options(shard_rows=7, progress=done.append))
    assert (exported.texts, done[-1], done) == (20, 20, sorted(done))
    names = [f"round-{r:03d}-{i:05d}-of-00002.parquet" for r in range(2) for i in range(2)]
    assert sorted(p.name for p in (tmp_path / "out/data").iterdir()) == names
    assert same(in_shards(tmp_path / "out"), in_shards(run / "round-000/speech", run / "round-001/speech"))
    tables = [
        pq.read_table(run / f"round-00{r}/speech/data").drop_columns(["predicted_se"]) for r in (0, 1)
    ]  # NaN equals nothing
    assert pq.read_table(tmp_path / "out/data").drop_columns(["predicted_se"]).equals(pa.concat_tables(tables))

    whole = datasets.load_dataset(str(tmp_path / "out"), split="train")  # checks the counts of the card
    assert (whole.num_rows, whole.features["audio"]) == (20, datasets.Audio())
    last = datasets.load_dataset(str(tmp_path / "out"), "round-001", split="train")
    assert last["id"] == whole["id"][10:]
    assert last.cast_column("audio", datasets.Audio(decode=False))[0]["audio"]["bytes"][:4] == b"fLaC"


def test_a_single_folder_is_one_configuration(run: Path, tmp_path: Path) -> None:
    export(run / "round-001", "hub", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["default"]
    assert same(in_shards(tmp_path / "out"), in_shards(run / "round-001/speech"))


def test_lhotse(run: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse", **LHOTSE)
    export(run, "lhotse", tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    cuts = lhotse.CutSet.from_file(moved / "cuts.jsonl.gz").with_recording_path_prefix(moved)
    expected = in_shards(run / "round-000/speech", run / "round-001/speech")
    found = []
    for cut in cuts:
        lhotse.validate(cut, read_data=True)
        wave = cut.load_audio()[0]
        for s in cut.supervisions:
            at = slice(round(s.start * cut.sampling_rate), round(s.end * cut.sampling_rate))
            found.append((cut.custom["text"], s.text, wave[at]))
            assert cut.custom["text"][s.custom["char_start"] : s.custom["char_end"]].strip() == s.text
    assert same(found, expected)
    trimmed = [(c.custom["text"], c.supervisions[0].text, c.load_audio()[0]) for c in cuts.trim_to_supervisions()]
    assert same(trimmed, expected)
    first = next(iter(cuts))
    assert (first.voice, first.domain, first.round, first.predicted_se) == ("v0", "kitchen", 0, None)
    assert (first.supervisions[0].speaker, first.supervisions[0].spoken) == ("v0", "take number 0 of flour and stir it gently")


def read_as_nemo(manifest: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Paths and samples as NeMo's manifest reader and AudioSegment.from_file find them: times truncate."""
    for line in manifest.read_text(encoding="ascii").splitlines():
        item = json.loads(line)
        with sf.SoundFile(manifest.parent / item["audio_filepath"]) as f:
            f.seek(int(item["offset"] * f.samplerate))
            yield item, f.read(int(item["duration"] * f.samplerate), dtype="float32")


def test_nemo_manifest(run: Path, tmp_path: Path) -> None:
    export(run, "nemo-manifest", tmp_path / "out")
    items = list(read_as_nemo(tmp_path / "out/manifest.jsonl"))
    expected = in_shards(run / "round-000/speech", run / "round-001/speech")
    assert same([("", item["text"], wave) for item, wave in items], [("", text, wave) for _, text, wave in expected])
    assert [(i["span"], i["id"], i["lang"]) for i, _ in items[:3]] == [
        (0, f"{0:032x}", "en"),
        (1, f"{0:032x}", "en"),
        (0, f"{1:032x}", "en"),
    ]
    assert items[0][0]["spoken"] == "take number 0 of flour and stir it gently"


@given(st.integers(0, 10**9), st.sampled_from([8000, 16_000, 22_050, 24_000, 44_100, 48_000]))
def test_seconds_truncate_to_their_samples(frames: int, rate: int) -> None:
    assert int(seconds(frames, rate) * rate) == frames
    assert abs(seconds(frames, rate) - frames / rate) < 1e-9


def test_webdataset(run: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    export(run, "webdataset", tmp_path / "out", Options(shard_rows=8))
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [t.name for t in tars] == [f"shard-{i:06d}.tar" for i in range(3)]
    expected = in_shards(run / "round-000/speech", run / "round-001/speech")
    assert same(spans_of_samples(webdataset.WebDataset(str(t), shardshuffle=False) for t in tars), expected)

    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert loaded.num_rows == 20
    encoded = ({"flac": r["flac"], "txt": r["txt"].encode(), "json": json.dumps(r["json"]).encode()} for r in loaded)
    assert same(spans_of_samples([encoded]), expected)
    assert [r["json"]["domain"] for r in loaded] == ["kitchen" if i % 5 == 0 else None for i in range(20)]
    assert loaded.cast_column("flac", datasets.Audio(decode=False))[0]["flac"]["bytes"] == loaded[0]["flac"]

    export(run, "webdataset", tmp_path / "again", Options(shard_rows=8))
    assert all((tmp_path / "again" / t.name).read_bytes() == t.read_bytes() for t in tars)


def spans_of_samples(shards_: Any) -> Heard:
    found = []
    for sample in (s for shard in shards_ for s in shard):
        wave, rate = sf.read(io.BytesIO(sample["flac"]), dtype="float32")
        for s in json.loads(sample["json"])["spans"]:
            at = slice(round(s["audio_start"] * rate), round(s["audio_end"] * rate))
            found.append((sample["txt"].decode(), s["text"], wave[at]))
    return found


@pytest.mark.parametrize("to", FORMATS)
def test_what_the_card_shows_works_as_it_stands(to: str, run: Path, tmp_path: Path) -> None:
    for package in {"lhotse": ["lhotse"], "webdataset": ["webdataset"], "hub": ["duckdb", "pandas"]}.get(to, []):
        pytest.importorskip(package, reason=f"pip install {package}", exc_type=ImportError)
    export(run, to, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8").replace("FOLDER", str(tmp_path / "out"))
    blocks = re.findall(r"```(python|sql)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == {"hub": 4, "lhotse": 1, "nemo-manifest": 0, "webdataset": 2}[to]
    for language, block in blocks:
        if language == "python":
            exec(block, {})
        else:
            import duckdb

            assert duckdb.sql(block.split(";")[0]).fetchall()
            assert len(duckdb.sql(block.split(";")[1]).fetchall()) == 40


# -- shards of other versions and other makers ---------------------------------------------------------------


def write_table(folder: Path, rows: list[dict[str, Any]], drop: tuple[str, ...] = ()) -> Path:
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, speech_schema()).replace_schema_metadata(None)
    pq.write_table(table.drop_columns([*drop]), folder / "data" / "any.parquet")
    return folder


@pytest.mark.parametrize("to", FORMATS)
def test_the_fewest_columns_are_enough(to: str, tmp_path: Path) -> None:
    if to == "lhotse":
        pytest.importorskip("lhotse", **LHOTSE)
    few = tuple(n for n in speech_schema().names if n not in ("id", "text", "audio", "spans"))
    folder = write_table(tmp_path / "foreign", speech_rows(3), few)
    assert export(folder, to, tmp_path / "out").texts == 3
    spoken = sum(r["seconds"] for r in speech_rows(3))
    assert f"3 texts with {spoken:,.1f} s" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_other_sounds_become_mono_flac(tmp_path: Path) -> None:
    (row,) = speech_rows(1)
    wave, rate = audio.from_bytes(row["audio"]["bytes"])
    buffer = io.BytesIO()
    sf.write(buffer, np.stack([wave, wave], axis=1), rate, format="WAV", subtype="PCM_16")
    row["audio"]["bytes"] = buffer.getvalue()
    export(write_table(tmp_path / "wav", [row]), "nemo-manifest", tmp_path / "out")
    (path,) = (tmp_path / "out/audio").rglob("*.flac")
    assert (sf.info(path).format, sf.info(path).channels) == ("FLAC", 1)
    assert np.allclose(sf.read(path, dtype="float32")[0], wave, atol=1 / 2**15)


def test_rounds_of_two_versions_go_together(run: Path, tmp_path: Path) -> None:
    both = shutil.copytree(run, tmp_path / "both")
    shutil.rmtree(both / "round-000/speech/data")
    write_table(both / "round-000/speech", speech_rows(10), ("peak", "clipped", "cer"))
    (both / "round-000/speech/_manifest.json").write_text("{}")
    export(both, "hub", tmp_path / "out")
    table = pq.read_table(tmp_path / "out/data")
    assert table["peak"].to_pylist() == [None] * 10 + [0.5] * 10
    assert datasets.load_dataset(str(tmp_path / "out"), split="train").num_rows == 20


def test_rows_without_a_usable_sound_are_named(tmp_path: Path) -> None:
    rows = speech_rows(6)
    rows[1]["audio"]["bytes"] = None
    rows[2]["audio"]["bytes"] = b"not a sound"
    rows[3]["audio"]["bytes"] = rows[3]["audio"]["bytes"][:-500]
    rows[4]["spans"][1]["audio_end"] += 1
    exported = export(write_table(tmp_path / "speech", rows), "webdataset", tmp_path / "out")
    left_out = [json.loads(line) for line in (tmp_path / "out" / LEFT_OUT).read_text().splitlines()]
    assert exported.texts == 2
    assert [(row["row"], row["id"]) for row in left_out] == [(i, rows[i]["id"]) for i in (1, 2, 3, 4)]
    heard = rows[0]["seconds"] + rows[5]["seconds"]
    assert f"2 texts with {heard:,.1f} s" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert left_out[0]["reason"] == "no sound"
    assert "not within its sound" in left_out[3]["reason"]
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        assert len(tar.getnames()) == 3 * 2


# -- hostile names -------------------------------------------------------------------------------------------

NASTY = (
    "x](http://evil.example) ![](http://evil.example/p.png) | <img src=x onerror=alert(1)> `rm` www.evil.example "
    "\n# Head\n---\na: !!python/object:os.system"
)


@pytest.mark.parametrize("to", FORMATS)
def test_no_path_is_made_of_text(to: str, tmp_path: Path) -> None:
    if to == "lhotse":
        pytest.importorskip("lhotse", **LHOTSE)
    rows = speech_rows(3)
    for row, name in zip(rows, ("../../../evil", "/etc/evil\0", "a" * 5000), strict=True):
        row |= {"id": name, "audio": {**row["audio"], "path": "../../evil.flac"}, "voice": NASTY, "source": NASTY}
    export(write_table(tmp_path / "in/deep/speech", rows), to, tmp_path / "in/deep/out")
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name or "aaaa" in p.name]
    assert {p.name for p in (tmp_path / "in/deep").iterdir()} == {"speech", "out"}


def test_the_names_of_files() -> None:
    assert safe_name(7, "0af") == "00000007-0af"
    for other in ("0AF", "0af\n", "", "a" * 65, "0a.f", "../0", None, 3):
        assert safe_name(7, other) == "00000007"


@given(st.one_of(st.text(min_size=1), st.just(NASTY)))
def test_a_name_is_nothing_but_text_in_the_card(name: str) -> None:
    tally = card.Tally((name, name), name, 3, 1.5, 0.01)
    facts = card.Facts(name, 3, 1.5, [tally], [card.Tally((name,), name, 3, 1.5, None)], [name], {"strategy": name}, 2.0, 0.01, 3,
                       name, rejected={name: 2})  # fmt: skip
    _, matter, body = re.split(r"^---\n", card.card(facts), maxsplit=2, flags=re.MULTILINE)
    assert yaml.safe_load(matter)["pretty_name"].startswith("SALAD speech: ")
    plain = card.Facts("x", 3, 1.5, [card.Tally(("x", "x"), "x", 3, 1.5, 0.01)], [card.Tally(("x",), "x", 3, 1.5, None)], ["x"],
                       {"strategy": "x"}, 2.0, 0.01, 3, "x", rejected={"x": 2})  # fmt: skip
    assert skeleton(body) == skeleton(card.card(plain).split("---\n", 2)[2])


def skeleton(markdown: str) -> list[str]:
    """The tags that Markdown makes of a text, in order, with where they lead."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return re.findall(r"<[^>]*>", html)


# -- the card ------------------------------------------------------------------------------------------------


def test_the_card_tells_the_facts(run: Path, tmp_path: Path) -> None:
    export(run, "hub", tmp_path / "out", Options(licences={"tones": "MIT", "tones/v1": "CC0-1.0"}))
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    rows = [*speech_rows(10), *speech_rows(10, 10)]
    spoken = {v: sum(r["seconds"] for r in rows if r["voice"] == v) for v in ("v0", "v1")}
    cers = {v: np.mean([r["cer"] for r in rows if r["voice"] == v and r["cer"] is not None]) for v in ("v0", "v1")}
    for voice, licence in (("v0", "MIT"), ("v1", "CC0-1.0")):
        assert f"| `tones` | `{voice}` | `{licence}` | 10 | {spoken[voice]:,.1f} | {cers[voice]:.2%} |" in text
    assert "; 6 s were asked for" in text
    checked = [r["cer"] for r in rows if r["cer"] is not None]
    assert f"{np.mean(checked):.2%} by `openai/whisper-tiny.en` (whose encoder is the student's too)" in text
    assert f"listened to {len(checked) / 20:.0%} of the texts" in text
    for line in (
        "| strategy | `uniform` |",
        "| rounds | `2` |",
        "| γ | `5.0` |",
        "| clusters of the pool | `3` |",
        "| `silent` | 4 |",
    ):
        assert line in text
    assert card.TEXT_LICENCES["packaged:law"] in text
    from huggingface_hub import DatasetCard

    found = DatasetCard(text).data
    assert (found.license, found.language, found.size_categories) == ("other", ["en"], ["n<1K"])
    assert [c["config_name"] for c in found.configs] == ["default", "round-000", "round-001"]


def test_every_column_is_explained_and_every_licence_is_the_page_s() -> None:
    assert set(speech_schema().names) <= set(card.COLUMNS)
    assert set(REJECTED.names) - {"rejected"} <= set(card.COLUMNS)
    page = (Path(__file__).parents[2] / "docs" / "licences.md").read_text(encoding="utf-8")
    for name, licence in card.TEXT_LICENCES.items():
        (line,) = (row for row in page.splitlines() if row.startswith(f"| {name.removeprefix('packaged:')}:"))
        assert re.split(r"[:;(]", licence)[0].strip() in line


def test_a_voice_with_another_pitch_has_its_voice_s_licence() -> None:
    assert card.licence_of("piper", "joe pitch+2 tempo0.9", {"piper": "GPL", "piper/joe": "CC0"}) == "CC0"
    assert card.licence_of("piper", "amy", {"piper": "GPL"}) == "GPL"
    assert card.licence_of("mine", "me", {}) == "not known"


class Licensed(ToneEngine):
    """Two voices, of which one has a licence."""

    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("v0", RATE, licence="CC-BY-4.0"), VoiceInfo("v1", RATE)]


def test_engines_that_are_installed_name_their_licences(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('was executed')")
    monkeypatch.setitem(ENGINES, "tones", f"{__name__}:Licensed")
    monkeypatch.setitem(ENGINES, "absent", f"{__name__}:Nothing")
    engines = ("tones", "absent", "unheard-of", f"{tmp_path}/mine.py:Engine")
    copy = shutil.copytree(run, tmp_path / "copy")
    config = {"speech": {"voices": [{"engine": name, "voice": "v0", "pitch": 2.0} for name in engines], "heldout_voice": None}}
    (copy / "_run.json").write_text(json.dumps({"config": config}))
    export(copy, "webdataset", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| `tones` | `v0` | `CC-BY-4.0` |" in text
    assert "| `tones` | `v1` | `not known` |" in text


# -- faults --------------------------------------------------------------------------------------------------


def test_bad_input_is_told(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for path, to, said in (
        (tmp_path / "nowhere", "hub", "does not exist"),
        (tmp_path, "hub", "holds no Parquet file"),
        (run, "nemo-manifst", "did you mean 'nemo-manifest'"),
        (run, "x", "known: hub, lhotse, nemo-manifest, webdataset"),
        (run / "round-000/speech/rejected.parquet", "webdataset", "no text has a usable sound"),
    ):
        with pytest.raises(SaladError, match=said):
            export(path, to, out)
    write_folder(tmp_path / "empty", [], rejected=0)
    with pytest.raises(SaladError, match="not one row"):
        export(tmp_path / "empty", "hub", out)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/_run.json").write_text("{}")
    with pytest.raises(SaladError, match="no round whose speech is finished"):
        export(tmp_path / "new", "hub", out)
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "selection.parquet")
    with pytest.raises(SaladError, match="no column audio, spans"):
        export(tmp_path / "selection.parquet", "hub", out)
    with pytest.raises(SaladError, match="1 or more"):
        export(run, "hub", out, Options(shard_rows=0))
    assert not out.exists()


@pytest.mark.parametrize("to", ["hub", "webdataset"])
def test_a_damaged_shard_is_named(to: str, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (path, _) = sorted((copy / "round-001/speech/data").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(SaladError, match=re.escape(f"{path} is not what was published")):
        export(copy, to, tmp_path / "out")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SaladError, match=re.escape(f"{path} is not a Parquet file")):
        export(copy / "round-001/speech", to, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}


def test_damage_is_found_without_a_manifest_too(run: Path, tmp_path: Path) -> None:
    export(run, "hub", tmp_path / "hub")
    path = tmp_path / "hub/data/round-001-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 50] = bytes(50)
    path.write_bytes(data)
    for to in ("hub", "webdataset"):
        with pytest.raises(SaladError, match=re.escape(f"{path} cannot be read to its end")):
            export(tmp_path / "hub", to, tmp_path / "out")


def test_what_exists_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(run, "hub", tmp_path / "out")  # an empty folder is a fine place
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    for there in (tmp_path / "out", tmp_path / "out/README.md"):
        with pytest.raises(SaladError, match="exists and is not an empty folder"):
            export(run, "webdataset", there)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "closed").write_text("a file")
    with pytest.raises(SaladError, match="cannot write"):
        export(run, "hub", tmp_path / "closed/out")


def test_stopping_leaves_nothing(run: Path, tmp_path: Path) -> None:
    def stop(rows: float) -> None:
        raise KeyboardInterrupt

    (tmp_path / ".out.exporting").mkdir()
    (tmp_path / ".out.exporting/junk").write_text("of one that was killed")
    with pytest.raises(KeyboardInterrupt):
        export(run, "webdataset", tmp_path / "out", Options(progress=stop))
    assert not any(p.name.endswith("out") or "exporting" in p.name for p in tmp_path.iterdir())
    (tmp_path / ".out.exporting").mkdir()
    (tmp_path / ".out.exporting/junk").write_text("of one that was killed")
    export(run, "webdataset", tmp_path / "out")
    assert not (tmp_path / "out/junk").exists()


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    (row,) = speech_rows(1)
    row["audio"]["bytes"] = audio.to_flac(np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32), RATE)
    one = len(row["audio"]["bytes"])
    write_folder(tmp_path / "speech", [{**row, "id": f"{i:032x}"} for i in range(16 * BATCH)], per_shard=8 * BATCH)
    for to in ("hub", "webdataset"):
        held: list[int] = []
        before = pa.total_allocated_bytes()
        export(tmp_path / "speech", to, tmp_path / to, Options(progress=lambda n: held.append(pa.total_allocated_bytes())))  # noqa: B023
        assert max(held) - before < 4 * BATCH * one, to  # of 16


# -- the hub itself ------------------------------------------------------------------------------------------


class FakeApi:
    """Of huggingface_hub's HfApi what `push` calls."""

    calls: list[tuple[str, dict[str, Any]]] = []
    error: Exception | None = None

    def create_repo(self, repo: str, **how: Any) -> Any:
        self.calls.append(("create", {"repo": repo, **how}))
        if self.error:
            raise self.error
        return type("RepoUrl", (str,), {"repo_id": f"me/{repo.split('/')[-1]}"})(f"https://hub/datasets/{repo}")

    def upload_folder(self, **how: Any) -> None:
        self.calls.append(("upload", how))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr(FakeApi, "calls", [])
    return FakeApi


def test_push(api: type[FakeApi], tmp_path: Path) -> None:
    assert hub.push(tmp_path, "speech") == "https://hub/datasets/speech"
    (_, created), (_, uploaded) = api.calls
    assert created == {"repo": "speech", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (uploaded["repo_id"], uploaded["folder_path"], uploaded["repo_type"]) == ("me/speech", tmp_path, "dataset")


def test_what_the_hub_refuses_is_explained(api: type[FakeApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    def refusal(status: int) -> HfHubHTTPError:
        return HfHubHTTPError("no", response=SimpleNamespace(status_code=status, headers={}, request=None))

    for error, said in (
        (refusal(401), "token is not valid"),
        (refusal(403), "may not write there"),
        (refusal(500), "the hub refused me/speech"),
        (OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE"),
        (ConnectionError("no route"), "ConnectionError: no route"),
    ):
        monkeypatch.setattr(api, "error", error)
        with pytest.raises(SaladError, match=said) as e:
            hub.push(tmp_path, "me/speech")
        assert f"hf upload me/speech {tmp_path} --repo-type dataset" in str(e.value)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SaladError, match="hf auth login"):
        hub.push(tmp_path, "me/speech")
    with pytest.raises(SaladError, match="cannot be a dataset's name"):
        hub.push(tmp_path, "me/sp eech/x")


def test_a_corpus_can_be_asked_before_it_is_exported(run: Path, tmp_path: Path) -> None:
    corpus = find_corpus(run)
    assert (corpus.name, corpus.rows, [p.name for p in corpus.parts]) == ("kitchen", 20, ["round-000", "round-001"])
    assert find_corpus(run / "round-000/speech").name == "kitchen, round-000/speech"
    assert export(corpus, "webdataset", tmp_path / "out").texts == 20


def test_the_manifests_hold_no_path_of_the_machine(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lhotse", **LHOTSE)
    for to, name in (("lhotse", "cuts.jsonl.gz"), ("nemo-manifest", "manifest.jsonl")):
        export(run, to, tmp_path / to)
        data = (tmp_path / to / name).read_bytes()
        assert str(tmp_path) not in (gzip.decompress(data) if name.endswith("gz") else data).decode()
        assert str(tmp_path) not in (tmp_path / to / "README.md").read_text(encoding="utf-8")
