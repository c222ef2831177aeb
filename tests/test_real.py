"""One round with the real models, voice and texts: the numbers mean what they say. Needs the asset packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from salad.audio import resample
from salad.config import load_config
from salad.pipeline.shards import read_utterances
from salad.pipeline.stages import Run
from salad.tts.quality import character_error_rate
from salad.whisper import RATE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a whole real run, beside whatever else is tested
CONFIG = Path(__file__).with_name("real_small.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of one round, made by the command line."""
    folder = tmp_path_factory.mktemp("real")
    config = folder / "config.yaml"
    config.write_text(CONFIG.read_text() + f"runs_dir: {folder / 'runs'}\n")
    done = subprocess.run(
        [sys.executable, "-m", "salad", "run", str(config)],
        capture_output=True, text=True, timeout=1700, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Run(load_config(config))


def metrics(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run.store.path(name) / "metrics.json").read_text())["all"]


def test_training_lowers_the_divergence(run: Run) -> None:
    untrained, stage_one, last = (metrics(run, n)["D"] for n in ("before/untrained", "stage-one/metrics", "round-000/metrics"))
    assert max(stage_one, last) < untrained - 0.1  # 30 and 15 steps: too few to tell the two apart
    log = [json.loads(line) for line in (run.store.path("stage-one/checkpoint") / "log.jsonl").read_text().splitlines()]
    assert np.mean([r["kl"] for r in log[-3:]]) < np.mean([r["kl"] for r in log[:3]])


def test_a_frozen_lm_forgets_nothing(run: Run) -> None:
    assert metrics(run, "round-000/metrics")["F"] == 0


def test_the_budget_is_met(run: Run) -> None:
    speech = run.store.manifest("round-000/speech").meta
    assert 0.98 * speech["budget"] <= speech["seconds"] <= 1.02 * speech["budget"]
    assert speech["cer_checked"] >= speech["rows"]


def test_the_estimate_of_seconds_is_close(run: Run) -> None:
    table = pq.read_table(run.store.path("natural/data"), columns=["est_seconds", "seconds"])
    ratio = sum(table["seconds"].to_pylist()) / sum(table["est_seconds"].to_pylist())
    assert 0.93 < ratio < 1.07


def test_the_pool_has_its_domains_and_no_duplicates(run: Run) -> None:
    table = pq.read_table(run.store.path("pool"), columns=["id", "text", "domain"])
    assert set(table["domain"].to_pylist()) == {"recipes", "medicine", "law"}
    assert len(set(table["text"].to_pylist())) == table.num_rows


def test_another_ear_hears_the_texts(run: Run) -> None:
    """PocketSphinx, which nothing here trains with or on: words, so chance is near an error rate of 1."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    said, heard = [], []
    for utterance in list(read_utterances(run.store.path("natural")))[:12]:
        for (a, b), wave in zip(utterance.spoken, utterance.waves, strict=True):
            quiet = np.zeros(RATE // 4, np.float32)
            sound = np.concatenate([quiet, resample(wave, utterance.rate, RATE), quiet])
            decoder.start_utt()
            decoder.process_raw((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
            decoder.end_utt()
            said.append(utterance.text[a:b])
            heard.append(decoder.hyp().hypstr if decoder.hyp() else "")
    shuffled = heard[1:] + heard[:1]
    assert character_error_rate(said, heard) < 0.35
    assert character_error_rate(said, shuffled) > 0.6, "the test could not tell right from wrong"


def test_short_whisper_hears_as_well_as_in_its_full_window(run: Run) -> None:
    import torch

    from salad.whisper import ShortWhisper

    whisper = ShortWhisper(run.config.models.asr or "", torch.float32)
    said, waves = [], []
    for utterance in list(read_utterances(run.store.path("natural")))[:10]:
        for (a, b), wave in zip(utterance.spoken, utterance.waves, strict=True):
            said.append(utterance.text[a:b])
            waves.append(resample(wave, utterance.rate, RATE))
    full = [np.pad(w, (0, 30 * RATE - len(w))) for w in waves]
    assert character_error_rate(said, whisper.transcribe(waves)) <= character_error_rate(said, whisper.transcribe(full)) + 0.03


def test_encoder_states_do_not_depend_on_company(run: Run) -> None:
    import torch

    from salad.trainer.encoders import make_encoder

    encoder = make_encoder(run.config.models.encoder, torch.float32)
    waves = [resample(u.waves[0], u.rate, RATE) for u in list(read_utterances(run.store.path("probe")))[:5]]
    together = encoder.encode(waves)
    for wave, states in zip(waves, together, strict=True):
        assert torch.allclose(encoder.encode([wave])[0], states, atol=1e-3)
        assert states.shape == (-(-len(wave) // 320), encoder.width)
        assert encoder.frame_rate == 50
