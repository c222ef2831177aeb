"""Every built-in engine keeps the contract, and the suite notices those that do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from salad.audio import resample
from salad.errors import SaladError
from salad.seeds import generator
from salad.tts.base import ENGINES, Engine, Speech, VoiceInfo, WordTime, make_engine
from salad.tts.quality import character_error_rate
from salad.tts.testing import CHECKS, SHORT, check_engine

RATE = 8_000
GAP = 0.05  # seconds of silence after a word


class Buzzer:
    """A good engine: each word that has a Latin letter or a digit is noise, the longer the more letters it has."""

    name = "buzzer"

    def __init__(self, model: str | None = None) -> None:
        if model is not None:
            raise SaladError(f"no model {model}")

    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("low", RATE), VoiceInfo("high", RATE)]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [self.say(text) for text in texts]

    def say(self, text: str) -> Speech:
        chunks, words, at = [np.zeros(0, np.float32)], [], 0.0
        for match in re.finditer(r"\S*[a-zA-Z0-9]\S*", text):
            sound = self.buzz(text, sum(map(str.isalnum, match.group())))
            words.append(WordTime(*match.span(), at, at + len(sound) / RATE))
            chunks += [sound, np.zeros(int(GAP * RATE), np.float32)]
            at += (len(sound) + len(chunks[-1])) / RATE
        return Speech(np.concatenate(chunks), RATE, tuple(words))

    def buzz(self, text: str, letters: int) -> np.ndarray:
        seed = text.encode(errors="replace").hex()
        return generator(0, seed).uniform(-0.5, 0.5, letters * RATE // 16).astype(np.float32)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_engine_passes(check: str) -> None:
    CHECKS[check](Buzzer, None)


def test_the_voice_can_be_chosen() -> None:
    check_engine(Buzzer, "high")
    with pytest.raises(AssertionError, match="lists_its_voices: no voice 'alto' among"):
        check_engine(Buzzer, "alto")


class OneNameTwice(Buzzer):
    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo("low", RATE), VoiceInfo("low", 2 * RATE)]


class NeedsText(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        longest = max(map(len, texts))
        return [self.say(text) for text in texts if len(text) <= longest]


class TwoSounds(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [speech for text in texts for speech in [self.say(text)] * 2]


class SixteenBits(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, wave=(32767 * speech.wave).astype(np.int16))  # type: ignore[arg-type]


class Stereo(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, wave=np.stack([speech.wave] * 2))


class Loud(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, wave=3 * speech.wave)


class Undefined(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, wave=speech.wave / np.float32(0.0))


class Mute(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, wave=0 * speech.wave)


class AnotherRate(Buzzer):
    def say(self, text: str) -> Speech:
        return replace(super().say(text), rate=2 * RATE)


class OneLength(Buzzer):
    def say(self, text: str) -> Speech:
        return Speech(np.resize(self.buzz(text, 20), 2 * RATE), RATE)


class InTheOrderOfLength(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return super().synthesize(sorted(texts, key=len), voice)


class PaddedToTheLongest(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        said = super().synthesize(texts, voice)
        longest = max((len(s.wave) for s in said), default=0)
        return [replace(s, wave=np.pad(s.wave, (0, longest - len(s.wave)))) for s in said]


class GoesOn(Buzzer):
    """Its noise goes on from text to text."""

    rng = np.random.default_rng(0)

    def buzz(self, text: str, letters: int) -> np.ndarray:
        return self.rng.uniform(-0.5, 0.5, letters * RATE // 16).astype(np.float32)


class EachItsOwn(Buzzer):
    """Each engine draws its own seed."""

    def __init__(self, model: str | None = None) -> None:
        super().__init__(model)
        self.seed = np.random.default_rng().integers(2**32)

    def buzz(self, text: str, letters: int) -> np.ndarray:
        return super().buzz(f"{text} {self.seed}", letters)


class SkipsWhatItCannotRead(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [s for s in super().synthesize(texts, voice) if len(s.wave)]


class BreaksOnWhatItCannotRead(Buzzer):
    def say(self, text: str) -> Speech:
        if not re.search("[a-z]", text):
            raise ValueError("no phonemes")
        return super().say(text)


class SilencesTheRest(Buzzer):
    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        said = super().synthesize(texts, voice)
        return said if all(len(s.wave) for s in said) else [replace(s, wave=s.wave[:0], words=()) for s in said]


class Formats(Buzzer):
    def say(self, text: str) -> Speech:
        return super().say(text.format())


class ShortOfMemory(Buzzer):
    def say(self, text: str) -> Speech:
        if len(text.split()) > 300:
            raise MemoryError
        return super().say(text)


class ObeysSsml(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        pause = sum(int(s) for s in re.findall(r'<break time="(\d+)s"/>', text))
        return replace(speech, wave=np.pad(speech.wave, (0, pause * RATE)))


class ReadsPhonemes(Buzzer):
    def say(self, text: str) -> Speech:
        return super().say(re.sub(r"\[\[(.*?)\]\]", lambda m: 2 * m[1], text))


class ReadsMisaki(Buzzer):
    def say(self, text: str) -> Speech:
        return super().say(re.sub(r"\[.*?\]\(/(.*?)/\)", r"\1", text))


class CountsBytes(Buzzer):
    def say(self, text: str) -> Speech:
        def place(i: int) -> int:
            return len(text[:i].encode(errors="replace"))

        speech = super().say(text)
        words = [replace(w, char_start=place(w.char_start), char_end=place(w.char_end)) for w in speech.words or ()]
        return replace(speech, words=tuple(words))


class CountsMilliseconds(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, words=tuple(replace(w, start=1e3 * w.start, end=1e3 * w.end) for w in speech.words or ()))


class ForgetsAWord(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        return replace(speech, words=(speech.words or ())[:-1])


class RunsWordsTogether(Buzzer):
    def say(self, text: str) -> Speech:
        speech = super().say(text)
        first, second, *others = [*(speech.words or ()), None, None]
        if not (first and second):
            return speech
        return replace(speech, words=(replace(first, char_end=second.char_end), *filter(None, others)))


class TakesAnyModel(Buzzer):
    def __init__(self, model: str | None = None) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (OneNameTwice, "lists_its_voices"),
        (NeedsText, "takes_an_empty_list"),
        (TwoSounds, "gives_one_speech_a_text"),
        (SixteenBits, "gives_audible_mono_float32"),
        (Stereo, "gives_audible_mono_float32"),
        (Loud, "gives_audible_mono_float32"),
        (Undefined, "gives_audible_mono_float32"),
        (Mute, "gives_audible_mono_float32"),
        (AnotherRate, "keeps_to_the_rate_of_its_voice"),
        (OneLength, "speaks_longer_for_longer_text"),
        (InTheOrderOfLength, "gives_sounds_in_the_order_of_texts"),
        (PaddedToTheLongest, "speaks_longer_for_longer_text"),
        (GoesOn, "says_the_same_again"),
        (EachItsOwn, "says_the_same_in_a_fresh_engine"),
        (SkipsWhatItCannotRead, "goes_on_after_text_it_cannot_read"),
        (BreaksOnWhatItCannotRead, "goes_on_after_text_it_cannot_read"),
        (SilencesTheRest, "goes_on_after_text_it_cannot_read"),
        (Formats, "survives_hostile_text"),
        (ShortOfMemory, "survives_a_text_of_400_words"),
        (ObeysSsml, "takes_no_text_for_markup"),
        (ReadsPhonemes, "takes_no_text_for_markup"),
        (ReadsMisaki, "takes_no_text_for_markup"),
        (CountsBytes, "knows_when_words_are_heard"),
        (CountsMilliseconds, "knows_when_words_are_heard"),
        (ForgetsAWord, "knows_when_words_are_heard"),
        (RunsWordsTogether, "knows_when_words_are_heard"),
        (TakesAnyModel, "refuses_a_model_that_is_not_there"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_suite_finds_what_is_broken(broken: type[Buzzer], check: str) -> None:
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_engine(broken)


def test_a_failure_names_the_text() -> None:
    with pytest.raises(AssertionError, match=re.escape(repr(SHORT))):
        check_engine(TwoSounds)


@pytest.fixture(scope="session")
def coqui_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coqui has no voice of its own: an untrained VITS at the pace of speech, its durations not left to chance."""
    if find_spec("TTS") is None:
        pytest.skip("engine 'coqui' is not installed: pip install 'salad-speech[coqui]'")
    from salad.tts.coqui_stubs import without_torchaudio
    from tests.tts.tiny_vits import write_vits

    with without_torchaudio():
        return write_vits(tmp_path_factory.mktemp("coqui"), inference_noise_scale_dp=0.0, length_scale=3.0)


