"""Coqui's TTS imported and loaded: without torchaudio, in silence, and running no program that a model's files bring.

`import TTS` refuses where torchaudio and torchcodec are not installed, but needs neither to speak: its models only name
them at the top of their files, for training and for cloning voices from recordings. The registry's builds of both are
linked to CUDA, and break transformers where CUDA is not. So stand-ins take their place, only while TTS is imported: they
have a spec, which is all that TTS asks for.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from salad.errors import SaladError, told

NAMES = ("torchaudio", "torchcodec")
_BESIDE = ("speakers_file", "speaker_file", "d_vector_file", "language_ids_file")  # what a config names by path
_TRAINING = ("speaker_encoder_model_path", "speaker_encoder_config_path", "use_speaker_encoder_as_loss")

Json = dict[str, Any]


class StandIn(ModuleType):
    """A module that is not there: whatever is wanted of it raises ImportError."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # what Python itself looks for in any module
            raise AttributeError(attribute)
        raise ImportError(f"this needs {self.__name__}.{attribute}, and {self.__name__} is not installed")


def _transforms() -> StandIn:
    """torchaudio.transforms, of which models have parts that they do not use to speak, and whose weights they load.

    XTTS has a MelSpectrogram in the encoder of its speakers, and some VITS a Resample for training.
    """
    from torch import nn, zeros

    class Unused(nn.Module):
        def forward(self, *_: Any) -> Any:
            raise ImportError(f"torchaudio.transforms.{type(self).__name__} is used, and torchaudio is not installed")

    class MelSpectrogram(Unused):
        def __init__(self, n_fft: int = 400, win_length: int | None = None, n_mels: int = 128, **_: Any) -> None:
            super().__init__()
            self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
            self.spectrogram.register_buffer("window", zeros(win_length or n_fft))
            self.mel_scale.register_buffer("fb", zeros(n_fft // 2 + 1, n_mels))

    class Resample(Unused):
        def __init__(self, **_: Any) -> None:
            super().__init__()

    module: Any = StandIn("torchaudio.transforms")
    module.MelSpectrogram, module.Resample = MelSpectrogram, Resample
    return module


@contextmanager
def without_torchaudio() -> Iterator[None]:
    """While it lasts, TTS and its models can be imported whether or not torchaudio and torchcodec are installed.

    Transformers looks for both once and remembers, so it is made to look before: it finds the truth. Nothing is left
    behind for others to find.
    """
    from transformers.utils import is_torchaudio_available, is_torchcodec_available

    is_torchaudio_available(), is_torchcodec_available()
    missing = {name: StandIn(name) for name in NAMES if name not in sys.modules and importlib.util.find_spec(name) is None}
    if "torchaudio" in missing:
        missing["torchaudio"].__dict__["transforms"] = _transforms()
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@contextmanager
def quiet() -> Iterator[None]:
    """TTS tells a great deal by logging, and torch and transformers warn of what TTS does: nothing a user could mend."""
    from transformers.utils import logging as of_transformers

    loggers = [logging.getLogger(name) for name in ("TTS", "trainer")]
    levels, verbosity = [logger.level for logger in loggers], of_transformers.get_verbosity()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    of_transformers.set_verbosity(of_transformers.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        of_transformers.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def beside(folder: Path, named: Any) -> Any:
    """What a config names by the path it once had: the file of that name in `folder` if there is one. Of lists, of each."""
    if isinstance(named, list):
        return [beside(folder, n) for n in named]
    here = folder / Path(named or "").name
    return str(here) if here.is_file() else named


def setting(config: Json, key: str) -> Any:
    """As TTS reads it: of model_args, else of the config."""
    args = config.get("model_args") or {}
    return args[key] if key in args else config.get(key)


def read_config(path: Path) -> Json:
    """A model's config.json. SaladError when it is none, or has TTS load pickles or import what is not its own."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, audio = config.get("model") or config["generator_model"], config["audio"]
        characters = (config.get("characters") or {}).get("characters_class") or "TTS."
        stats = audio.get("stats_path")
    except OSError as e:
        raise SaladError(f"no {path.name} in {path.parent} ({e.strerror})", "put it beside the checkpoint") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise SaladError(f"{path} is not the config.json of a Coqui model ({told(e)})", "restore it") from e
    reason = "TTS opens its checkpoints as pickles" if kind == "bark" else None
    reason = f"audio.stats_path {stats} is a pickle" if stats else reason
    reason = f"characters_class {characters} is not of TTS" if not characters.startswith("TTS.") else reason
    if reason:
        raise SaladError(f"{path}: this model could run any program ({reason})", "use a VITS or XTTS model")
    return dict(config)


def load(checkpoint: Path, config: Json, vocoder: tuple[Path, Path] | None = None) -> Any:
    """TTS's Synthesizer of a model, and of its vocoder if it has one (checkpoint, config.json).

    TTS opens checkpoints with torch.load(weights_only=True), so a pickle in them is refused and not run. What serves
    training alone is left out. SaladError when anything is missing, broken or more than weights.
    """
    config = json.loads(json.dumps(config))
    for part in (config, config.get("model_args") or {}):
        for key in part.keys() & set(_TRAINING):
            del part[key]
        for key in part.keys() & set(_BESIDE):
            part[key] = beside(checkpoint.parent, part[key])
    try:
        with without_torchaudio(), tempfile.TemporaryDirectory() as folder:
            from TTS.utils.synthesizer import Synthesizer

            settled = Path(folder) / "config.json"
            settled.write_text(json.dumps(config), encoding="utf-8")
            return Synthesizer(
                tts_checkpoint=checkpoint,
                tts_config_path=settled,
                vocoder_checkpoint=vocoder and vocoder[0],
                vocoder_config=vocoder and vocoder[1],
            )
    except Exception as e:  # whatever TTS may raise
        raise SaladError(
            f"Coqui model {checkpoint} cannot be loaded ({told(e)})", "restore its files, or install what it needs"
        ) from e
