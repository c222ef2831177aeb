"""The embedded default voice: hibari (Apache-2.0), Kokoro's af_heart distilled to 8 MB, 24 kHz, on a CPU, with word times."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from salad.errors import SaladError
from salad.tts import kokoro_durations as durations
from salad.tts import kokoro_phonemes as phonemes
from salad.tts.base import Speech, VoiceInfo
from salad.tts.network import open_network

RATE = 24_000
SPECTRA = 6  # outputs of the network that `hibari.dsp` makes a sound of


class HibariEngine:
    """Sentences in, sentences out. Deterministic: the noise part is seeded per text."""

    name = "hibari"

    def __init__(self) -> None:
        try:
            import hibari
        except ImportError as e:
            raise SaladError(
                "engine 'hibari' is not installed", "pip install --no-deps hibari-tts onnxruntime (or `make setup`)"
            ) from e
        from hibari.voices import voice_path

        def make(voice: str) -> Any:
            tts = hibari.Hibari(voice, threads=1)
            tts.sess = open_network(durations.with_durations(Path(voice_path(voice)).read_bytes()))
            return tts

        self._make = cache(make)

    def voices(self) -> list[VoiceInfo]:
        from hibari.voices import VOICES

        return [
            VoiceInfo(name, RATE, "en-gb" if v["british"] else "en-us", "Apache-2.0", local=v["bundled"])
            for name, v in VOICES.items()
        ]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        tts = self._load(voice)
        return [self._speak(tts, text) for text in texts]

    def _speak(self, tts: Any, text: str) -> Speech:
        from hibari.tts import MAX_PHONEMES
        from hibari.voices import VOICES

        try:
            sentences = phonemes.read(text, british=VOICES[tts.voice]["british"])
        except (ValueError, IndexError, KeyError):  # a text that its front end cannot read
            sentences = []
        noise = np.random.default_rng(0)
        runs = [_say(tts, run, noise) for sentence in sentences for run in phonemes.cut(sentence, MAX_PHONEMES)]
        return durations.speech(runs, RATE)

    def _load(self, voice: str) -> Any:
        try:
            return self._make(voice)
        except (RuntimeError, OSError) as e:
            raise SaladError(f"hibari voice '{voice}' cannot be loaded ({e})", "use 'heart', which is in the package") from e


def _say(tts: Any, words: list[phonemes.Word], noise: np.random.Generator) -> durations.Run:
    """What `Hibari.from_ids` does, which has no place for one more output."""
    from hibari import dsp

    tokens = phonemes.tokens(words)
    outputs = tts.sess.run(None, {"ids": np.array([tokens], np.int64), "speed": np.ones(1, np.float32)})
    wave = np.asarray(dsp.synth(*(o[0] for o in outputs[:SPECTRA]), noise), np.float32)
    return durations.Run(words, wave, durations.frames(outputs[SPECTRA:], len(tokens), len(wave)))
