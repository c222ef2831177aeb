"""Frozen speech encoders behind one protocol; `make_encoder` picks by the model's own config."""

from __future__ import annotations

from typing import Protocol

import torch

from salad import assets
from salad.audio import Wave
from salad.errors import SaladError

KINDS = "mimi, whisper (by the model's config), and logmel (by that name)"


class SpeechEncoder(Protocol):
    """Mono waves at `rate` samples a second to features (T, width) at `frame_rate` frames a second.

    T is seconds · frame_rate, rounded up, within one; 0 for an empty wave only. What a sound gives does not depend
    on its neighbours, and is on the processor, wherever it was computed. `window`: the most seconds that it hears at
    once (math.inf: any); SaladError beyond that.
    `salad.trainer.encoders.testing.check_encoder` checks all of it.
    """

    name: str
    rate: int
    frame_rate: float
    width: int
    window: float

    def encode(self, waves: list[Wave]) -> list[torch.Tensor]: ...


def make_encoder(name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> SpeechEncoder:
    """The encoder of a speech model by name, its network computing in `dtype`; SaladError for a kind that is not known."""
    from transformers import AutoConfig

    torch.backends.cudnn.allow_tf32 = False  # a GPU's convolutions too are of float32 where that is asked for
    if name == assets.LOGMEL:
        from salad.trainer.encoders.logmel import LogMelEncoder

        return LogMelEncoder()
    kind = assets.load_pretrained(AutoConfig, name).model_type
    if kind == "whisper":
        from salad.trainer.encoders.whisper import WhisperEncoder

        return WhisperEncoder(name, dtype, device)
    if kind == "mimi":
        from salad.trainer.encoders.mimi import MimiEncoder

        return MimiEncoder(name, dtype, device)
    raise SaladError(f"encoder '{name}' is a {kind} model", f"known kinds: {KINDS}")
