"""Mimi's encoder (Défossez et al. 2024, "Moshi", section 3.3): 12.5 frames a second of 24 kHz sound, the paper's choice.

Tapped before the quantiser, after its transformer and the halving of the rate: the 512 continuous numbers that the
32 codebooks would approximate. Before the transformer frames know no context; before the halving they come at twice
the rate; behind the quantiser is what is left of them.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from salad import assets
from salad.audio import Wave

BATCH_SECONDS = 96  # of sound at a time, padding included


class MimiEncoder:
    window = math.inf  # its transformer looks back 10 s and no further

    def __init__(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        from transformers import AutoConfig, MimiEncoderModel

        config = assets.load_pretrained(AutoConfig, name).encoder_config  # the half that we need
        options = {"config": config, "dtype": dtype, "use_safetensors": True}
        self._model = assets.load_pretrained(MimiEncoderModel, name, **options).eval().to(device)
        self.name, self.rate, self.width = name, int(config.sampling_rate), int(config.latent_dim)
        self.frame_rate = float(config.frame_rate)
        self._hop = int(config.frame_size)  # samples a frame

    @torch.inference_mode()
    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        """Features (ceil(samples / 1920), 512) each, in the order given.

        Whole frames of silence at the end do not reach the frames before: every layer is causal. So sounds are filled
        to a whole frame, always, and those of like length are batched.
        """
        features = [torch.empty(0, self.width, dtype=self._model.dtype) for _ in waves]
        frames = [-(-len(w) // self._hop) for w in waves]
        order = sorted(filter(frames.__getitem__, range(len(waves))), key=frames.__getitem__, reverse=True)
        while order:
            longest = frames[order[0]]
            n = max(1, int(BATCH_SECONDS * self.frame_rate / longest))
            batch, order = order[:n], order[n:]
            padded = np.stack([np.pad(waves[i], (0, longest * self._hop - len(waves[i]))) for i in batch])
            sounds = torch.from_numpy(padded)[:, None].to(self._model.device, self._model.dtype)
            latents = self._model(sounds).latents.cpu()
            for i, found in zip(batch, latents.transpose(1, 2), strict=True):
                features[i] = found[: frames[i]].clone()
        return features
