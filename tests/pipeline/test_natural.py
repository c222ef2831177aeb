"""Natural speech becomes an artefact like other speech: from recordings, or from shards that are there already."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from salad import audio
from salad.config import Config, load_config
from salad.errors import SaladError
from salad.pipeline import distil, natural
from salad.pipeline.models import Models
from salad.pipeline.schema import REJECTED, speech_schema
from salad.pipeline.shards import read_utterances
from salad.pipeline.stages import Run
from salad.trainer.data import load_examples
from salad.tts.sound import active_level
from tests.fakes import write_config

RATE = 8000


def speech_like(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """Noise in syllables, so that it has a level and is never silent for long."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(n) / rate)
    return (0.05 * envelope * rng.standard_normal(n)).astype(np.float32)


def write_speech_folder(folder: Path, texts: list[str | None], seconds: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as f:
        for i, text in enumerate(texts):
            sf.write(folder / f"{i}.wav", speech_like(seconds, i), RATE)
            f.write(json.dumps({"file_name": f"{i}.wav", "text": text, "reader": "ann" if i < 6 else "bob"}) + "\n")
    return folder


TEXTS: list[str | None] = [f"the soup number {i} is warm" for i in range(11)]


@pytest.fixture
def config(tmp_path: Path, fake_models: dict[str, str]) -> Config:
    folder = write_speech_folder(tmp_path / "speech", TEXTS)
    recordings = {"dataset": str(folder), "group_column": "reader"}
    return load_config(write_config(tmp_path, fake_models, natural={"recordings": recordings, "seconds": 100}))


def changed(config: Config, **values: Any) -> Config:
    """`natural__seconds=3` and the like."""
    data = config.model_dump()
    for name, value in values.items():
        *parents, last = name.split("__")
        at = data
        for p in parents:
            at = at[p]
        at[last] = value
    return Config.model_validate(data)


def build(out: Path, config: Config, models: Any = None) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    return natural.build_recordings(out, config, models or Models(config), lambda seconds: None)


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "data").to_pylist()


def rejected(out: Path) -> dict[str, str]:
    return {r["id"]: r["rejected"] for r in pq.read_table(out / "rejected.parquet").to_pylist()}


def test_recordings_reach_the_trainer_with_positions_to_learn_at(config: Config) -> None:
    """The stage, published, prepared and loaded: each example hears something and has loss after it."""
    run = Run(config)
    seconds: list[float] = []
    manifest, built = run.execute(natural.stage(run), seconds.append)
    assert built
    assert (manifest.meta["rows"], manifest.meta["utterances"], manifest.meta["groups"]) == (4, 11, 2)
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(manifest.meta["seconds"], abs=0.01)
    assert not run.execute(natural.stage(run))[1], "it is not built twice"

    utterances = list(read_utterances(run.store.path("natural")))
    heard = [u.text[a:b].strip() for u in utterances for a, b in u.spoken]
    assert sorted(heard) == sorted(t for i, t in enumerate(TEXTS) if i not in (5, 10)), "all but each reader's last"
    prepared = run.store.path("natural").parent / "prepared"
    distil.build_prepared(prepared, config, run.models, run.store.path("natural"), lambda n: None)
    for example in load_examples(prepared):
        layout = example.layout(stack=4)
        assert len(layout.frame_at) == len(example.frames) > 0
        assert min(len(at) for at in layout.frame_at) >= 12, "a second is 12.5 positions"
        after_speech = layout.student_loss_at[layout.student_loss_at >= layout.frame_at[0][-1]]
        assert len(after_speech) > 3, "the words after what was heard are learned from it"


