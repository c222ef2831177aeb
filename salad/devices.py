"""Where networks compute, and which arithmetic that does fast."""

from __future__ import annotations

import torch


def pick_device() -> torch.device:
    """The GPU where there is one, else the processor. `CUDA_VISIBLE_DEVICES=` or `ACCELERATE_USE_CPU=true` hides a GPU."""
    from accelerate.utils import parse_flag_from_env

    return torch.device("cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu")


def name_of(device: torch.device) -> str:
    """As a person would call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"


def pick_dtype(wanted: str = "auto") -> torch.dtype:
    """bfloat16 where the hardware has it, else float32; or what is asked for by name."""
    if wanted != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]
    if pick_device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.backends.cpu.get_cpu_capability()
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capabilities == "AVX512" and has_bf16 else torch.float32
