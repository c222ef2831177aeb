"""From an engine's sound to a shard's: trimmed, cut without clicks, another speaker's, brought to a level, measured.

All but `change` works on the mean power of frames of 10 ms, so that a second of speech costs microseconds.

The level is that of active speech, in the spirit of ITU-T P.56 method B: pauses do not count, where active is what lies
less than 15.9 dB below that very level, and 0.2 s after it. P.56 smooths |x| with two filters of 30 ms and takes thresholds
6 dB apart, between which it interpolates; here frames of 10 ms stand for the filters, and the threshold is found exactly,
by iteration from below. On synthetic speech the two differ by 0.1 dB (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from salad.audio import Wave
from salad.errors import SaladError

FRAME = 0.01  # seconds
MARGIN = 15.9  # dB from the active level down to the least active frame (P.56)
HANGOVER = 0.2  # seconds that a frame stays active after the last loud one (P.56)
INAUDIBLE = -40.0  # dB from the active level: cut off at the ends …
SILENCE = -30.0  # … and what counts as silence in what is left, so that a voice's hiss counts too
FULL_SCALE = 0.999
MAX_PEAK = 0.891  # -1 dBFS
MAX_GAIN = 30.0  # dB

Powers = npt.NDArray[np.float64]


def _frame(rate: int) -> int:
    return max(1, round(FRAME * rate))


def _powers(wave: Wave, rate: int) -> Powers:
    """Mean square of every frame of 10 ms; the last may be shorter."""
    frame = _frame(rate)
    whole = len(wave) // frame * frame
    frames = wave[:whole].reshape(-1, frame)
    rest = wave[whole:]
    with np.errstate(over="ignore", invalid="ignore"):  # of samples that are not finite, or as good as
        powers = np.vecdot(frames, frames).astype(np.float64) / frame
        return np.append(powers, np.vecdot(rest, rest) / len(rest)) if len(rest) else powers


def _active_power(powers: Powers) -> float:
    """Mean power of the active frames; 0 for silence.

    The fixed point is approached from below: a higher threshold leaves fewer frames active, which have a higher mean.
    """
    total = float(powers.sum())
    index = np.arange(len(powers))
    active, count = total / max(len(powers), 1), 0
    while active > 0:
        last = np.maximum.accumulate(np.where(powers > active * 10 ** (-MARGIN / 10), index, -np.inf))
        before, count = count, int(np.count_nonzero(index - last <= HANGOVER / FRAME))
        if count in (0, before):  # 0: not a number, or infinite
            break
        active = total / count
    return active


def active_level(waves: Sequence[Wave], rate: int) -> float:
    """Level in dBFS (0: a square wave at full scale) of the speech in these sounds together, pauses left out.

    -inf for silence, nan or inf where samples are not finite.
    """
    power = _active_power(np.concatenate([_powers(w, rate) for w in waves])) if waves else 0.0
    return float(10 * np.log10(power)) if power > 0 else (power if np.isnan(power) else -np.inf)


def trim_silence(wave: Wave, rate: int, keep: float = 0.05, below: float = INAUDIBLE) -> Wave:
    """Cut what lies `below` dB from the wave's own active level off both ends, but for `keep` seconds of it.

    A view; the same wave where it is silent throughout. Spans of words stand side by side in a context: their pauses would
    cost budget and positions.
    """
    powers = _powers(wave, rate)
    heard = np.flatnonzero(powers > _active_power(powers) * 10 ** (below / 10))
    if len(heard) == 0:
        return wave
    margin, frame = round(keep * rate), _frame(rate)
    return wave[max(0, heard[0] * frame - margin) : (heard[-1] + 1) * frame + margin]


@lru_cache(maxsize=64)
def _rise(samples: int) -> Wave:
    """The rising half of a raised cosine, without its 0 and its 1."""
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(1, samples + 1) / (samples + 1))).astype(np.float32)


def fade(wave: Wave, rate: int, seconds: float = 0.005) -> Wave:
    """A copy that begins and ends softly, so that it does not click where it is joined; fades meet in a shorter wave."""
    faded = wave.copy()
    if (n := min(round(seconds * rate), len(wave) // 2)) > 0:
        faded[:n] *= _rise(n)
        faded[-n:] *= _rise(n)[::-1]
    return faded


def quietest(wave: Wave, rate: int, earliest: float, latest: float, window: float = FRAME) -> float:
    """Where to cut between two words: the middle of the quietest `window` from `earliest` to `latest`, all in seconds.

    The middle of the two where they are no window apart, as when a word begins before the last one ends.
    """
    low, high = (round(min(max(t, 0.0) * rate, len(wave))) for t in (earliest, latest))
    n = max(1, round(window * rate))
    if high - low <= n:
        return (earliest + latest) / 2
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave[low:high], dtype=np.float64))])
    return (low + int(np.argmin(energy[n:] - energy[:-n])) + n // 2) / rate


def cut(wave: Wave, rate: int, start: float, end: float, fade_seconds: float = 0.005) -> Wave:
    """A copy of [start, end), in seconds, with soft ends; empty where nothing of the wave lies between the two.

    Both times are rounded to samples by themselves, so neighbouring cuts neither overlap nor lose a sample.
    """
    if not start < end:  # or not a number
        return wave[:0].copy()
    low, high = (round(min(max(t, 0.0) * rate, len(wave))) for t in (start, end))
    return fade(wave[low:high], rate, fade_seconds)


def cut_in_pauses(wave: Wave, rate: int, earliest: float, start: float, end: float, latest: float) -> Wave:
    """`cut` at the quietest moments of the pauses around [start, end): after `earliest`, before `latest`."""
    return cut(wave, rate, quietest(wave, rate, earliest, start), quietest(wave, rate, end, latest))


def level(waves: Sequence[Wave], rate: int, target: float) -> tuple[list[Wave], float]:
    """The sounds of one sample brought to `target` dBFS of active speech by one gain, and that gain in dB.

    At most +30 dB, so that a whisper of noise does not become a roar, and no peak above -1 dBFS; silence and what is not
    finite stay as they are, with 0 dB.
    """
    peak = _peak(waves)
    gain = target - active_level(waves, rate)
    if not (np.isfinite(gain) and np.isfinite(peak)):
        return list(waves), 0.0
    gain = min(gain, MAX_GAIN, float(20 * np.log10(MAX_PEAK / peak)))
    factor = np.float32(10 ** (gain / 20))
    return [w * factor for w in waves], gain


def change(wave: Wave, rate: int, pitch: float, tempo: float) -> Wave:
    """Another speaker's: `pitch` semitones higher, formants with it, and `tempo` times as fast. (0, 1): the wave itself.

    Signalsmith Stretch, a phase vocoder, seeded: the same samples every time. round(len / tempo) samples within [-1, 1].
    """
    if (pitch == 0 and tempo == 1) or len(wave) == 0:
        return wave
    stretch: Any = _signalsmith().Stretch(0)
    stretch.preset(1, float(rate))
    stretch.setTransposeSemitones(float(pitch))
    stretch.timeFactor = float(tempo)
    changed = np.ascontiguousarray(stretch.process(np.array(wave[None], dtype=np.float32))[0])
    peak = _peak([changed])
    return np.asarray(changed / peak, dtype=np.float32) if 1 < peak < np.inf else changed


def _signalsmith() -> Any:
    try:
        from python_stretch import Signalsmith
    except ImportError as e:
        raise SaladError("a voice's pitch or tempo cannot be changed here", "pip install 'salad-speech[voices]'") from e
    return Signalsmith


@dataclass(frozen=True)
class Measures:
    """What can be said of the sounds of one sample without an ear; times in seconds.

    Silence is what lies 30 dB below the sample's active level. An empty wave counts as a span of 0 s.
    """

    seconds: float  # of all spans
    shortest: float  # span
    longest: float
    finite: bool  # all that follows is 0 where it is False
    peak: float  # of full scale
    faintest: float  # peak of the span where it is lowest
    clipped: float  # share of samples at full scale between two that are so too
    edge_silence: float  # the longest at the start or end of a span
    pause: float  # the longest inside a span


def measure(waves: Sequence[Wave], rate: int, given: Sequence[Wave] | None = None) -> Measures:
    """Measures of a sample's spans, before levelling, which would hide clipping; so would a change of pitch or tempo:
    `given` is what the engine gave."""
    lengths = [len(w) / rate for w in waves] or [0.0]
    peaks = [_peak([w]) for w in waves] or [0.0]
    if not all(map(np.isfinite, peaks)):
        return Measures(sum(lengths), min(lengths), max(lengths), False, 0, 0, 0, 0, 0)
    powers = [_powers(w, rate) for w in waves]
    threshold = _active_power(np.concatenate(powers)) * 10 ** (SILENCE / 10) if waves else 0.0
    silences = [_silences(p, len(w), _frame(rate), threshold) for p, w in zip(powers, waves, strict=True)]
    return Measures(
        sum(lengths),
        min(lengths),
        max(lengths),
        True,
        max(peaks),
        min(peaks),
        _clipped(waves if given is None else given),
        max((edge for edge, _ in silences), default=0) / rate,
        max((pause for _, pause in silences), default=0) / rate,
    )


def _peak(waves: Sequence[Wave]) -> float:
    """0 for no samples; nan and inf are passed on."""
    return float(np.max([0.0, *(np.maximum(abs(w.max()), abs(w.min())) for w in waves if len(w))]))


def _clipped(waves: Sequence[Wave]) -> float:
    """Share of samples on flat tops. One or two samples at full scale are the peak of a voice that is scaled to it (Piper)."""
    count = 0
    for wave in waves:
        if len(wave) > 2 and _peak([wave]) >= FULL_SCALE:
            full = np.abs(wave) >= FULL_SCALE
            count += int(np.count_nonzero(full[1:-1] & full[:-2] & full[2:]))
    return count / max(sum(map(len, waves)), 1)


def _silences(powers: Powers, samples: int, frame: int, threshold: float) -> tuple[int, int]:
    """Samples of the longest silence at an end, and inside, of one span; all of it is an end where nothing is heard."""
    heard = np.flatnonzero(powers > threshold)
    if len(heard) == 0:
        return samples, 0
    edge = max(heard[0] * frame, samples - (heard[-1] + 1) * frame)
    inside = (np.diff(heard).max() - 1) * frame if len(heard) > 1 else 0
    return int(edge), int(inside)
