"""What is said of a text: its planned spans in spoken form, by the voice that the plan gives it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salad.config import Config, Voice
from salad.errors import SaladError
from salad.trainer.interleave import Span, plan_spans
from salad.tts.base import SpeakingRate, fit_rate
from salad.tts.speakable import speakable
from salad.tts.takes import Job, pick_voice
from salad.tts.workers import Speakers


@dataclass(frozen=True)
class Script:
    """ranges: of the heard spans, characters of the text. said: their spoken forms. problem: why it cannot be said."""

    ranges: list[tuple[int, int]]
    said: list[str]
    job: Job
    problem: str | None


def spans_of(text: str, text_id: str, config: Config, from_speech: bool = False) -> list[Span]:
    """The text's spans, heard and read, as `interleave` has them; from_speech: the first is heard, whatever it says."""
    plan = config.interleave
    start = "speech" if from_speech else plan.start
    return plan_spans(text, text_id, config.seed, plan.speech_words, plan.text_words, start, plan.pattern)


def write_script(row: dict[str, Any], config: Config, voices: Sequence[Voice], listen: bool = False) -> Script:
    """row: `id` and `text`. listen: an ASR will want to hear it."""
    text, text_id = row["text"], row["id"]
    spans = spans_of(text, text_id, config)
    whole = config.speech.cut == "texts"
    planned = [s for s in spans if whole or s.modality == "speech"]
    forms = [speakable(text[s.char_start : s.char_end].strip()) for s in planned]
    heard = tuple(i for i, s in enumerate(planned) if s.modality == "speech")
    # What is only read need not be speakable: said with the whole text it may be left out.
    problem = "no span" if not heard else next((p for i in heard if (p := forms[i].problem)), None)
    job = Job(
        key=text_id,
        voice=pick_voice(voices, config.seed, text_id),
        segments=tuple("" if f.problem else f.text for f in forms),
        heard=heard,
        whole=whole,
        listen=listen,
    )
    ranges = [(planned[i].char_start, planned[i].char_end) for i in heard]
    return Script(ranges, [forms[i].text for i in heard], job, problem)


def measure_rates(scripts: Iterable[Script], config: Config, speakers: Speakers) -> dict[str, SpeakingRate]:
    """How fast each voice of the configuration says these scripts' spans, by the voice's label."""
    said = [text for script in scripts if not script.problem for text in script.said]
    return {voice.label: _rate(said, voice, speakers) for voice in config.speech.voices}


def _rate(said: list[str], voice: Voice, speakers: Speakers) -> SpeakingRate:
    jobs = [Job(str(i), voice, (text,), (0,)) for i, text in enumerate(said)]
    takes = speakers.submit(jobs).takes()
    sound = [i for i in range(len(jobs)) if takes[str(i)].fault is None]
    if not sound:
        why = next((t.fault for t in takes.values()), "there is nothing to say")
        raise SaladError(f"voice '{voice.label}' of engine '{voice.engine}' says nothing ({why})", "try another voice")
    seconds = np.array([takes[str(i)].ends[-1] / takes[str(i)].rate for i in sound])
    chars = np.array([len(said[i]) for i in sound], dtype=np.float64)
    return fit_rate(seconds, chars, f"voice '{voice.label}' of engine '{voice.engine}'")
