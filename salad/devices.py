"""Where networks compute, and which arithmetic that does fast."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device() -> torch.device:
    """The GPU where there is one, else the processor. `CUDA_VISIBLE_DEVICES=` or `ACCELERATE_USE_CPU=true` hides a GPU."""
    import torch
    from accelerate.utils import parse_flag_from_env

    return torch.device("cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu")


def pick_dtype(wanted: str = "auto") -> torch.dtype:
    """bfloat16 where the hardware has it, else float32; or what is asked for by name."""
    import torch

    if wanted != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]
    if pick_device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.backends.cpu.get_cpu_capability()
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capabilities == "AVX512" and has_bf16 else torch.float32


def gpu_name() -> str | None:
    """The first GPU's, e.g. "NVIDIA H200"; asked of the driver's own tool, since importing torch takes seconds."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.partition("\n")[0].strip() or None