def test_shards_have_the_schema_exact_spans_one_rate_and_one_level(tmp_path: Path, config: Config) -> None:
    build(tmp_path / "out", changed(config, speech__shard_rows=2))
    assert [p.name for p in sorted((tmp_path / "out/data").iterdir())] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    schema = pq.read_schema(tmp_path / "out/data/train-00000-of-00002.parquet")
    assert schema.equals(speech_schema())
    assert schema.metadata == speech_schema().metadata
    assert pq.read_schema(tmp_path / "out/rejected.parquet").equals(REJECTED)
    for i, row in enumerate(rows(tmp_path / "out")):
        assert (row["engine"], row["voice"], row["rank"]) == ("recording", "ann" if i < 2 else "bob", i)
        assert row["cluster"] is row["cer"] is row["predicted_divergence"] is None
        wave, rate = audio.from_bytes(row["audio"]["bytes"])
        assert rate == row["sampling_rate"] == 16_000
        assert active_level([wave], rate) == pytest.approx(config.speech.quality.level, abs=0.3)
        assert row["spans"][-1]["audio_end"] * rate == pytest.approx(len(wave))
        at = 0.0
        for span in row["spans"]:
            assert row["text"][span["char_start"] : span["char_end"]].strip() == span["text"] in TEXTS
            assert span["audio_start"] == at
            at = span["audio_end"]
            start, end = round(span["audio_start"] * rate), round(span["audio_end"] * rate)
            given = audio.resample(speech_like(1.0, TEXTS.index(span["text"])), RATE, rate)
            assert np.corrcoef(wave[start:end], given[: end - start])[0, 1] > 0.99
        assert np.abs(wave).max() == pytest.approx(row["peak"], abs=1e-3)


def test_a_card_and_a_folder_that_datasets_opens(tmp_path: Path, config: Config) -> None:
    import datasets

    hostile = Path(str(config.natural.recordings.dataset)).rename(tmp_path / "`\n# {rows}")  # type: ignore[union-attr]
    build(tmp_path / "out", changed(config, natural__recordings__dataset=str(hostile)))
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert re.findall(r"^# .*", card.split("```")[0], re.MULTILINE) == ["# SALAD speech: `natural speech`"]
    assert "' # {rows}`" in card, "a code span on one line"
    assert re.search(r"^4 texts with 9\.\d s", card, re.MULTILINE)
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["audio"], datasets.Audio)
    assert len(loaded) == 4


def test_it_stops_when_enough_is_heard_and_leaves_nothing_of_a_killed_attempt(tmp_path: Path, config: Config) -> None:
    class Killed(Exception):
        pass

    def die(seconds: float) -> None:
        if seconds > 6:  # in its third shard
            raise Killed

    (tmp_path / "out").mkdir()
    with pytest.raises(Killed):
        natural.build_recordings(tmp_path / "out", changed(config, speech__shard_rows=1), Models(config), die)
    meta = build(tmp_path / "out", changed(config, natural__seconds=4))
    assert 4 <= meta["seconds"] < 4 + 3.5, "at most one sample over"
    assert meta["rows"] == len(rows(tmp_path / "out")) == 2
    whole = build(tmp_path / "whole", config)
    again = build(tmp_path / "again", config)
    assert whole == again
    assert pq.read_table(tmp_path / "whole/data").equals(pq.read_table(tmp_path / "again/data"))


class Hears:
    """An ASR that hears `understood` in every sound but those whose number is in `deaf_to`."""

    def __init__(self, deaf_to: tuple[int, ...] = ()) -> None:
        self.deaf_to, self.asked = deaf_to, 0

    def transcribe(self, waves: list[np.ndarray], **how: Any) -> list[str]:
        found = []
        for wave in waves:
            texts = ["" if i in self.deaf_to else t for i, t in enumerate(TEXTS)]
            given = [audio.resample(speech_like(1.0, i), RATE, 16_000) for i in range(len(TEXTS))]
            match = [abs(np.corrcoef(wave[:8000], g[:8000])[0, 1]) for g in given]
            found.append(texts[int(np.argmax(match))] or "la la la")
            self.asked += 1
        return found


def listening_by(asr: Hears, config: Config) -> Models:
    models = Models(config)
    models.__dict__["asr"] = asr
    return models


