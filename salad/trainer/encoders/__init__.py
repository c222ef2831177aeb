"""Frozen speech encoders behind one protocol; `make_encoder` picks by the model's own config."""

from __future__ import annotations

from typing import Protocol

import torch

from salad.audio import Wave
from salad.errors import SaladError


class SpeechEncoder(Protocol):
    """Mono waves at `rate` samples a second to features (T, width) at `frame_rate` frames a second."""

    name: str
    rate: int
    frame_rate: float
    width: int

    def encode(self, waves: list[Wave]) -> list[torch.Tensor]: ...


def make_encoder(name: str, dtype: torch.dtype) -> SpeechEncoder:
    """The encoder of a speech model by name. Whisper today; others raise SaladError."""
    from transformers import AutoConfig

    from salad import assets

    kind = assets.load_pretrained(AutoConfig, name).model_type
    if kind == "whisper":
        from salad.trainer.encoders.whisper import WhisperEncoder

        return WhisperEncoder(name, dtype)
    raise SaladError(f"encoder '{name}' is a {kind} model", "known kinds: whisper")
