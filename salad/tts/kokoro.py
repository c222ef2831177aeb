"""Kokoro-82M (Apache-2.0), the paper's voice: StyleTTS 2 by onnxruntime, 28 English voices, 24 kHz, word times.

The graph takes one text at a time, so there are no batches.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from salad import assets
from salad.audio import Wave
from salad.errors import SaladError
from salad.tts import kokoro_durations as durations
from salad.tts import kokoro_phonemes as phonemes
from salad.tts.base import Speech, VoiceInfo
from salad.tts.network import open_network

RATE = 24_000
DEFAULT = "onnx-community/Kokoro-82M-v1.0-ONNX"
LONGEST = 510  # phonemes that the network reads at a time
STYLE = 256  # numbers of a style vector; a voice has one for every number of phonemes
LANGUAGES = {"a": "en-us", "b": "en-gb"}  # by the first letter of a voice's name; the second is f or m
_ENGLISH = re.compile(r"[ab][fm]_\w+")
_DRAWS_NOISE = re.compile(rb"\x22[\x0c-\x11]Random(Normal|Uniform)(Like)?")  # NodeProto.op_type (field 4) and its length
VOICES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky "
    "am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa "
    "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis"
).split()  # of the release named above; a folder has what it has


class KokoroEngine:
    """Texts in, speech out, one after the other.

    model: a hub name, or a folder with an `.onnx` file (in it or in `onnx/`) and `voices/*.bin`, as the hub lays them out, or
    kokoro-onnx's `voices-v1.0.bin`.
    """

    name = "kokoro"

    def __init__(self, model: str | None = None) -> None:
        for module in ("hibari", "onnxruntime"):  # hibari for its G2P
            if find_spec(module) is None:
                raise SaladError(f"engine 'kokoro' is not installed ({module} is missing)", "pip install 'salad-speech[kokoro]'")
        self._model = model or DEFAULT
        assets.check_name(self._model)

    def voices(self) -> list[VoiceInfo]:
        names = voice_names(Path(self._model)) if Path(self._model).is_dir() else VOICES
        local = assets.where(self._model) is not None
        return [VoiceInfo(name, RATE, LANGUAGES[name[0]], "Apache-2.0", local) for name in names]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        styles = load_voice(self._folder, voice)
        return [self._speak(text, styles, british=voice.startswith("b")) for text in texts]

    def _speak(self, text: str, styles: Wave, british: bool) -> Speech:
        try:
            words = [word for sentence in phonemes.read(text, british) for word in sentence]
        except (ValueError, IndexError, KeyError):  # a text that the front end cannot read
            words = []
        speech = durations.speech([self._run(run, styles) for run in phonemes.cut(words, LONGEST)], RATE)
        return replace(speech, wave=_within_one(speech.wave))

    def _run(self, words: list[phonemes.Word], styles: Wave) -> durations.Run:
        tokens = phonemes.tokens(words)
        session = self._session()
        ids, style, speed = session.get_inputs()
        feeds = {
            ids.name: np.array([tokens], np.int64),
            style.name: styles[min(len(tokens) - 2, len(styles)) - 1][None],
            speed.name: np.ones(1, np.float32 if speed.type == "tensor(float)" else np.int32),
        }
        sound, *others = session.run(None, feeds)
        wave = np.asarray(sound, np.float32).ravel()
        return durations.Run(words, wave, durations.frames(others, len(tokens), len(wave)))

    @cached_property
    def _folder(self) -> Path:
        return assets.model_folder(self._model)

    @cached_property
    def _session(self) -> Callable[[], Any]:
        return sessions(find_network(self._folder))


def find_network(folder: Path) -> Path:
    """The `.onnx` file of a folder; where there are several, `model.onnx`, the one of full precision."""
    found = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    best = [f for f in found if f.name == "model.onnx"] or found
    if len(best) != 1:
        there = f"has several networks ({', '.join(f.name for f in found)})" if found else "has no .onnx file"
        raise SaladError(f"Kokoro model {folder} {there}", "leave one of them in it, with its `voices`")
    return best[0]


def sessions(network: Path) -> Callable[[], Any]:
    """What gives the session to run: one thread, and the durations among its outputs where the graph has them.

    It is the same session every time, unless the graph draws noise: onnxruntime seeds that when a session is made and can do so
    at no other time, so only a new one says the same again.
    """
    import onnxruntime

    model = durations.with_durations(network.read_bytes())

    def make() -> Any:
        onnxruntime.set_seed(0)
        try:
            return open_network(model)
        except Exception as e:  # its own kinds, from the C++ side
            raise SaladError(f"Kokoro network {network} cannot be loaded ({str(e)[:200]})", "fetch it again") from e

    if _DRAWS_NOISE.search(model):
        return make
    session = make()  # and the file's bytes are let go
    return lambda: session


def voice_names(folder: Path) -> list[str]:
    """The English voices of a folder, whichever way it keeps them."""
    names = [f.stem for f in folder.glob("voices/*.bin")]
    for archive in _archives(folder):
        with zipfile.ZipFile(archive) as z:
            names += [Path(name).stem for name in z.namelist()]
    if not (english := sorted(filter(_ENGLISH.fullmatch, names))):
        raise SaladError(
            f"Kokoro model {folder} has no English voices", "put voices/af_heart.bin and others, or voices-v1.0.bin, in it"
        )
    return english


def load_voice(folder: Path, voice: str) -> Wave:
    """The style vectors of a voice, (phonemes, 256): row n-1 is for n phonemes."""
    if voice not in voice_names(folder):
        raise SaladError(f"Kokoro model {folder} has no voice '{voice}'", f"known: {', '.join(voice_names(folder))}")
    try:
        flat = _numbers(folder, voice)
        if len(flat) == 0 or not np.isfinite(flat).all():
            raise ValueError("no numbers, or not all of them finite")
        return flat.reshape(-1, STYLE)
    except (ValueError, OSError, zipfile.BadZipFile) as e:
        raise SaladError(f"Kokoro voice '{voice}' in {folder} is damaged ({e})", "fetch it again") from e


def _numbers(folder: Path, voice: str) -> Wave:
    file = folder / "voices" / f"{voice}.bin"
    if file.is_file():
        return np.frombuffer(file.read_bytes(), "<f4").astype(np.float32)
    archive = next(a for a in _archives(folder) if f"{voice}.npy" in zipfile.ZipFile(a).namelist())
    with np.load(archive, allow_pickle=False) as voices:
        return np.asarray(voices[voice], np.float32).ravel()


def _archives(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.glob("voices*.bin")) if zipfile.is_zipfile(f)]


def _within_one(wave: Wave) -> Wave:
    """The whole text softer where a peak would be clipped."""
    peak = float(np.abs(wave).max(initial=0))
    return wave / np.float32(peak) if peak > 1 else wave
