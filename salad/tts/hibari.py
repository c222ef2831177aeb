"""The embedded default voice: hibari (Apache-2.0), Kokoro's af_heart distilled to 8 MB, 24 kHz, on a CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from salad.errors import SaladError
from salad.tts.base import Speech, trim_silence

# hibari reads [word](/phonemes/) as markup; text of a pool is text and nothing else.
_MARKUP = str.maketrans({"[": " ", "]": " "})


class HibariEngine:
    """Sentences in, sentences out, two at a time. Deterministic: the noise part is seeded per text."""

    name = "hibari"

    def __init__(self, workers: int = 2) -> None:
        try:
            import hibari
        except ImportError as e:
            raise SaladError(
                "engine 'hibari' is not installed", "pip install --no-deps hibari-tts onnxruntime (or `make setup`)"
            ) from e
        self._make = hibari.Hibari
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(workers)

    def voices(self) -> list[str]:
        from hibari.voices import VOICES

        return list(VOICES)

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return list(self._pool.map(lambda text: self._speak(text, voice), texts))

    def _speak(self, text: str, voice: str) -> Speech:
        tts = self._voice(voice)
        try:
            wave = tts(text.translate(_MARKUP), seed=0)
        except (ValueError, IndexError, KeyError):  # a text its front end cannot read: silence, rejected later
            wave = np.zeros(0, np.float32)
        return Speech(trim_silence(np.asarray(wave, dtype=np.float32), tts.sample_rate), tts.sample_rate)

    def _voice(self, voice: str) -> Any:
        cached = getattr(self._local, "voice", None)
        if cached is None or cached[0] != voice:
            try:
                cached = (voice, self._make(voice=voice, threads=1))
            except (RuntimeError, OSError) as e:
                raise SaladError(f"hibari voice '{voice}' cannot be loaded ({e})", "use 'heart', which is in the package") from e
            self._local.voice = cached
        return cached[1]
