"""Small Coqui checkpoints made from a config, with random weights: nothing is downloaded and nothing says real words.

They have all parts of the real models, at a natural pace; what they cannot show is how good a voice sounds.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

SPEAKERS = ["anna", "bert", "carla"]
HOP = 64  # samples a frame: the product of the decoder's upsampling rates
RATE = 16_000


def write_vits(folder: Path, speakers: int = 1, d_vectors: bool = False, **settings: Any) -> Path:
    """A VITS of 1.6 million parameters: config.json and model.pth; `settings` are of its config or its model_args."""
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import Vits

    folder.mkdir(parents=True, exist_ok=True)
    config = VitsConfig(use_phonemes=False, text_cleaner="english_cleaners")
    config.audio.sample_rate, config.audio.hop_length, config.audio.win_length, config.audio.fft_size = RATE, HOP, 256, 256
    args = config.model_args
    args.hidden_channels, args.hidden_channels_ffn_text_encoder, args.out_channels = 32, 64, 129
    args.num_layers_text_encoder = args.num_layers_posterior_encoder = args.num_layers_flow = 2
    args.upsample_rates_decoder, args.upsample_kernel_sizes_decoder = [8, 8], [16, 16]
    args.upsample_initial_channel_decoder = 64
    args.resblock_kernel_sizes_decoder, args.resblock_dilation_sizes_decoder = [3, 7], [[1, 3, 5], [1, 3, 5]]
    args.speaker_embedding_channels = args.d_vector_dim = 16
    args.length_scale = 2.0
    args.init_discriminator = False
    if d_vectors:
        args.use_d_vector_file, args.d_vector_file = True, [str(_write_d_vectors(folder / "speakers.json", speakers))]
    elif speakers > 1:
        args.use_speaker_embedding, config.speakers = True, SPEAKERS[:speakers]
    return write_model(folder, Vits, config, **settings)


def write_model(folder: Path, kind: Any, config: Any, **settings: Any) -> Path:
    """config.json and model.pth of an untrained Coqui model."""
    import torch

    logging.getLogger("TTS").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in settings.items():
        setattr(config if hasattr(config, key) else config.model_args, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = kind(config)
    config.save_json(folder / "config.json")
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return folder


def _write_d_vectors(path: Path, speakers: int) -> Path:
    """Two clips a speaker, as Coqui's speaker encoder would describe them."""
    from salad.seeds import generator

    clips = {f"{name}-{take}.wav": name for name in SPEAKERS[:speakers] for take in (1, 2)}
    vectors = {clip: {"name": name, "embedding": generator(0, clip).normal(size=16).tolist()} for clip, name in clips.items()}
    path.write_text(json.dumps(vectors))
    return path
