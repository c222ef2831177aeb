"""hibari: the same samples as its own package makes, and when each word is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from salad.errors import SaladError
from salad.tts.hibari import HibariEngine

hibari = pytest.importorskip("hibari", reason="pip install -r requirements/assets.txt")
TEXTS = [
    "Soften the butter, said Tom: you must stop. Look at the map.",
    "In 1990 it cost (about) 5 % — or so he said; we don't know.",
    "It went on, and on, and on; " * 20,
]


@pytest.fixture(scope="module")
def engine() -> HibariEngine:
    return HibariEngine()


@pytest.mark.parametrize("text", TEXTS)
def test_the_samples_are_the_packages_own(engine: HibariEngine, text: str) -> None:
    (ours,) = engine.synthesize([text], "heart")
    np.testing.assert_array_equal(ours.wave, hibari.Hibari(threads=1)(text, seed=0))


def test_voices_have_their_language(engine: HibariEngine) -> None:
    languages = {v.name: v.language for v in engine.voices()}
    assert languages["heart"] == "en-us"
    assert languages["emma"] == "en-gb"


def test_every_word_has_its_time(engine: HibariEngine) -> None:
    for text in TEXTS[:2]:
        (found,) = engine.synthesize([text], "heart")
        assert found.words is not None
        assert [text[w.char_start : w.char_end] for w in found.words] == [w for w in text.split() if w != "—"]


def test_a_pause_lies_between_the_words_around_it(engine: HibariEngine) -> None:
    (found,) = engine.synthesize(["Look at the map. Then wait, and go home."], "heart")
    assert found.words is not None
    loudness = np.sqrt(np.mean(found.wave**2))
    for i in (4, 6):
        before, after = found.words[i - 1], found.words[i]
        pause = found.wave[int(before.end * found.rate) : int(after.start * found.rate)]
        assert np.sqrt(np.mean(pause**2)) < 0.25 * loudness
        spoken = found.wave[int(after.start * found.rate) : int(after.end * found.rate)]
        assert np.sqrt(np.mean(spoken**2)) > 0.5 * loudness


def test_a_text_that_is_read_together_has_no_word_times(engine: HibariEngine) -> None:
    (found,) = engine.synthesize(["We meet on May 5 at noon."], "heart")
    assert found.words == ()
    assert found.seconds > 1


def test_a_voice_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hibari import voices

    def refused(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    monkeypatch.setattr(voices.urllib.request, "urlopen", refused)
    with pytest.raises(SaladError, match="hibari voice 'emma' cannot be loaded"):
        HibariEngine().synthesize(["Hello."], "emma")


@pytest.mark.slow
def test_cut_where_words_begin_both_halves_are_understood(engine: HibariEngine) -> None:
    """By PocketSphinx: halves cut at word times against halves cut half a second later."""
    pytest.importorskip("pocketsphinx", reason="pip install -r requirements/assets.txt")
    from pocketsphinx import Decoder

    from salad.audio import resample
    from salad.tts.quality import character_error_rate
    from salad.tts.sound import cut

    texts = [
        "Put the bacon into a hot iron pan, and fry the grease out of it.",
        "The keeper of the house walked down to the beach and counted the boats.",
        "By using the program you agree to the terms of this agreement.",
    ]
    decoder = Decoder(samprate=16_000, loglevel="FATAL")

    def heard(wave: np.ndarray, rate: int) -> str:
        quiet = np.zeros(4000, np.float32)
        sound = np.concatenate([quiet, resample(wave, rate, 16_000), quiet])
        decoder.start_utt()
        decoder.process_raw((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    def errors(late: float) -> float:
        said, found = [], []
        for text, speech in zip(texts, engine.synthesize(texts, "heart"), strict=True):
            assert speech.words is not None
            word = speech.words[len(speech.words) // 2]
            at = word.start + late
            said += [text[: word.char_start], text[word.char_start :]]
            found += [heard(cut(speech.wave, speech.rate, *ends), speech.rate) for ends in ((0, at), (at, speech.seconds))]
        return character_error_rate(said, found)

    assert errors(late=0) < 0.25
    assert errors(late=0.5) > errors(late=0) + 0.1
