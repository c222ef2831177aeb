"""The models of a run, each loaded when first asked for and once a process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from salad import assets
from salad.audio import Wave
from salad.config import Config
from salad.errors import SaladError
from salad.tts.workers import Speakers, open_speakers


class Models:
    """Teacher, tokenizer, encoder, speakers and ASR of one configuration."""

    def __init__(self, config: Config) -> None:
        from salad.devices import pick_dtype

        self.config = config
        self.dtype = pick_dtype(config.train.dtype)

    @cached_property
    def teacher(self) -> Any:
        from salad.trainer.student import load_lm

        return load_lm(self.config.models.lm, self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return assets.load_pretrained(AutoTokenizer, self.config.models.lm)

    @cached_property
    def encoder(self) -> Any:
        from salad.trainer.encoders import make_encoder

        return make_encoder(self.config.models.encoder, self.dtype)

    @cached_property
    def asr(self) -> Any:
        """A `ShortWhisper`, or None when the configuration names no ASR."""
        from salad.whisper import ShortWhisper

        return ShortWhisper(self.config.models.asr, self.dtype) if self.config.models.asr else None

    def transcribe(self, sounds: Mapping[str, Sequence[Wave]]) -> dict[str, list[str]]:
        """What the ASR hears in each wave (at HEARD_RATE), by key; all of them in one go, batched by length."""
        waves = [wave for of_key in sounds.values() for wave in of_key]
        found = self.asr.transcribe(waves) if waves else []
        if len(found) != len(waves):
            raise SaladError(f"the ASR gave {len(found)} transcripts of {len(waves)} sounds", "mend or change models.asr")
        transcripts = iter(found)
        return {key: [next(transcripts) for _ in of_key] for key, of_key in sounds.items()}

    @cached_property
    def speakers(self) -> Speakers:
        """Warm processes that speak; they end with `close`, or with this process."""
        speech = self.config.speech
        return open_speakers(speech.workers, speech.time_limit, speech.quality.level)

    def forget_teacher(self) -> None:
        """Its memory is wanted for something else; who asks for it again loads it again."""
        self.__dict__.pop("teacher", None)

    def close(self) -> None:
        if "speakers" in self.__dict__:
            self.__dict__.pop("speakers").close()


def quiet_libraries() -> None:
    """Progress bars and advice of libraries are not ours to show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for kind in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=kind, module=r"torch|transformers|accelerate")
    from transformers.utils import logging

    logging.disable_progress_bar()
