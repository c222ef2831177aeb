"""Which arithmetic this processor does fast."""

from __future__ import annotations

import torch


def pick_dtype(wanted: str = "auto") -> torch.dtype:
    """bfloat16 where the hardware has it, else float32; or what is asked for by name."""
    if wanted != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.backends.cpu.get_cpu_capability()
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capabilities == "AVX512" and has_bf16 else torch.float32
