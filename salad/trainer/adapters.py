"""From encoder frames to positions of the LM: the trainable ears.

`transformer` is the paper's adapter, a causal decoder stack; `mlp` is two linear layers, as in LLaVA 1.5 (Liu et al.
2023). An encoder that is no network (`logmel`) gets a convolutional front end that trains with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from salad.errors import SaladError, nearest

if TYPE_CHECKING:
    from salad.trainer.student_config import StudentConfig

KERNEL = 5  # frames that a convolution of the front end sees


class Adapter(nn.Module):
    """(spans, T · stack, encoder width) -> (spans, T, LM width); position t sees frames before (t + 1) · stack only.

    So spans may be padded at their end, without a mask. `scale` starts at the RMS of the LM's own token
    embeddings: speech enters at the volume that the LM is used to.
    """

    _no_split_modules: list[str] = []  # what FSDP keeps together
    front: FrontEnd | None

    def __init__(self, config: StudentConfig, lm_width: int) -> None:
        super().__init__()
        self.stack = config.stack
        self.front = FrontEnd(config.encoder_width, config.width, self.stack) if config.has_front_end else None
        self._make(config, self.front.width if self.front else config.encoder_width * self.stack, lm_width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.front(frames) if self.front else frames
        return self._map(x.reshape(len(frames), frames.shape[1] // self.stack, -1)) * self.scale

    def _make(self, config: StudentConfig, inward: int, outward: int) -> None:
        raise NotImplementedError

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        """(spans, T, inward) -> (spans, T, outward)."""
        raise NotImplementedError


class TransformerAdapter(Adapter):
    """A Llama stack without embeddings (paper: 12 layers, 960 wide)."""

    _no_split_modules = ["LlamaDecoderLayer"]

    def _make(self, config: StudentConfig, inward: int, outward: int) -> None:
        self.inward = nn.Linear(inward, config.width)
        self.body = LlamaModel(
            LlamaConfig(
                vocab_size=1,
                hidden_size=config.width,
                intermediate_size=config.mlp,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                max_position_embeddings=4096,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.body.embed_tokens.requires_grad_(False)  # nothing uses it
        self.outward = nn.Linear(config.width, outward)

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        return self.outward(self.body(inputs_embeds=self.inward(x), use_cache=False).last_hidden_state)


class MlpAdapter(Adapter):
    """Each position by itself: norm, linear, GELU, linear, `mlp` wide in between."""

    def _make(self, config: StudentConfig, inward: int, outward: int) -> None:
        self.norm = nn.LayerNorm(inward)
        self.inward = nn.Linear(inward, config.mlp)
        self.outward = nn.Linear(config.mlp, outward)

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        return self.outward(nn.functional.gelu(self.inward(self.norm(x))))


class FrontEnd(nn.Module):
    """Causal convolutions: (spans, T · stack, mels) -> (spans, T · left, channels), all layers but the first at half the rate.

    As Whisper's own input layers (Radford et al. 2022, section 2.2), padded on the left. It halves as often as
    the stack allows; the odd number of frames that are `left` still make one position, `width` numbers together.
    """

    def __init__(self, mels: int, channels: int, stack: int) -> None:
        super().__init__()
        halvings = (stack & -stack).bit_length() - 1  # how often 2 divides the stack
        self.width = (stack >> halvings) * channels
        self.strides = [1, *[2] * halvings]
        self.layers = nn.ModuleList(nn.Conv1d(channels if i else mels, channels, KERNEL, s) for i, s in enumerate(self.strides))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.transpose(1, 2)
        for layer, stride in zip(self.layers, self.strides, strict=True):
            x = nn.functional.gelu(layer(nn.functional.pad(x, (KERNEL - stride, 0))))
        return x.transpose(1, 2)


KINDS: dict[str, type[Adapter]] = {"transformer": TransformerAdapter, "mlp": MlpAdapter}


def make_adapter(config: StudentConfig, lm_width: int) -> Adapter:
    """The adapter of `config.kind`; SaladError, with the known ones, for another."""
    if config.kind not in KINDS:
        raise SaladError(f"unknown adapter kind '{config.kind}'{nearest(config.kind, list(KINDS))}", f"known: {', '.join(KINDS)}")
    return KINDS[config.kind](config, lm_width)
