"""Voices of tones that take their time: `SlowEngine` while a file is there, `StuckEngine` in one call that hears no signal."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from salad.tts.base import Speech
from tests.fakes import ToneEngine

HERE = Path(__file__).resolve()


class SlowEngine(ToneEngine):
    """0.2 s a text while the file $SALAD_SLOW exists."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        for _ in texts:
            if Path(os.environ["SALAD_SLOW"]).exists():
                time.sleep(0.2)
        return super().synthesize(texts, voice)


class StuckEngine(ToneEngine):
    """Its first text takes minutes in C, where Python hears nothing; $SALAD_SLOW.stuck says that it began."""

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        Path(os.environ["SALAD_SLOW"] + ".stuck").touch()
        hashlib.pbkdf2_hmac("sha256", b"never", b"ending", 10**9)
        return super().synthesize(texts, voice)
