"""What the ear lets pass, and what it turns down."""

from __future__ import annotations

import numpy as np
import pytest

from salad.tts.base import SpeakingRate, Speech, make_engine, measure_rate, trim_silence
from salad.tts.quality import Limits, character_error_rate, fault
from tests import fakes

LIMITS = Limits(max_cer=0.3, min_words_per_second=1.0, max_words_per_second=6.0)
RATE = 16_000
TONE = (0.3 * np.sin(np.arange(2 * RATE) / 10)).astype(np.float32)


@pytest.mark.parametrize(
    ("said", "heard", "cer"),
    [
        ("Stir the soup.", "stir the soup", 0.0),
        ("Cook (uncovered) for twenty minutes", "Cook uncovered for 20 minutes.", 0.0),
        ("[sic] as written", "sic as written", 0.0),
        ("background noise", "back ground noise", 0.0),
        ("abcd", "abcx", 0.25),
        ("abcd", "", 1.0),
        ("abcd", " \n", 1.0),
        ("abcd", "...", 1.0),
        ("", "anything", 1.0),
        ("", "", 1.0),
    ],
)
def test_character_error_rate(said: str, heard: str, cer: float) -> None:
    assert character_error_rate([said], [heard]) == pytest.approx(cer)


def test_spans_count_together() -> None:
    assert character_error_rate(["abcd", "efghijkl"], ["abcd", "efgh"]) == pytest.approx(4 / 12)


def test_an_ear_that_heard_nothing_is_no_proof() -> None:
    assert character_error_rate(["abcd", "efgh"], ["", ""]) == 1.0
    assert character_error_rate(["abcd", "efgh"], ["abcd", ""]) == 0.5
    assert fault([TONE], RATE, 5, character_error_rate(["abcd"], [""]), LIMITS) == "not understood"


def test_an_ear_that_repeats_itself_goes_beyond_one() -> None:
    assert character_error_rate(["abcd"], ["abcd abcd abcd"]) == 2.0


@pytest.mark.parametrize("heard", [[], ["abcd"], ["abcd", "efgh", "more"]])
def test_a_transcript_for_every_span_or_none(heard: list[str]) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        character_error_rate(["abcd", "efgh"], heard)


@pytest.mark.parametrize(
    ("waves", "words", "cer", "reason"),
    [
        ([TONE], 5, 0.1, None),
        ([TONE], 5, None, None),
        ([TONE], 5, 0.5, "not understood"),
        ([TONE], 1, 0.0, "too slow"),
        ([TONE], 40, 0.0, "too fast"),
        ([TONE * 0], 5, 0.0, "silent"),
        ([TONE * 4], 5, 0.0, "clipped"),
        ([TONE, TONE[:0]], 5, 0.0, "no sound"),
        ([], 5, None, "no sound"),
        ([TONE * np.nan], 5, 0.0, "sound is not finite"),
    ],
)
def test_faults(waves: list[np.ndarray], words: int, cer: float | None, reason: str | None) -> None:
    clipped = [np.clip(w, -1, 1) for w in waves]
    assert fault(clipped, RATE, words, cer, LIMITS) == reason


def test_silence_is_trimmed_at_the_ends_only() -> None:
    quiet = np.zeros(RATE, np.float32)
    wave = np.concatenate([quiet, TONE, quiet, TONE, quiet])
    trimmed = trim_silence(wave, RATE)
    assert len(trimmed) == pytest.approx(5 * RATE + 0.1 * RATE, abs=0.01 * RATE)
    assert len(trim_silence(quiet, RATE)) == RATE


def test_the_rate_of_a_voice_is_found() -> None:
    rate = measure_rate(fakes.ToneEngine(), "tone", ["a" * n for n in (5, 10, 20, 40, 80)])
    assert (rate.per_span, rate.per_char) == (pytest.approx(0.2, abs=1e-3), pytest.approx(0.06, rel=0.01))
    assert measure_rate(fakes.ToneEngine(), "tone", ["a" * 10]).seconds(10) == pytest.approx(0.8, rel=0.01)
    assert SpeakingRate(0.2, 0.06).seconds(10) == pytest.approx(0.8)


def test_a_voice_that_does_not_speak_longer_is_refused() -> None:
    from salad.errors import SaladError

    class Stuck(fakes.ToneEngine):
        def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
            return [Speech(TONE, RATE) for _ in texts]

    with pytest.raises(SaladError, match="does not speak longer"):
        measure_rate(Stuck(), "tone", ["a", "a" * 50, "a" * 20])


def test_unknown_engine_and_voice() -> None:
    from salad.errors import SaladError

    with pytest.raises(SaladError, match="unknown engine 'hibar'; did you mean 'hibari'"):
        make_engine("hibar", "heart")
    with pytest.raises(SaladError, match="has no voice 'bass'"):
        make_engine(f"{fakes.__file__}:ToneEngine", "bass")
