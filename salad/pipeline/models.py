"""The models of a run, each loaded when first asked for and once a process."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from salad import assets
from salad.audio import Wave
from salad.config import Config
from salad.errors import SaladError
from salad.pipeline.compute import Runner, open_compute
from salad.threads import Each
from salad.tts.workers import Speakers, open_speakers

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class loaded_once(cached_property[T]):
    """A `cached_property` that threads may ask for at the same time."""

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        with instance.loading:
            return super().__get__(instance, owner)


class Models:
    """Teacher, tokenizer, encoder, speakers and ASR of one configuration, and where tasks with them run."""

    def __init__(self, config: Config, device: str | None = None) -> None:
        """device: where networks compute; None: `devices.pick_device`."""
        self.config, self._device = config, device
        self.loading = threading.RLock()
        self.stopped = threading.Event()
        self.each: Each = map  # what a task may do side by side: threads of the runner, where it has some to spare
        self._kept: dict[str, tuple[object, Any]] = {}

    @loaded_once
    def dtype(self) -> torch.dtype:
        from salad.devices import pick_dtype

        return pick_dtype(self.config.train.dtype)

    @loaded_once
    def device(self) -> torch.device:
        import torch

        from salad.devices import pick_device

        return torch.device(self._device) if self._device else pick_device()

    @loaded_once
    def teacher(self) -> Any:
        from salad.trainer.student import load_lm

        return load_lm(self.config.models.lm, self.dtype, self.device)

    @loaded_once
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return assets.load_pretrained(AutoTokenizer, self.config.models.lm)

    @loaded_once
    def encoder(self) -> Any:
        from salad.trainer.encoders import make_encoder

        return make_encoder(self.config.models.encoder, self.dtype, self.device)

    @loaded_once
    def asr(self) -> Any:
        """A `ShortWhisper`, or None when the configuration names no ASR."""
        from salad.whisper import ShortWhisper

        return ShortWhisper(self.config.models.asr, self.dtype, self.device) if self.config.models.asr else None

    @property
    def listens(self) -> bool:
        """Whether there is an ASR, without loading it."""
        return self.__dict__.get("asr", self.config.models.asr) is not None

    def transcribe(self, sounds: Mapping[str, Sequence[Wave]]) -> dict[str, list[str]]:
        """What the ASR hears in each wave (at HEARD_RATE), by key; all of them in one go, batched by length."""
        waves = [wave for of_key in sounds.values() for wave in of_key]
        found = self.asr.transcribe(waves, each=self.each) if waves else []
        if len(found) != len(waves):
            raise SaladError(f"the ASR gave {len(found)} transcripts of {len(waves)} sounds", "mend or change models.asr")
        transcripts = iter(found)
        return {key: [next(transcripts) for _ in of_key] for key, of_key in sounds.items()}

    @loaded_once
    def speakers(self) -> Speakers:
        """Warm processes that speak; they end with `close`, or with this process."""
        speech = self.config.speech
        return open_speakers(speech.workers, speech.time_limit, speech.quality.level)

    @loaded_once
    def compute(self) -> Runner:
        """Where stages have their parts computed. What it started ends with `close`, or with this process."""
        return open_compute(self)

    def go_on(self) -> None:
        """Tasks call this now and then: it ends those in threads that nobody waits for any more."""
        if self.stopped.is_set():
            raise SaladError("stopped")

    def kept(self, what: str, key: object, make: Callable[[], T]) -> T:
        """Made once, and kept until it is asked for with another key, or forgotten."""
        with self.loading:
            if what not in self._kept or self._kept[what][0] != key:
                self._kept.pop(what, None)  # before the next one takes its memory
                self._kept[what] = (key, make())
            found: T = self._kept[what][1]
            return found

    def forget(self, *what: str) -> None:
        for name in what:
            self._kept.pop(name, None)

    def forget_teacher(self) -> None:
        """Its memory is wanted for something else; who asks for it again loads it again."""
        self.__dict__.pop("teacher", None)

    def close(self) -> None:
        for name in ("speakers", "compute"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


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
