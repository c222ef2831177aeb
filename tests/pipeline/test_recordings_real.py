"""Real people's recordings, as packages bring them, through the readers and into shards; what an ASR hears in them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from salad import audio
from salad.config import Config, load_config
from salad.pipeline import distil, natural
from salad.pipeline.models import Models
from salad.pipeline.stages import Run
from salad.trainer.data import load_examples
from salad.tts.quality import character_error_rate
from salad.tts.sound import active_level
from tests.fakes import write_config

pytestmark = pytest.mark.slow

PROMPTS = Path("asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
NOVEL = Path("pocketsphinx/test/data/librivox")
HOW = "apt-get install {0}, or unpack it (apt-get download {0}; dpkg -x …) and set SALAD_RECORDINGS to that folder"


def shared(*needed: Path, package: str) -> Path:
    """The folder that packages install shared files in: of the system, or of packages unpacked elsewhere."""
    brought = os.environ.get("SALAD_RECORDINGS")
    places = [Path(brought) / "usr/share", Path(brought)] if brought else [Path("/usr/share")]
    found = next((p for p in places if all((p / n).exists() for n in needed)), None)
    return found or pytest.skip(HOW.format(package))


def prompts(folder: Path) -> tuple[Path, int]:
    """An audio folder of Asterisk's prompts: one voice on a telephone, some prompts beeps and silence; and how many they are."""
    share = shared(PROMPTS, TRANSCRIPTS, package="asterisk-core-sounds-en-wav asterisk-core-sounds-en")
    folder.mkdir()
    (folder / "sounds").symlink_to((share / PROMPTS).resolve())
    lines = gzip.decompress((share / TRANSCRIPTS).read_bytes()).decode("utf-8", errors="replace").splitlines()
    named = [line.split(":", 1) for line in lines if ":" in line and not line.startswith(";")]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("file_name", "text"), *((f"sounds/{n.strip()}.wav", t.strip()) for n, t in named)])
    return folder, len(named)


def novel(folder: Path) -> Path:
    """Five utterances of a reader of Sense and Sensibility."""
    share = shared(NOVEL, package="pocketsphinx-testdata")
    folder.mkdir()
    (folder / "wav").symlink_to((share / NOVEL).resolve())
    said = re.findall(r"<s> (.*?) </s> \((.*)\)", (share / NOVEL / "transcription").read_text(encoding="utf-8"))
    lines = [json.dumps({"file_name": f"wav/{name}.wav", "text": text, "reader": "austen"}) for text, name in said]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def configuration(folder: Path, models: dict[str, str], recordings: dict[str, Any], **natural: Any) -> Config:
    path = write_config(folder, models, natural={"recordings": recordings, **natural}, interleave={})
    return load_config(path, {"pool.max_words": 48, "pool.min_words": 12, "speech.shard_rows": 64})


def test_prompts_of_a_telephone_exchange_train_a_student(tmp_path: Path, fake_models: dict[str, str]) -> None:
    folder, written = prompts(tmp_path / "prompts")
    run = Run(configuration(tmp_path, fake_models, {"dataset": str(folder)}, seconds=300))
    stage = natural.stage(run)
    manifest, _ = run.execute(stage)
    assert 300 <= manifest.meta["seconds"] < 330
    assert manifest.meta["utterances"] < written, "it stopped when it had enough"
    for row in pq.read_table(run.store.path("natural") / "data").to_pylist():
        wave, rate = audio.from_bytes(row["audio"]["bytes"])
        assert rate == 16_000
        assert active_level([wave], rate) == pytest.approx(-26, abs=0.5)
        assert all(row["text"][s["char_start"] : s["char_end"]].strip() == s["text"] for s in row["spans"])

    prepared = tmp_path / "prepared"
    meta = distil.build_prepared(prepared, run.config, run.models, run.store.path("natural"), lambda n: None)
    assert meta["undecodable"] == []
    examples = load_examples(prepared)
    assert len(examples) == manifest.meta["rows"]
    for example in examples:
        layout = example.layout(stack=4)
        assert (layout.student_loss_at > layout.frame_at[0][0]).any(), "something is learned after what was heard"
    folders = {"natural": [prepared]}
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    trained = distil.build_checkpoint(checkpoint, run.config, run.models, None, folders, 2, "stage-one", lambda n: None)
    assert trained["examples"] == {"natural": len(examples)}
    assert np.isfinite(trained["kl_last"])


def test_beeps_and_silence_are_turned_down(tmp_path: Path, fake_models: dict[str, str]) -> None:
    folder, written = prompts(tmp_path / "prompts")
    config = configuration(tmp_path, fake_models, {"dataset": str(folder)}, seconds=1e6)
    (tmp_path / "out").mkdir()
    meta = natural.build_recordings(tmp_path / "out", config, Models(config), lambda s: None)
    assert meta["utterances"] == written
    assert meta["seconds"] > 1000
    turned_down = {r["id"]: r["rejected"] for r in pq.read_table(tmp_path / "out/rejected.parquet").to_pylist()}
    assert {k for k, why in turned_down.items() if why == "silent"} == {f"sounds/silence/{i}.wav" for i in range(1, 11)}
    assert turned_down["sounds/beep.wav"] == "too fast"
    assert len(turned_down) < 0.06 * written


@pytest.mark.parametrize("asr", ["openai/whisper-tiny.en", "pocketsphinx"])
def test_what_is_heard_is_what_the_ranges_say(tmp_path: Path, asr: str) -> None:
    """Of a novel's reader; PocketSphinx is an ASR that nothing here trains with."""
    from salad import assets

    models = {"lm": "a", "encoder": "b", "embedder": "c", "asr": "openai/whisper-tiny.en"}
    config = configuration(tmp_path, models, {"dataset": str(novel(tmp_path / "novel")), "group_column": "reader"}, asr_share=1)
    if asr == "pocketsphinx":
        pytest.importorskip("pocketsphinx", reason="pip install pocketsphinx==5.1.1")
        config = Config.model_validate({**config.model_dump(), "models": {**models, "asr": None}})
    else:
        try:
            assets.check_name(asr)
        except Exception as e:
            pytest.skip(f"{e}")
    (tmp_path / "out").mkdir()
    meta = natural.build_recordings(tmp_path / "out", config, Models(config), lambda s: None)
    assert (meta["rows"], meta["rejected"]) == (4, {})
    if asr == "pocketsphinx":
        assert np.mean([error_by_pocketsphinx(row) for row in pq.read_table(tmp_path / "out/data").to_pylist()]) < 0.3
    else:
        assert meta["cer"] < 0.15


def error_by_pocketsphinx(row: dict[str, Any]) -> float:
    from pocketsphinx import Decoder

    wave, rate = audio.from_bytes(row["audio"]["bytes"])
    heard = []
    for span in row["spans"]:
        part = wave[round(span["audio_start"] * rate) : round(span["audio_end"] * rate)]
        decoder = Decoder(samprate=rate, loglevel="FATAL")
        decoder.start_utt()
        decoder.process_raw((np.clip(part, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        heard.append(decoder.hyp().hypstr if decoder.hyp() else "")
    return character_error_rate([s["text"] for s in row["spans"]], heard)
