"""What a machine reaches: FLOP a second of networks, and cores for everything that is no network.

Peaks are the makers' for dense bfloat16. How much of it is reached: of a CPU measured here (docs/results.md), of a GPU assumed
(bench/gpu.py measures it).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from salad.devices import gpu_name
from salad.errors import ConfigError, nearest


@dataclass(frozen=True)
class Machine:
    """`steady`: share of the peak that forward passes and training steps reach; `decoding`: the same token by token."""

    name: str
    cores: int
    peak: float  # FLOP a second
    steady: float
    decoding: float

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    def seconds(self, flop: float, decoding: float = 0.0) -> float:
        """Of so much work, and of so much that is decoded token by token."""
        return (flop / self.steady + decoding / self.decoding) / self.peak


# A core of the EPYC of docs/results.md: SmolLM2-135M reads 2,842 tokens a second on two of them, its best batch. Of that batches
# of short texts reach 45 % (training there: 642 positions a second; the demo's embeddings and features are alike), and Whisper
# tiny.en, 16 spans at a time, 3 % of it (54 s of speech a second).
CORE = 2_842 * 2 * 134.5e6 / 2
CORE_FLOAT32 = 829 / 2_842 * CORE  # the same core made to read in float32: what a processor without bfloat16 is taken for
STEADY, DECODING = 0.45, 0.03
# Assumed, not measured: what well-fed training of some billion parameters reaches, and decoding that waits for launches.
GPU_STEADY, GPU_DECODING = 0.35, 0.001
GPUS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "l40s": 362e12, "rtx-4090": 165e12}


def machine(device: str | None = None, cores: int | None = None) -> Machine:
    """One GPU by name, or the processors ("cpu"); None: what is here. ConfigError for another name."""
    device, cores = device or _gpu_here() or "cpu", cores or len(os.sched_getaffinity(0))
    if device == "cpu":
        return Machine(device, cores, (CORE if has_bfloat16() else CORE_FLOAT32) * cores, STEADY, DECODING)
    if device not in GPUS:
        known = ["cpu", *GPUS]
        raise ConfigError(f"unknown device '{device}'{nearest(device, known)}", f"known: {', '.join(known)}")
    return Machine(device, cores, GPUS[device], GPU_STEADY, GPU_DECODING)


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether networks compute in bfloat16 here (`devices.pick_dtype`); importing torch to ask would take seconds."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_tile"}.isdisjoint(flags)


def _gpu_here() -> str | None:
    """The known name of the first GPU."""
    found = (gpu_name() or "").lower().replace(" ", "-")
    return next((name for name in GPUS if name in found), None)
