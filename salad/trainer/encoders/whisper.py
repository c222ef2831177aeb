"""Whisper's encoder: 50 frames a second, paid by the length of the sound."""

from __future__ import annotations

import torch

from salad.audio import Wave
from salad.whisper import HOP, RATE, WINDOW, ShortWhisper


class WhisperEncoder:
    rate = RATE
    frame_rate = RATE / HOP
    window = WINDOW * HOP / RATE

    def __init__(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.name = name
        self._whisper = ShortWhisper(name, dtype, device)
        self.width = self._whisper.width

    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        return self._whisper.encode(waves)
