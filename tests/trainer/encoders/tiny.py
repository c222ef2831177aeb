"""Small random models of the paper's kinds, on disk."""

from __future__ import annotations

from pathlib import Path

import torch


def write_mimi(folder: Path) -> Path:
    """A whole codec of 0.1 M parameters at Mimi's own rates: 24 kHz, 12.5 frames a second, 32 wide."""
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_filters": 4, "num_hidden_layers": 1, "intermediate_size": 32, "upsample_groups": 32}
    codes = {"codebook_size": 16, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 2}
    config = MimiConfig(num_attention_heads=2, num_key_value_heads=2, layer_scale_initial_scale=1.0, **sizes, **codes)
    MimiModel(config).save_pretrained(folder)
    return folder


def write_qwen(folder: Path, tied: bool, padding: int = 0) -> Path:
    """Qwen2.5's architecture with the fakes' tokenizer; `padding`: rows of its embedding beyond the vocabulary."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.fakes import tiny_tokenizer

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer) + padding, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied,
        initializer_range=0.3,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
