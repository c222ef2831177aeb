"""Log-mel frames, computed without a network: 80 mels, 100 a second. The student's adapter learns the rest.

The filters, floor and scale are Whisper's (Radford et al. 2022, section 2.2): log10 power, no more than 8 below the
loudest frame of the sound, roughly in [-1.5, 1.5].
"""

from __future__ import annotations

import math

import numpy as np
import torch

from salad.assets import LOGMEL
from salad.audio import Wave

HOP = 160
FFT = 400  # samples of a frame's window; a sound is made that long at least


class LogMelEncoder:
    """Its features are float32, whatever a network would compute in."""

    name = LOGMEL
    rate = 16_000
    frame_rate = rate / HOP
    width = 80
    window = math.inf

    def __init__(self) -> None:
        from transformers import WhisperFeatureExtractor

        self._extract = WhisperFeatureExtractor(feature_size=self.width, hop_length=HOP, n_fft=FFT)

    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        return [self._frames(w) if len(w) else torch.empty(0, self.width) for w in waves]

    def _frames(self, wave: Wave) -> torch.Tensor:
        """(ceil(samples / 160), 80). Sounds are not batched: there is nothing to gain, and no padding to keep out."""
        n = -(-len(wave) // HOP)
        padded = np.pad(wave, (0, max(n * HOP, FFT) - len(wave)))
        options = {"padding": False, "truncation": False, "return_tensors": "pt"}
        return self._extract(padded, sampling_rate=self.rate, **options).input_features[0].T[:n].contiguous()