@cache
def cannot_speak(name: str, voice: str, model: str | None) -> str:
    """Why an engine does not speak here; empty where it does."""
    try:
        make_engine(name, voice, model).synthesize([SHORT], voice)
    except SaladError as e:
        return str(e)
    return ""


@pytest.fixture
def speaker(request: pytest.FixtureRequest) -> tuple[Callable[[], Engine], str]:
    """How to make an engine, and one of its voices."""
    name, voice = request.param
    model = str(request.getfixturevalue("coqui_model")) if name == "coqui" else None
    if why := cannot_speak(name, voice, model):
        pytest.skip(why)
    return partial(make_engine, name, voice, model), voice


BUILT_IN = {
    "hibari": "heart", "espeak": "en-us", "piper": "en_US-joe-medium", "kokoro": "af_heart", "coqui": "default",
}  # fmt: skip


def test_every_built_in_engine_is_tried() -> None:
    assert BUILT_IN.keys() == ENGINES.keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Kokoro says a minute of speech in a minute or more
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("speaker", BUILT_IN.items(), ids=lambda chosen: chosen[0], indirect=True)
def test_contract(speaker: tuple[Callable[[], Engine], str], check: str) -> None:
    CHECKS[check](*speaker)


SPOKEN = [
    "The old man walked along the beach and picked up three white shells for his daughter.",
    "Most people in the village had never heard of the new law before it was printed.",
    "Add the butter and the sugar to the bowl, then stir until the mixture is smooth.",
    "She told the driver to wait at the end of the road, because it would not take long.",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "speaker", [(n, v) for n, v in BUILT_IN.items() if n != "coqui"], ids=lambda chosen: chosen[0], indirect=True
)
def test_an_ear_hears_each_half_of_a_text_where_its_words_are(speaker: tuple[Callable[[], Engine], str]) -> None:
    """Not Coqui's: what is untrained says no words."""
    import torch

    from salad.whisper import ShortWhisper

    make, voice = speaker
    written, sounds = [], []
    for text, speech in zip(SPOKEN, make().synthesize(SPOKEN, voice), strict=True):
        if not speech.words:
            pytest.skip(f"engine '{make().name}' does not say when words are heard")
        middle = len(speech.words) // 2
        for part in (speech.words[:middle], speech.words[middle:]):
            written.append(text[part[0].char_start : part[-1].char_end])
            begin, end = (round(t * speech.rate) for t in (part[0].start, part[-1].end))
            sounds.append(resample(speech.wave[begin:end], speech.rate, 16_000))
    try:
        heard = ShortWhisper("openai/whisper-tiny.en", torch.float32).transcribe(sounds)
    except SaladError as e:
        pytest.skip(str(e))
    assert character_error_rate(written, heard) < 0.25, heard
    swapped = [heard[i ^ 1] for i in range(len(heard))]
    assert character_error_rate(written, swapped) > 0.6, "the test could not tell right from wrong"
