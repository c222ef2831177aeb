"""Coqui's TTS (coqui-tts, MPL-2.0): VITS in batches and with the times of its words, other models one text at a time.

A model is a name from Coqui's list, fetched when first spoken with, or a local folder or checkpoint with its config.json.
Each has a licence of its own, often narrower than the code's: XTTS is for non-commercial use only (CPML).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from salad.errors import SaladError, nearest, told
from salad.tts.base import Speech, VoiceInfo
from salad.tts.coqui_files import ONLY_VOICE, fetch, fetched_files, listed_models, local_files, read_speakers
from salad.tts.coqui_models import LANGUAGE, OneByOne, Vits, one_thread, seeded
from salad.tts.coqui_stubs import Json, load, quiet

# Coqui reads [[…]] as phonemes (espeak) and [STOP] as a token (XTTS); text of a pool is text and nothing else.
_MARKUP = str.maketrans({"[": " ", "]": " "})


class CoquiEngine:
    """A model by name, folder or checkpoint file, on the processor and in one thread.

    A voice is a speaker's name, `default` where there is but one. XTTS has those that come with it, and those cloned into
    the folder `voices` beside it, once, by Coqui's own `tts --speaker_wav … --speaker_idx … --voice_dir …`.
    SaladError for what is not there or cannot be loaded, and for files that would run a program when loaded.
    """

    name = "coqui"

    def __init__(self, model: str | None = None) -> None:
        if importlib.util.find_spec("TTS") is None:
            raise SaladError("engine 'coqui' is not installed", "pip install 'salad-speech[coqui]'")
        if not model:
            raise SaladError("engine 'coqui' has no model of its own", "name one: tts_models/en/vctk/vits, or a local folder")
        self._model = model
        self._listed: Json = {} if Path(model).exists() else listed_models().get(model, {})
        self._files = fetched_files(model, self._listed) if self._listed else local_files(model)
        self._vocoder: tuple[Path, Path] | None = None

    def voices(self) -> list[VoiceInfo]:
        """Its speakers; none while a model by name has not been fetched, because its files say who they are."""
        if self._files is None:
            return []
        config = self._files[1]
        rate = config["audio"].get("output_sample_rate") or config["audio"]["sample_rate"]
        language = LANGUAGE if config.get("languages") else (config.get("phoneme_language") or LANGUAGE).split("-")[0]
        licence = self._listed.get("license") or "unknown"
        return [VoiceInfo(name, rate, language, licence) for name in self._speakers]

    def synthesize(self, texts: list[str], voice: str) -> list[Speech]:
        """`words` are those of VITS; () where its front end does not show where the words of a text begin."""
        with quiet(), one_thread():
            if self._files is None:
                self._files, self._vocoder = fetch(self._model, self._listed)
            if voice not in self._speakers:
                who = f"coqui model {self._model} has no voice '{voice}'{nearest(voice, self._speakers)}"
                raise SaladError(who, f"known: {', '.join(self._speakers)}")
            return self._say([text.translate(_MARKUP) for text in texts], None if voice == ONLY_VOICE else voice)

    @cached_property
    def _speakers(self) -> list[str]:
        assert self._files is not None
        folder = self._files[0].parent
        try:
            return read_speakers(folder, self._files[1])
        except Exception as e:  # whatever is in its files
            raise SaladError(f"the speakers of {folder} cannot be read ({told(e)})", "restore its speakers file") from e

    @cached_property
    def _say(self) -> Callable[[list[str], str | None], list[Speech]]:
        """The model, loaded: (texts, speaker) -> Speech of each."""
        assert self._files is not None
        with seeded(0):  # weights are drawn before they are loaded
            synthesizer = load(*self._files, self._vocoder)
        return Vits(synthesizer) if self._files[1]["model"] == "vits" else OneByOne(synthesizer)
