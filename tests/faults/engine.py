"""A voice of tones that writes down every text that it says, so that what is said twice shows, and every order it is given."""

from __future__ import annotations

import os
import time
from pathlib import Path

from salad.tts.base import Speech
from salad.tts.worker import FIRST_WORDS
from tests.fakes import ToneEngine

HERE = f"{Path(__file__).resolve()}:NotingEngine"
LOG = "SALAD_FAULTS_LOG"  # environment variable: the file that is written to
PACE = "SALAD_FAULTS_PACE"  # environment variable: seconds that a text takes


class NotingEngine(ToneEngine):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        if texts == [FIRST_WORDS]:
            return super().synthesize(texts, voice)
        note(order())
        return [self._say(text) for text in texts]

    def _say(self, text: str) -> Speech:
        note(f"said {text}")
        time.sleep(float(os.environ.get(PACE, 0)))
        return self.synthesize_one(text)

    def synthesize_one(self, text: str) -> Speech:
        return super().synthesize([text], "tone")[0]


def order(pid: int | None = None) -> str:
    """The log's line for an order that a process, or this one, is given."""
    return f"order {pid or os.getpid()}"


def note(line: str) -> None:
    if LOG in os.environ:
        with open(os.environ[LOG], "a", encoding="utf-8") as f:
            f.write(f"{line}\n")
