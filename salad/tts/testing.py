"""The contract that every engine keeps, as a suite that any author can run.

    from salad.tts.testing import check_engine

    def test_my_engine() -> None:
        check_engine(MyEngine)

Each check is also a function of its own in `CHECKS`, for pytest's parametrize. A check says a few short texts; one of them says
400 words at once. What is asked of an engine is in `salad.tts.base.Engine`; that it is understood, an ASR has to say.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from salad.errors import SaladError
from salad.tts.base import Engine, Speech

Make = Callable[[], Engine]
SHORT = "Good morning."
MIDDLE = "The ferry leaves the island at noon, and nobody is on board."
LONG = (
    "When the storm had passed, the keeper of the lighthouse walked down to the beach and counted the boats that were left there."
)
PLAIN = (MIDDLE, SHORT, LONG)
ODD = (
    "Zoë’s naïve café — “crème brûlée” — is closed, isn’t it?",
    "Of 12,500 people (in 1984) some 3.5 % had state-of-the-art radios; I'd say: too few!",
)
UNREADABLE = ("", "   ", "...", "* — # ~ | ^ _", "\U0001f600\U0001f600", "日本語", "\x00\x01\x02", "\ud800", "\u200b\u202e")
HOSTILE = (
    "[[h@'loU]] and [word](/wɜːd/)",
    "<speak><voice name='x'>hello</voice></speak> &lt; &amp; <!-- --> ]]> <",
    "%s %n %d {0} {name!r} ${HOME} $(true) `true` \\x00 \\ud800",
    "../../../etc/passwd /dev/zero C:\\nul file:///etc/passwd",
    "'; DROP TABLE voices; -- --help -rf * ; & | > out.wav",
    "\x01 200S \x1b[31m a\x00b \ud800 \ufffe c",
    "[STOP] [UH] <bos> <pad> ^ $ _ {HH AH0 L OW1}",
    "a" * 2000,
)
LONGEST = " ".join(["we go on to it as far as we can"] * 40)
PAUSE = 'one <break time="20s"/> two'  # markup that acts is silent for 20 s; read aloud it takes far less
LETTERS = "though thorough thoughts went through"  # has many more letters than sounds, so it takes longer as phonemes

QUICK = 2.0  # seconds to make an engine, or to list its voices, once its packages are imported
AUDIBLE = 1e-3  # of full scale
ALONE = 0.25  # how far a sound may differ in length from that of the text said alone, where noise depends on its neighbours
RANGE_OF_RATES = (8_000, 192_000)
_WORD = re.compile(r"\S*\w\S*")


def check_engine(make: Make, voice: str | None = None) -> None:
    """Run every check on the engines that `make` (the class, or a function without arguments) gives, each a new one.

    voice: the one that speaks; None: the first. AssertionError, with the check's name, for the first contract that is broken.
    """
    for name, check in CHECKS.items():
        try:
            check(make, voice)
        except Exception as e:
            raise AssertionError(f"{name}: {e}" if isinstance(e, AssertionError) else f"{name}: {type(e).__name__}: {e}") from e


def lists_its_voices(make: Make, voice: str | None) -> None:
    make().voices()  # what is imported is not timed
    start = time.perf_counter()
    voices = make().voices()
    took = time.perf_counter() - start
    assert took < QUICK, f"an engine and its voices took {took:.1f} s: load the model when it is first asked to speak"
    names = [v.name for v in voices]
    assert names, "no voices"
    assert all(isinstance(n, str) and n.strip() for n in names), f"a voice has no name: {names}"
    twice = sorted({n for n in names if names.count(n) > 1})
    assert not twice, f"voices of the same name: {twice}"
    low, high = RANGE_OF_RATES
    for v in voices:
        assert isinstance(v.rate, int), f"voice {v.name}: the rate is {v.rate!r}, not a whole number of samples a second"
        assert low <= v.rate <= high, f"voice {v.name}: {v.rate} samples a second"
        assert v.language.strip(), f"voice {v.name} has no language"
        assert v.licence.strip(), f"voice {v.name} has no licence (say 'unknown')"
    assert voice is None or voice in names, f"no voice '{voice}' among {names}"


def takes_an_empty_list(make: Make, voice: str | None) -> None:
    assert _say(make(), [], voice) == [], "something was said of nothing"


def gives_one_speech_a_text(make: Make, voice: str | None) -> None:
    engine = make()
    for texts in ([SHORT], [SHORT] * 3, list(PLAIN)):
        _say(engine, texts, voice)


def gives_audible_mono_float32(make: Make, voice: str | None) -> None:
    for text, speech in zip(PLAIN, _say(make(), list(PLAIN), voice), strict=True):
        _check_wave(text, speech)
        assert np.abs(speech.wave).max(initial=0) >= AUDIBLE, f"nothing is heard of {_short(text)}"


def keeps_to_the_rate_of_its_voice(make: Make, voice: str | None) -> None:
    engine = make()
    stated = {v.name: v.rate for v in engine.voices()}
    name = _voice(engine, voice)
    (speech,) = _say(engine, [SHORT], name)
    assert speech.rate == stated[name], f"{_short(SHORT)} by {name}: {speech.rate} samples a second, listed: {stated[name]}"
    assert 0.2 < speech.seconds < 8, f"{_short(SHORT)} took {speech.seconds:.2f} s: is {speech.rate} the rate of these samples?"


def speaks_longer_for_longer_text(make: Make, voice: str | None) -> None:
    texts = sorted(PLAIN, key=len)
    seconds = [s.seconds for s in _say(make(), texts, voice)]
    for i in range(1, len(texts)):
        assert seconds[i] > 1.2 * seconds[i - 1], (
            f"{_short(texts[i])} took {seconds[i]:.2f} s and the much shorter {_short(texts[i - 1])} {seconds[i - 1]:.2f} s"
        )


def gives_sounds_in_the_order_of_texts(make: Make, voice: str | None) -> None:
    engine = make()
    alone = {text: _say(engine, [text], voice)[0].seconds for text in PLAIN}
    for texts in (list(PLAIN), list(PLAIN[::-1])):
        _compare(texts, _say(engine, texts, voice), alone)


def says_the_same_again(make: Make, voice: str | None) -> None:
    engine = make()
    first = _say(engine, list(PLAIN), voice)
    _say(engine, [*ODD, SHORT], voice)
    _same(PLAIN, first, _say(engine, list(PLAIN), voice), "after other texts")


def says_the_same_in_a_fresh_engine(make: Make, voice: str | None) -> None:
    used = make()
    _say(used, [SHORT, *ODD], voice)
    _same(PLAIN, _say(used, list(PLAIN), voice), _say(make(), list(PLAIN), voice), "in a fresh engine")


def goes_on_after_text_it_cannot_read(make: Make, voice: str | None) -> None:
    engine = make()
    alone = {text: _say(engine, [text], voice)[0].seconds for text in (SHORT, MIDDLE)}
    for text in UNREADABLE:
        _check_wave(text, _say(engine, [text], voice)[0])
        _compare([SHORT, text, MIDDLE], _say(engine, [SHORT, text, MIDDLE], voice), alone)
    for text, speech in zip(UNREADABLE, _say(engine, list(UNREADABLE), voice), strict=True):
        _check_wave(text, speech)


def survives_hostile_text(make: Make, voice: str | None) -> None:
    engine = make()
    alone = {SHORT: _say(engine, [SHORT], voice)[0].seconds}
    for text in HOSTILE:
        speeches = _say(engine, [text, SHORT], voice)
        _check_wave(text, speeches[0])
        _compare([text, SHORT], speeches, alone)


def survives_a_text_of_400_words(make: Make, voice: str | None) -> None:
    engine = make()
    alone = {SHORT: _say(engine, [SHORT], voice)[0].seconds}
    speeches = _say(engine, [LONGEST, SHORT], voice)
    _check_wave(LONGEST, speeches[0])
    _compare([LONGEST, SHORT], speeches, alone)


def takes_no_text_for_markup(make: Make, voice: str | None) -> None:
    engine = make()
    (pause,) = _say(engine, [PAUSE], voice)
    assert pause.seconds < 15, f"{_short(PAUSE)} took {pause.seconds:.1f} s: markup was acted upon"
    texts = [LETTERS, f"[[{LETTERS}]]", f"[{LETTERS}](/a/)"]
    plain, *bracketed = _say(engine, texts, voice)
    for text, speech, most in zip(texts[1:], bracketed, (1.5, 3), strict=True):  # what follows the bracket may be read aloud
        ratio = speech.seconds / plain.seconds
        assert 0.65 < ratio < most, f"{_short(text)} took {ratio:.2f} times as long as {_short(LETTERS)}: brackets acted"


def knows_when_words_are_heard(make: Make, voice: str | None) -> None:
    """Only where `words` is given; an odd text may have none."""
    texts = [*PLAIN, *ODD, *UNREADABLE]
    for text, speech in zip(texts, _say(make(), texts, voice), strict=True):
        if speech.words is not None:
            _check_words(text, speech, every=text in PLAIN)


def refuses_a_model_that_is_not_there(make: Make, voice: str | None) -> None:
    """Only of engines that are made with a model."""
    kind: Any = type(make())
    model = "/no/such/folder/model.onnx"
    try:
        inspect.signature(kind).bind(model)
    except TypeError:
        return
    said = _refusal(kind, model, voice)
    assert said, f"model {model}, which does not exist, was taken"
    assert model in said, f"the error for model {model} does not name it: {said}"


CHECKS: dict[str, Callable[[Make, str | None], None]] = {
    check.__name__: check
    for check in (
        lists_its_voices, takes_an_empty_list, gives_one_speech_a_text, gives_audible_mono_float32,
        keeps_to_the_rate_of_its_voice, speaks_longer_for_longer_text, gives_sounds_in_the_order_of_texts,
        says_the_same_again, says_the_same_in_a_fresh_engine, goes_on_after_text_it_cannot_read, survives_hostile_text,
        survives_a_text_of_400_words, takes_no_text_for_markup, knows_when_words_are_heard, refuses_a_model_that_is_not_there,
    )
}  # fmt: skip


def _voice(engine: Engine, voice: str | None) -> str:
    return voice or engine.voices()[0].name


def _refusal(kind: Callable[[str], Engine], model: str, voice: str | None) -> str:
    try:
        engine = kind(model)
        engine.synthesize([SHORT], voice or _voice(engine, None))
    except SaladError as e:
        return str(e)
    return ""


def _say(engine: Engine, texts: list[str], voice: str | None) -> list[Speech]:
    """As many as there are texts, or AssertionError."""
    given = list(texts)
    try:
        speeches = engine.synthesize(given, _voice(engine, voice))
    except Exception as e:
        raise AssertionError(f"{_short(*texts)} raised {type(e).__name__}: {e}") from e
    assert given == texts, f"the list of texts was changed: {_short(*texts)}"
    assert isinstance(speeches, list), f"{_short(*texts)} gave a {type(speeches).__name__}, not a list"
    assert len(speeches) == len(texts), f"{len(speeches)} sounds of {len(texts)} texts: {_short(*texts)}"
    for text, speech in zip(texts, speeches, strict=True):
        assert isinstance(speech, Speech), f"{_short(text)} gave a {type(speech).__name__}, not a Speech"
    return speeches


def _check_wave(text: str, speech: Speech) -> None:
    wave = speech.wave
    assert isinstance(wave, np.ndarray), f"{_short(text)}: the wave is a {type(wave).__name__}"
    assert wave.dtype == np.float32, f"{_short(text)}: the wave is {wave.dtype}, not float32"
    assert wave.ndim == 1, f"{_short(text)}: the wave is of shape {wave.shape}, not mono"
    assert np.isfinite(wave).all(), f"{_short(text)}: the wave is not finite"
    peak = float(np.abs(wave).max(initial=0))
    assert peak <= 1, f"{_short(text)}: the wave reaches {peak:.3g}, beyond 1"


def _compare(texts: list[str], speeches: list[Speech], alone: dict[str, float]) -> None:
    for text, speech in zip(texts, speeches, strict=True):
        if text in alone:
            assert abs(speech.seconds / alone[text] - 1) <= ALONE, (
                f"{_short(text)} takes {alone[text]:.2f} s alone, and {speech.seconds:.2f} s in {_short(*texts)}"
            )


def _same(texts: tuple[str, ...], first: list[Speech], again: list[Speech], when: str) -> None:
    for text, a, b in zip(texts, first, again, strict=True):
        assert np.array_equal(a.wave, b.wave), f"{_short(text)} sounds otherwise {when}: seed every noise by the text"
        assert a.words == b.words, f"{_short(text)} has other word times {when}"


def _check_words(text: str, speech: Speech, every: bool) -> None:
    assert speech.words is not None
    at, end = 0, 0.0
    for word in speech.words:
        said = f"{_short(text)}: word {text[word.char_start : word.char_end]!r} ({word})"
        assert at <= word.char_start < word.char_end <= len(text), f"{said} is not in the text, or not in its order"
        assert not re.search(r"\s", text[word.char_start : word.char_end]), f"{said} is not one word"
        for i in (word.char_start, word.char_end):
            assert not text[max(i - 1, 0) : i + 1].isalnum() or i in (0, len(text)), f"{said} is part of a word"
        assert end - 1e-3 <= word.start <= word.end <= speech.seconds + 1e-3, f"{said} is not in the sound, or not in its order"
        at, end = word.char_end, word.end
    if not every:
        return
    starts = {w.char_start for w in speech.words}
    for match in _WORD.finditer(text):
        assert starts & set(range(*match.span())), f"{_short(text)}: when is {match.group()!r} heard?"
    share = sum(w.end - w.start for w in speech.words) / speech.seconds
    assert share > 0.4, f"{_short(text)}: its words fill {share:.0%} of the sound"


def _short(*texts: str) -> str:
    """The texts as an error shows them."""
    shown = [text if len(text) <= 60 else text[:57] + "..." for text in texts[:4]]
    return ", ".join(map(repr, shown)) + (" ..." if len(texts) > 4 else "")
