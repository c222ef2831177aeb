"""A voice of tones that breaks in every way that an engine can, told by words in its text.

`once` beside such a word: only at the first try of that text, which a file in $SALAD_FAULTY remembers.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import soundfile  # noqa: F401  before the clock of the first text starts

from salad.tts.base import Speech
from salad.tts.worker import FIRST_WORDS
from tests.fakes import RATE, ToneEngine

HERE = f"{Path(__file__).resolve()}:FaultyEngine"
DIES_LOADING = f"{Path(__file__).resolve()}:DiesLoading"


class FaultyEngine(ToneEngine):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        said = [self._say(text) for text in texts]
        return [s for s in said if s is not None]

    def _say(self, text: str) -> Speech | None:
        good = Speech(self._wave(text), RATE)
        words = set(text.lower().replace(".", "").split())
        if "once" in words and not self._first_time(text):
            return good
        if "killed" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "leaves" in words:
            os._exit(3)
        if "hangs" in words:
            time.sleep(600)
        if "fills" in words:
            np.ones(2**50)  # a real MemoryError
        if "raises" in words:
            raise RuntimeError("the engine's own mistake")
        if "loses" in words:
            return None
        broken = {"nothing": good.wave[:0], "silence": good.wave * 0, "nan": good.wave * np.float32(np.nan)}
        wave = next((broken[w] for w in broken if w in words), good.wave)
        return Speech(wave, RATE // 2 if "slower" in words else RATE)

    @staticmethod
    def _first_time(text: str) -> bool:
        mark = Path(os.environ["SALAD_FAULTY"]) / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class DiesLoading(FaultyEngine):
    """Is killed at its first words as often as there are files death-* in $SALAD_FAULTY, each of which it removes."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        if texts == [FIRST_WORDS] and (left := sorted(Path(os.environ["SALAD_FAULTY"]).glob("death-*"))):
            left[0].unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().synthesize(texts, voice)
