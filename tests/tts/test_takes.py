"""A take is what a shard holds: spans in order with exact ends, levelled, by the voice that seed and id name."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import from_bytes
from salad.config import Voice
from salad.tts.base import Speech, VoiceInfo, WordTime
from salad.tts.sound import active_level
from salad.tts.takes import Job, pick_voice, record
from tests.fakes import RATE, ToneEngine

VOICE = Voice(engine="x", voice="tone")
LEVEL = -26.0


def job(*segments: str, heard: tuple[int, ...] | None = None, **more: object) -> Job:
    return Job("k", VOICE, segments, heard or tuple(range(len(segments))), **more)  # type: ignore[arg-type]


def test_spans_lie_one_after_the_other_at_one_level() -> None:
    texts = ("a first span", "the second", "and the third one of them")
    (take,) = record(ToneEngine(), [job(*texts)], LEVEL)
    wave, rate = from_bytes(take.flac)
    assert rate == take.rate == RATE
    assert len(wave) == take.ends[-1]
    expected = [len(s.wave) for s in ToneEngine().synthesize(list(texts), "tone")]
    assert np.diff([0, *take.ends]).tolist() == expected
    assert active_level([wave], rate) == pytest.approx(LEVEL, abs=0.2)
    assert take.peak == pytest.approx(float(np.abs(wave).max()), abs=1e-4)


def test_only_what_is_heard_is_said() -> None:
    said: list[str] = []

    class Watched(ToneEngine):
        def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
            said.extend(texts)
            return super().synthesize(texts, voice)

    record(Watched(), [job("heard one", "read", "heard two", heard=(0, 2))], LEVEL)
    assert said == ["heard one", "heard two"]


class Ticking(ToneEngine):
    """Every word is half a second of its own pitch after a tenth of silence, and the engine knows it."""

    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("tone", RATE)]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [self._tick(text) for text in texts]

    def _tick(self, text: str) -> Speech:
        waves, words, at, char = [], [], 0.0, 0
        for word in text.split():
            char = text.index(word, char)
            t = np.arange(RATE // 2) / RATE
            waves += [np.zeros(RATE // 10, np.float32), (0.3 * np.sin(2 * np.pi * (100 + 10 * len(word)) * t)).astype(np.float32)]
            words.append(WordTime(char, char + len(word), at + 0.1, at + 0.6))
            at, char = at + 0.6, char + len(word)
        return Speech(np.concatenate(waves), RATE, tuple(words))


def test_a_whole_text_is_cut_between_its_words() -> None:
    segments = ("one two three", "read only this", "seven eight")
    (take,) = record(Ticking(), [job(*segments, heard=(0, 2), whole=True)], LEVEL)
    wave, rate = from_bytes(take.flac)
    spans = np.split(wave, take.ends[:-1])
    assert [len(s) / rate for s in spans] == pytest.approx([3 * 0.5 + 2 * 0.1, 2 * 0.5 + 0.1], abs=0.12)
    for span, segment in zip(spans, segments[::2], strict=True):
        first = segment.split()[0]
        middle = span[int(0.25 * rate) : int(0.4 * rate)]
        pitch = np.fft.rfftfreq(len(middle), 1 / rate)[np.abs(np.fft.rfft(middle)).argmax()]
        assert pitch == pytest.approx(100 + 10 * len(first), abs=7)
    steps = np.abs(np.diff(wave))[[e - 1 for e in take.ends[:-1]]]
    assert steps.max() < 0.01, "a click where two spans meet"


def test_a_segment_of_no_word_cannot_be_cut_out() -> None:
    (take,) = record(Ticking(), [job("one", "", "two", whole=True)], LEVEL)
    assert take.fault == "word times unknown"


def test_words_that_the_engine_runs_together_cannot_be_cut_apart() -> None:
    class Slurring(Ticking):
        def _tick(self, text: str) -> Speech:
            speech = super()._tick(text)
            a, b, *rest = speech.words or ()
            return Speech(speech.wave, speech.rate, (WordTime(a.char_start, b.char_end, a.start, b.end), *rest))

    (apart,) = record(Slurring(), [job("one two", "three", heard=(0,), whole=True)], LEVEL)
    (first, second) = record(
        Slurring(), [job("one", "two three", heard=(0,), whole=True), job("one", "two three", heard=(1,), whole=True)], LEVEL
    )
    assert apart.fault is None
    assert first.fault == second.fault == "word times unknown"


def test_another_number_of_sounds_is_no_take() -> None:
    class Loses(ToneEngine):
        def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
            return super().synthesize(texts[1:], voice)

    with pytest.raises(RuntimeError, match="1 sounds for 2 texts"):
        record(Loses(), [job("a", "b")], LEVEL)


@pytest.mark.parametrize(
    "wave", [np.zeros((2, 800), np.float32), np.zeros(800), [0.0] * 800, None], ids=["stereo", "float64", "list", "none"]
)
def test_what_is_not_a_wave_is_said_so(wave: object) -> None:
    class Odd(ToneEngine):
        def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
            return [Speech(wave, RATE)]  # type: ignore[arg-type]

    (take,) = record(Odd(), [job("a")], LEVEL)
    assert take.fault == "sound is not float32 mono"


def test_clipping_is_measured_before_the_level_hides_it() -> None:
    class Loud(ToneEngine):
        def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
            return [Speech(np.clip(9 * s.wave, -1, 1), s.rate) for s in super().synthesize(texts, voice)]

    (take,) = record(Loud(), [job("much too loud")], LEVEL)
    assert take.measures is not None
    assert take.measures.clipped > 0.5
    assert take.peak < 0.2


@given(st.integers(0, 2**32), st.text(min_size=1), st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_the_voice_of_a_text_is_one_of_the_plan_and_always_the_same(seed: int, text_id: str, weights: list[float]) -> None:
    voices = [Voice(voice=f"v{i}", weight=w) for i, w in enumerate(weights)]
    assert pick_voice(voices, seed, text_id) in voices
    assert pick_voice(voices, seed, text_id) is pick_voice(voices, seed, text_id)


def test_voices_come_up_as_often_as_they_weigh() -> None:
    voices = [Voice(voice="a", weight=1), Voice(voice="b", weight=3), Voice(voice="c", weight=4)]
    count = Counter(pick_voice(voices, 7, str(i)).voice for i in range(8000))
    assert [count[v] / 1000 for v in "abc"] == pytest.approx([1, 3, 4], rel=0.08)
    assert [pick_voice(voices, 8, str(i)) for i in range(99)] != [pick_voice(voices, 7, str(i)) for i in range(99)]
