"""What a student's checkpoint says of it beside the weights: names, sizes, and the LM's own config."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from salad.assets import LOGMEL


class StudentConfig(PreTrainedConfig):
    """`lm_config`: of the LM that it started from, `lm` by name.

    lora: of `lm_training="lora"`, its rank, alpha, dropout and targets.
    """

    model_type = "salad-student"

    def __init__(
        self,
        lm: str = "",
        lm_training: str = "frozen",
        lm_config: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        encoder: str = "",
        encoder_width: int = 0,
        encoder_frame_rate: float = 0.0,
        frame_rate: float = 12.5,
        kind: str = "transformer",
        layers: int = 2,
        width: int = 576,
        mlp: int = 1536,
        heads: int = 9,
        kv_heads: int = 3,
        **kwargs: Any,
    ) -> None:
        self.lm, self.lm_training, self.lm_config, self.lora = lm, lm_training, lm_config, lora
        self.encoder, self.encoder_width, self.encoder_frame_rate = encoder, encoder_width, encoder_frame_rate
        self.frame_rate, self.kind, self.layers, self.width, self.mlp = frame_rate, kind, layers, width, mlp
        self.heads, self.kv_heads = heads, kv_heads
        super().__init__(**kwargs)

    @property
    def stack(self) -> int:
        """Encoder frames that become one position of the LM."""
        return max(1, round(self.encoder_frame_rate / self.frame_rate))

    @property
    def teacher_dtype(self) -> torch.dtype:
        """What teacher and encoder computed in when this student learnt."""
        known = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return known.get(str((self.lm_config or {}).get("dtype")), torch.float32)

    @property
    def has_front_end(self) -> bool:
        """Whether the adapter learns from log-mel frames what a speech encoder would give."""
        return self.encoder == LOGMEL
