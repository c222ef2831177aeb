"""espeak-ng: formant synthesis, small, quick, and exact about when each word begins. GPL-3.0, so an optional extra.

Driven through its C library (speak_lib.h). Pitch flutter, gain control and noise live in static variables of that library,
which nothing it offers resets: only a library that was just loaded says a text as it said it before. So each text gets one,
for 3 ms.
"""

from __future__ import annotations

import _ctypes
import ctypes
import ctypes.util
import importlib.util
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import numpy as np

from salad.errors import SaladError
from salad.tts.base import Speech, VoiceInfo, WordTime

RATE = 22_050
LICENCE = "GPL-3.0-or-later"
ACCENTS = {  # by language code, the voice file
    "en-us": "gmw/en-US",
    "en-gb": "gmw/en",
    "en-gb-x-rp": "gmw/en-GB-x-rp",
    "en-gb-scotland": "gmw/en-GB-scotland",
    "en-gb-x-gbclan": "gmw/en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "gmw/en-GB-x-gbcwmd",
    "en-029": "gmw/en-029",
}
VARIANTS = [f"{sex}{i}" for sex, n in (("f", 5), ("m", 8)) for i in range(1, n + 1)]
VOICES = [*ACCENTS, *(f"{accent}+{variant}" for accent in ("en-us", "en-gb") for variant in VARIANTS)]

if sys.platform == "win32":
    _unload = _ctypes.FreeLibrary
else:
    _unload = _ctypes.dlclose
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _WORD = 2, 0x8000, 1, 1
# Control characters are commands to espeak (\x01 50P sets the pitch); lone surrogates have no UTF-8.
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Function words are run together (`of the` has one entry in its dictionary, so one time) unless a bar, which is mute, parts them.
_BETWEEN = " | "


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakEngine:
    """English accents, and two of them with espeak's female and male variants: `en-us`, `en-gb+f3`. Times of every word."""

    name = "espeak"

    def __init__(self) -> None:
        self._library, self._data = _find()

    def voices(self) -> list[VoiceInfo]:
        return [VoiceInfo(name, RATE, name.partition("+")[0], LICENCE) for name in VOICES]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        return [self._speak(text, voice) for text in texts]

    def _speak(self, text: str, voice: str) -> Speech:
        words = list(re.finditer(r"\S+", _UNSPEAKABLE.sub(" ", text)))
        accent, _, variant = voice.partition("+")
        file = "+".join(filter(None, [ACCENTS[accent], variant]))
        with _fresh(self._library, self._data) as (library, rate):
            if library.espeak_SetVoiceByName(file.encode()):
                raise SaladError(f"espeak's library has no voice '{voice}' ({file})", "name one that `salad voices` lists")
            wave, events = _synthesize(library, _BETWEEN.join(w.group() for w in words))
        begins = [0, *accumulate(len(w.group()) + len(_BETWEEN) for w in words)]
        starts: dict[int, int] = {}  # of each word, the first sample; a number has several events
        for position, sample in events:
            starts.setdefault(bisect_right(begins, position) - 1, sample)
        if not starts:
            return Speech(np.zeros(0, np.float32), rate, ())
        return Speech(wave, rate, tuple(_times(words, starts, wave, rate)))


def _times(words: list[re.Match[str]], starts: dict[int, int], wave: np.ndarray, rate: int) -> Iterator[WordTime]:
    """A word lasts until the next one begins, without the silence before that; espeak's silence is all zeros."""
    heard = sorted(starts)
    for k, end in zip(heard, [*(starts[k] for k in heard[1:]), len(wave)], strict=True):
        sound = np.flatnonzero(wave[starts[k] : end])
        last = starts[k] + int(sound[-1]) + 1 if len(sound) else starts[k]
        yield WordTime(*words[k].span(), starts[k] / rate, last / rate)


def _find() -> tuple[str, bytes | None]:
    """The shared library, and its data where it does not know itself: of the package espeakng-loader, else the system's."""
    if importlib.util.find_spec("espeakng_loader"):
        import espeakng_loader

        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()
    if library := ctypes.util.find_library("espeak-ng"):
        return library, None
    raise SaladError("engine 'espeak' is not installed", "pip install 'salad-speech[espeak]' (espeak-ng is GPL-3.0)")


@contextmanager
def _fresh(path: str, data: bytes | None) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, just loaded, and its sampling rate; unloaded after use."""
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        raise SaladError(f"espeak's library cannot be loaded ({e})", "install espeakng-loader, or espeak-ng, again") from e
    try:
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if rate <= 0:
            raise SaladError("espeak finds no voices", "install espeakng-loader, or espeak-ng's data, again")
        if hasattr(library, "espeak_ng_SetRandSeed"):  # from 1.52
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        yield library, rate
    finally:
        library.espeak_Terminate()
        _unload(library._handle)


def _synthesize(library: ctypes.CDLL, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The wave, float32, and of each word event (character from 0, sample)."""
    chunks = [np.zeros(0, np.int16)]
    events: list[tuple[int, int]] = []

    def receive(wave: ctypes._Pointer[ctypes.c_short], count: int, event: ctypes._Pointer[_Event]) -> int:
        if wave and count:
            chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while event[i].type:
            if event[i].type == _WORD:
                events.append((event[i].text_position - 1, event[i].sample))
            i += 1
        return 0  # go on

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
    return np.concatenate(chunks).astype(np.float32) / 32768, events
