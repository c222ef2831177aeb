"""Sound in memory: float32 mono in [-1, 1], FLAC bytes, sampling rates."""

from __future__ import annotations

import io
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float32]
HEARD_RATE = 16_000  # samples a second of what an ASR gets


def to_flac(wave: Wave, rate: int) -> bytes:
    """16-bit FLAC of a mono wave; values beyond [-1, 1] are clipped."""
    import soundfile as sf

    buffer = io.BytesIO()
    sf.write(buffer, np.clip(wave, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def from_bytes(data: bytes) -> tuple[Wave, int]:
    """Any file that libsndfile reads, mixed down to mono: (wave, rate)."""
    import soundfile as sf

    wave, rate = sf.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return wave.mean(axis=1, dtype=np.float32), int(rate)


def resample(wave: Wave, rate: int, to: int) -> Wave:
    """Polyphase resampling."""
    if rate == to:
        return wave
    from scipy.signal import resample_poly

    divisor = gcd(rate, to)
    resampled: Any = resample_poly(wave, to // divisor, rate // divisor)
    return np.asarray(resampled, dtype=np.float32)
