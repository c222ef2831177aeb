"""espeak: the times of every word, English accents, and nothing remembered from text to text."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

from salad.audio import Wave
from salad.errors import SaladError
from salad.tts import espeak
from salad.tts.base import make_engine
from salad.tts.espeak import ACCENTS, RATE, VOICES, EspeakEngine

pytestmark = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="pip install 'salad-speech[espeak]'")
FOX = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def engine() -> EspeakEngine:
    return EspeakEngine()


def said(engine: EspeakEngine, text: str, voice: str = "en-us") -> Wave:
    return engine.synthesize([text], voice)[0].wave


def test_every_voice_speaks_and_no_two_alike(engine: EspeakEngine) -> None:
    waves = {voice: said(engine, "Good morning to you.", voice) for voice in VOICES}
    assert [v.name for v in engine.voices()] == VOICES
    assert all(0.8 < len(wave) / RATE < 2.5 for wave in waves.values())
    assert len({wave.tobytes() for wave in waves.values()}) == len(VOICES)


def test_an_accent_is_its_own_language(engine: EspeakEngine) -> None:
    assert {v.language for v in engine.voices()} == set(ACCENTS)


def test_a_woman_speaks_higher_than_a_man(engine: EspeakEngine) -> None:
    def pitch(voice: str) -> float:
        wave = said(engine, "Ah.", voice)
        wave = wave[len(wave) // 4 :][: RATE // 10]
        similarity = np.correlate(wave, wave, "full")[len(wave) :]
        lags = slice(RATE // 250, RATE // 60)  # of 250 to 60 Hz
        return float(RATE / (lags.start + 1 + similarity[lags].argmax()))

    assert pitch("en-us+f3") > 1.2 * pitch("en-us+m3")


@pytest.mark.parametrize("voice", ["en-us", "en-gb+f5", "en-us+m3"])
def test_a_text_sounds_the_same_whatever_was_said_before(engine: EspeakEngine, voice: str) -> None:
    first = engine.synthesize([FOX], voice)[0]
    _, _, again = engine.synthesize(["Is anybody there?", "Two texts, in between!", FOX], voice)
    engine.synthesize(["And another voice."], "en-gb+f5")
    other = EspeakEngine().synthesize([FOX], voice)[0]
    assert np.array_equal(first.wave, again.wave)
    assert np.array_equal(first.wave, other.wave)
    assert first.words == again.words == other.words


@pytest.mark.parametrize(
    "text",
    [
        FOX,
        "One of the men had been in the house, that is at the end of it; would you have come?",  # run together by espeak
        "Zoë’s naïve café — “crème brûlée” — costs €12,500 in 1984; don't you think?",
        "A state-of-the-art lab of the U.S. (at 5 p.m.) cost \U0001f600 3.5 % & more | or less.",
        "  first\n\nsecond\tthird\u00a0fourth  ",
    ],
)
def test_every_word_has_its_time(engine: EspeakEngine, text: str) -> None:
    speech = engine.synthesize([text], "en-us")[0]
    assert speech.words is not None
    heard = [text[w.char_start : w.char_end] for w in speech.words]
    assert heard == [word for word in text.split() if word not in "—|"]
    assert all(w.end - w.start > 0.03 for w in speech.words)
    assert all(a.end <= b.start for a, b in pairwise(speech.words))
    assert speech.words[0].start == 0
    assert speech.words[-1].end <= speech.seconds


def test_a_word_ends_before_the_pause_after_it(engine: EspeakEngine) -> None:
    speech = engine.synthesize(["It was late. Nobody came."], "en-us")[0]
    assert speech.words is not None
    late, nobody = speech.words[2:4]
    pause = speech.wave[round(late.end * RATE) : round(nobody.start * RATE)]
    assert len(pause) > 0.2 * RATE
    assert not pause.any()
    assert speech.wave[round(late.end * RATE) - 1] != 0


def test_cut_at_its_times_a_word_sounds_as_it_does_alone(engine: EspeakEngine) -> None:
    """Loudness over time of each word, cut out of a list of words, is nearest to that of the same word said alone."""
    names = ["banana", "six", "elephant", "oak"]
    speech = engine.synthesize([", ".join(names)], "en-us")[0]
    assert speech.words is not None

    def outline(wave: Wave) -> Wave:
        frames = wave[: len(wave) // 64 * 64].reshape(-1, 64).std(axis=1)
        return np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, len(frames)), frames / frames.max()).astype(np.float32)

    alone = []
    for name in names:
        one = engine.synthesize([name], "en-us")[0]
        assert one.words is not None
        alone.append(outline(one.wave[: round(one.words[0].end * RATE)]))
    cut = [outline(speech.wave[round(w.start * RATE) : round(w.end * RATE)]) for w in speech.words]
    nearest = [int(np.argmin([np.abs(a - c).mean() for a in alone])) for c in cut]
    assert nearest == [0, 1, 2, 3]


def test_what_is_in_a_text_commands_nothing(engine: EspeakEngine) -> None:
    for command in ("\x01200S", "\x0199P", "\x0120A"):  # speed, pitch and amplitude, in the text itself
        assert np.array_equal(said(engine, f"{command} {FOX}"), said(engine, f"{command[1:]} {FOX}"))
    ssml = engine.synthesize(['<prosody rate="x-slow">late</prosody> <break time="20s"/>'], "en-us")[0]
    assert ssml.seconds < 8
    assert len(said(engine, "[[h@'loU]]")) > 1.5 * len(said(engine, "hello")), "phonemes in brackets were spoken"


@pytest.mark.parametrize("text", ["", " \n ", "...", "—", "\x00\x01", "\ud800"])
def test_nothing_to_say_is_an_empty_wave(engine: EspeakEngine, text: str) -> None:
    speech = engine.synthesize([text], "en-us")[0]
    assert len(speech.wave) == 0
    assert speech.words == ()


def test_no_word_of_a_long_text_is_lost(engine: EspeakEngine) -> None:
    text = "the quick brown fox jumps over a lazy dog and " * 40
    speech = engine.synthesize([text], "en-us")[0]
    assert speech.words is not None
    assert len(speech.words) == len(re.findall(r"\S+", text))
    assert len(speech.wave) == pytest.approx(40 * len(said(engine, text[:45])), rel=0.2)


def test_memory_stays_as_it_is(engine: EspeakEngine) -> None:
    """Loading the library for each text leaves 2 KiB behind, in its own list of voices: 20 MiB in 10,000 texts."""
    psutil = pytest.importorskip("psutil")
    for n in (50, 150):
        before = psutil.Process().memory_info().rss
        engine.synthesize(["Hi."] * n, "en-us")
    assert psutil.Process().memory_info().rss - before < 150 * 20_000


def test_it_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(espeak.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SaladError, match=r"engine 'espeak' is not installed: pip install 'salad-speech\[espeak\]'"):
        EspeakEngine()


def test_a_voice_that_the_library_lacks_is_named(engine: EspeakEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCENTS, "en-us", "gmw/en-Atlantis")
    with pytest.raises(SaladError, match="no voice 'en-us'"):
        engine.synthesize([FOX], "en-us")


def test_an_unknown_voice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SaladError, match="did you mean 'en-us'"):
        make_engine("espeak", "en-usa")
