"""Every built-in encoder keeps the contract; encoders that break it are found out, each by the check that is for it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from salad.audio import Wave
from salad.errors import SaladError
from salad.trainer.encoders import SpeechEncoder, make_encoder
from salad.trainer.encoders.testing import CHECKS, check_encoder, sound
from tests.trainer.encoders.tiny import write_mimi


@pytest.fixture(scope="module")
def names(fake_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    mimi = write_mimi(tmp_path_factory.mktemp("mimi"))
    return {"whisper": fake_models["encoder"], "mimi": str(mimi), "logmel": "logmel"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", ["whisper", "mimi", "logmel"])
def test_built_in_encoders_keep_the_contract(names: dict[str, str], kind: str, check: str) -> None:
    CHECKS[check](make_encoder(names[kind], torch.float32))


@pytest.mark.parametrize("kind", ["whisper", "mimi"])
def test_a_network_computes_in_the_dtype_that_is_asked_for(names: dict[str, str], kind: str) -> None:
    encoder = make_encoder(names[kind], torch.bfloat16)
    (found,) = encoder.encode([sound(encoder, 1.0)])
    assert found.dtype == torch.bfloat16
    check_encoder(encoder)


@pytest.mark.slow
def test_the_real_whisper_keeps_the_contract() -> None:
    check_encoder(make_encoder("openai/whisper-tiny.en", torch.float32))


def test_an_encoder_of_another_kind_is_refused_with_the_known_ones(fake_models: dict[str, str]) -> None:
    with pytest.raises(SaladError, match=r"is a llama model: known kinds: mimi, whisper .*logmel"):
        make_encoder(fake_models["lm"], torch.float32)


def test_a_pickled_mimi_is_refused(tmp_path: Path) -> None:
    folder = write_mimi(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SaladError, match=r"safetensors|pickled"):
        make_encoder(str(folder), torch.float32)


class Blocks:
    """The mean of every 20 ms and its size: keeps the contract. Below, what breaks it."""

    name, rate, frame_rate, width, window = "blocks", 8000, 50.0, 2, math.inf

    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        return [self.one(w) for w in waves]

    def one(self, wave: Wave) -> torch.Tensor:
        blocks = np.pad(wave, (0, -len(wave) % 160)).reshape(-1, 160)
        return torch.from_numpy(np.stack([blocks.mean(1), np.abs(blocks).mean(1)], axis=1).astype(np.float32))


class Narrow(Blocks):
    width = 3


class Slow(Blocks):
    frame_rate = 25.0


class Normalising(Blocks):
    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        loudest = max((np.abs(w).max() for w in waves if len(w)), default=1) or 1
        return [self.one(w / loudest) for w in waves]


class Sorting(Blocks):
    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        return super().encode(sorted(waves, key=len))


class Padding(Blocks):
    def encode(self, waves: list[Wave]) -> list[torch.Tensor]:
        longest = max(map(len, waves), default=0)
        return super().encode([np.pad(w, (0, longest - len(w))) for w in waves])


class Flooring(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return super().one(wave[: len(wave) // 160 * 160])


class Dividing(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        found = super().one(wave)
        return found / found[:, 1:]


class Inserting(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return super().one(wave if len(wave) else np.zeros(160, np.float32))


class Training(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return super().one(wave).requires_grad_()


class Overwriting(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        wave *= 0.5
        return super().one(wave)


class Random(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return super().one(wave) + torch.rand(1)


class Deaf(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return torch.ones_like(super().one(wave))


class Truncating(Blocks):
    def one(self, wave: Wave) -> torch.Tensor:
        return super().one(wave[: 30 * self.rate])


class TruncatingInItsWindow(Truncating):
    window = 30.0


class Windowless(Blocks):
    window = 0.0


BROKEN = {
    Narrow: "gives_frames_of_its_width_at_its_rate",
    Slow: "gives_frames_of_its_width_at_its_rate",
    Padding: "gives_frames_of_its_width_at_its_rate",
    Sorting: "gives_frames_of_its_width_at_its_rate",
    Normalising: "does_not_mind_the_company",
    Flooring: "takes_the_shortest_sounds",
    Dividing: "takes_the_shortest_sounds",
    Inserting: "gives_nothing_for_nothing",
    Training: "gives_finite_numbers_without_gradients",
    Overwriting: "leaves_the_waves_as_they_were",
    Random: "gives_the_same_again",
    Deaf: "hears_the_difference",
    Truncating: "refuses_what_its_window_cannot_hold",
    TruncatingInItsWindow: "refuses_what_its_window_cannot_hold",
    Windowless: "says_what_it_is",
}


def test_a_plain_encoder_keeps_the_contract() -> None:
    check_encoder(Blocks())


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_broken_encoders_are_found_out(kind: type[SpeechEncoder]) -> None:
    with pytest.raises(AssertionError, match=f"^{BROKEN[kind]}: "):
        check_encoder(kind())
