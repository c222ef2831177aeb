"""The contract that every speech encoder keeps, as a suite that any author can run.

    from salad.trainer.encoders.testing import check_encoder

    def test_my_encoder() -> None:
        check_encoder(MyEncoder())

Each check is also a function of its own in `CHECKS`, for pytest's parametrize. The sounds are made here, seconds long.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from salad.audio import Wave
from salad.errors import SaladError
from salad.trainer.encoders import SpeechEncoder

SECONDS = (0.9, 2.35, 0.31, 1.0, 4.2)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}  # of the features' own size


def check_encoder(encoder: SpeechEncoder) -> None:
    """Run every check; AssertionError, with its name, for the first contract that is broken."""
    for name, check in CHECKS.items():
        try:
            check(encoder)
        except Exception as e:
            raise AssertionError(f"{name}: {e}") from e


def sound(encoder: SpeechEncoder, seconds: float, seed: int = 0) -> Wave:
    """A gliding tone with some noise, one sample at least."""
    t = np.arange(max(1, round(seconds * encoder.rate))) / encoder.rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.2 * np.sin(2 * np.pi * (150 + 40 * seed + 60 * t) * t) + 0.01 * noise).astype(np.float32)


def says_what_it_is(encoder: SpeechEncoder) -> None:
    assert encoder.name, "no name"
    assert encoder.rate > 0, f"rate {encoder.rate}"
    assert encoder.width > 0, f"width {encoder.width}"
    assert 0 < encoder.frame_rate < encoder.rate, f"frame_rate {encoder.frame_rate}"
    assert encoder.window > 0, f"window {encoder.window}"


def gives_frames_of_its_width_at_its_rate(encoder: SpeechEncoder) -> None:
    for seconds, found in zip(SECONDS, _encode(encoder), strict=True):
        expected = math.ceil(seconds * encoder.frame_rate)
        assert found.ndim == 2, f"features of shape {tuple(found.shape)}"
        assert found.shape[1] == encoder.width, f"{found.shape[1]} wide, not {encoder.width}"
        assert abs(len(found) - expected) <= 1, f"{len(found)} frames for {seconds} s at {encoder.frame_rate} a second"


def gives_finite_numbers_without_gradients(encoder: SpeechEncoder) -> None:
    for found in _encode(encoder):
        assert found.is_floating_point(), f"features are {found.dtype}"
        assert not found.requires_grad, "features carry gradients: encode in torch.inference_mode()"
        assert bool(torch.isfinite(found).all()), "features are not finite"


def hears_the_difference(encoder: SpeechEncoder) -> None:
    a, b = encoder.encode([sound(encoder, 1.0), sound(encoder, 1.0, seed=3)])
    assert float((a - b).abs().max()) > 0, "two sounds have the same features"


def gives_the_same_again(encoder: SpeechEncoder) -> None:
    for a, b in zip(_encode(encoder), _encode(encoder), strict=True):
        assert torch.equal(a, b), "the same sounds gave other features"


def does_not_mind_the_company(encoder: SpeechEncoder) -> None:
    for i, together in enumerate(_encode(encoder)):
        (alone,) = encoder.encode([_sounds(encoder)[i]])
        _same(together, alone, f"a sound of {SECONDS[i]} s differs alone and beside others")


def does_not_mind_the_order(encoder: SpeechEncoder) -> None:
    turned = encoder.encode(_sounds(encoder)[::-1])[::-1]
    for seconds, a, b in zip(SECONDS, _encode(encoder), turned, strict=True):
        _same(a, b, f"a sound of {seconds} s differs in another order")


def leaves_the_waves_as_they_were(encoder: SpeechEncoder) -> None:
    waves = _sounds(encoder)
    encoder.encode(waves)
    for a, b in zip(waves, _sounds(encoder), strict=True):
        assert np.array_equal(a, b), "a wave was changed"


def takes_the_shortest_sounds(encoder: SpeechEncoder) -> None:
    for samples in (1, 2, round(encoder.rate / encoder.frame_rate) - 1, round(encoder.rate / encoder.frame_rate) + 1):
        for wave in (np.zeros(samples, np.float32), sound(encoder, samples / encoder.rate)):
            (found,) = encoder.encode([wave])
            assert 1 <= len(found) <= 3, f"{len(found)} frames for {samples} samples"
            assert bool(torch.isfinite(found).all()), f"features of {samples} samples are not finite"


def gives_nothing_for_nothing(encoder: SpeechEncoder) -> None:
    assert encoder.encode([]) == [], "features of no sounds"
    nothing, something = encoder.encode([np.zeros(0, np.float32), sound(encoder, 0.5)])
    assert tuple(nothing.shape) == (0, encoder.width), f"an empty wave gave {tuple(nothing.shape)}"
    assert len(something) > 0, "a sound beside an empty one gave nothing"


def takes_silence_and_full_scale(encoder: SpeechEncoder) -> None:
    for level in (0.0, 1.0, -1.0):
        (found,) = encoder.encode([np.full(encoder.rate, level, np.float32)])
        assert bool(torch.isfinite(found).all()), f"features of a constant {level:g} are not finite"


def refuses_what_its_window_cannot_hold(encoder: SpeechEncoder) -> None:
    if math.isinf(encoder.window):
        (found,) = encoder.encode([sound(encoder, 31.0)])
        assert abs(len(found) - math.ceil(31 * encoder.frame_rate)) <= 1, f"{len(found)} frames for 31 s"
        return
    encoder.encode([sound(encoder, encoder.window)])
    try:
        encoder.encode([sound(encoder, encoder.window + 1)])
    except SaladError:
        return
    raise AssertionError(f"{encoder.window + 1:g} s were taken in silence, by a window of {encoder.window:g} s")


CHECKS: dict[str, Callable[[SpeechEncoder], None]] = {
    check.__name__: check
    for check in (
        says_what_it_is, gives_frames_of_its_width_at_its_rate, gives_finite_numbers_without_gradients, hears_the_difference,
        gives_the_same_again, does_not_mind_the_company, does_not_mind_the_order, leaves_the_waves_as_they_were,
        takes_the_shortest_sounds, gives_nothing_for_nothing, takes_silence_and_full_scale, refuses_what_its_window_cannot_hold,
    )
}  # fmt: skip


def _sounds(encoder: SpeechEncoder) -> list[Wave]:
    return [sound(encoder, s, seed) for seed, s in enumerate(SECONDS)]


def _encode(encoder: SpeechEncoder) -> list[torch.Tensor]:
    found = encoder.encode(_sounds(encoder))
    assert len(found) == len(SECONDS), f"{len(found)} features for {len(SECONDS)} sounds"
    return found


def _same(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    assert a.shape == b.shape, f"{what}: {tuple(a.shape)} and {tuple(b.shape)}"
    size = max(float(b.float().std()) if b.numel() > 1 else 0.0, 1e-6)
    apart = float((a.float() - b.float()).abs().max()) / size
    assert apart < TOLERANCE.get(a.dtype, 1e-3), f"{what}, by {apart:.2g} standard deviations"