def test_the_asr_hears_its_share_and_turns_down_what_it_does_not_understand(tmp_path: Path, config: Config) -> None:
    listening = changed(config, natural__asr_share=1.0, models__asr="fake")
    meta = build(tmp_path / "all", listening, listening_by(Hears(deaf_to=(7,)), listening))
    assert meta["cer_checked"] == 4
    assert meta["rejected"] == {"not understood": 1}
    assert all(r["cer"] == 0 and r["heard"] for r in rows(tmp_path / "all"))
    (turned_down,) = pq.read_table(tmp_path / "all/rejected.parquet").to_pylist()
    assert turned_down["cer"] > config.speech.quality.max_cer
    assert "la la la" in turned_down["heard"]
    assert audio.from_bytes(turned_down["audio"]["bytes"])[1] == 16_000, "one can hear what was wrong"
    assert turned_down["seconds"] > 0

    deaf = Hears()
    none = build(tmp_path / "none", changed(listening, natural__asr_share=0.0), listening_by(deaf, listening))
    assert (none["cer"], none["cer_checked"], deaf.asked) == (None, 0, 0)


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path: Path, config: Config) -> None:
    folder = write_speech_folder(tmp_path / "mixed", [*TEXTS[:3], None, *TEXTS[4:6]])
    (folder / "1.wav").write_bytes(b"RIF")
    meta = build(tmp_path / "out", changed(config, natural__recordings__dataset=str(folder)))
    assert rejected(tmp_path / "out") == {
        "0.wav": "no neighbour to read",
        "1.wav": "cannot be decoded",
        "2.wav": "no neighbour to read",
        "3.wav": "no text",
    }
    assert meta["rejected"] == {"no neighbour to read": 2, "cannot be decoded": 1, "no text": 1}


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, config: Config) -> None:
    folder = write_speech_folder(tmp_path / "bad", TEXTS[:3])
    for path in folder.glob("*.wav"):
        path.write_bytes(b"x")
    with pytest.raises(SaladError, match=r"none of the 3 utterances .* can be used: 3 cannot be decoded \(first: 0.wav\)"):
        build(tmp_path / "out", changed(config, natural__recordings__dataset=str(folder)))
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(SaladError, match=r"none of the 0 utterances .*: it holds none"):
        build(tmp_path / "out", changed(config, natural__recordings__dataset=str(folder)))


def test_the_key_follows_the_files_and_what_the_bytes_depend_on(tmp_path: Path, config: Config) -> None:
    def key(c: Config) -> str:
        run = Run(c)
        return run.key(natural.stage(run))

    first = key(config)
    assert key(config) == first
    assert key(changed(config, rounds=3, speech__quality__max_pause=1.0)) != first
    assert key(changed(config, interleave__start="text")) != first
    assert key(changed(config, train__batch_size=5)) == first
    sf.write(tmp_path / "speech" / "0.wav", speech_like(2.0, 0), RATE)
    assert key(config) != first


def test_shards_are_copied_as_they_are(tmp_path: Path, config: Config) -> None:
    build(tmp_path / "mine", config)
    brought = load_config(
        write_config(tmp_path, dict(config.models.model_dump(exclude={"asr"})), natural={"shards": str(tmp_path / "mine")})
    )
    run = Run(brought)
    manifest, _ = run.execute(natural.stage(run))
    assert manifest.meta == {"rows": 4}
    assert pq.read_table(run.store.path("natural") / "data").equals(pq.read_table(tmp_path / "mine/data"))
    with pytest.raises(SaladError, match="no data"):
        natural.build_natural(tmp_path / "x", tmp_path / "nothing", lambda n: None)


@pytest.mark.parametrize("fault", ["truncated", "altered"])
def test_a_damaged_shard_that_is_brought_is_named(tmp_path: Path, config: Config, fault: str) -> None:
    build(tmp_path / "mine", config)
    (path,) = (tmp_path / "mine/data").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 50] = bytes(50)
    path.write_bytes(data if fault == "altered" else data[: len(data) // 2])
    (tmp_path / "out").mkdir()

    def bring() -> None:
        natural.build_natural(tmp_path / "out", tmp_path / "mine", lambda n: None)
        distil.build_prepared(tmp_path / "prepared", config, Models(config), tmp_path / "out", lambda n: None)

    with pytest.raises(SaladError, match=re.escape(f"{path.name} cannot be read to its end")):
        bring()
