"""An engine by its name, and how fast its voice speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from salad.errors import SaladError
from salad.tts.base import SpeakingRate, fit_rate, make_engine
from tests import fakes

MODELLED = """
from salad.tts.base import VoiceInfo


class Modelled:
    def __init__(self, model="none"):
        self.model = model

    def voices(self):
        return [VoiceInfo(self.model, 8000)]
"""
TONES = f"{fakes.__file__}:ToneEngine"


def spoken(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, characters) of texts as the tone engine says them."""
    sounds = fakes.ToneEngine().synthesize(["a" * n for n in lengths], "tone")
    return np.array([s.seconds for s in sounds]), np.array(lengths, dtype=np.float64)


def test_the_rate_of_a_voice_is_found() -> None:
    rate = fit_rate(*spoken(5, 10, 20, 40, 80), "tones")
    assert (rate.per_span, rate.per_char) == (pytest.approx(0.2, abs=1e-3), pytest.approx(0.06, rel=0.01))
    assert SpeakingRate(0.2, 0.06).seconds(10) == pytest.approx(0.8)


def test_spans_of_one_length_have_no_slope() -> None:
    rate = fit_rate(*spoken(10, 10, 12), "tones")
    assert rate.per_span == 0
    assert rate.seconds(10) == pytest.approx(0.8, rel=0.05)


def test_no_estimate_is_nothing() -> None:
    assert SpeakingRate(-0.5, 0.06).seconds(1) == 0.1


@pytest.mark.parametrize("seconds", [[2.0, 2.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
def test_a_voice_that_does_not_speak_longer_is_refused(seconds: list[float]) -> None:
    with pytest.raises(SaladError, match="voice 'stuck' does not speak longer for longer text"):
        fit_rate(np.array(seconds), np.array([1.0, 50.0, 20.0]), "voice 'stuck'")


def test_an_engine_is_found_by_name() -> None:
    assert isinstance(make_engine(TONES, "tone").synthesize(["a"], "tone")[0].wave, np.ndarray)
    with pytest.raises(SaladError, match="unknown engine 'hibar'; did you mean 'hibari'"):
        make_engine("hibar", "heart")


def test_an_unknown_voice_is_refused_with_those_there_are() -> None:
    with pytest.raises(SaladError, match=r"has no voice 'tome'; did you mean 'tone'.*known: tone"):
        make_engine(TONES, "tome")


def test_a_model_is_handed_to_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "modelled.py"
    file.write_text(MODELLED, encoding="utf-8")
    engine = f"{file}:Modelled"
    assert make_engine(engine, "none").voices()[0].name == "none"
    assert make_engine(engine, "big", "big").voices()[0].name == "big"
    with pytest.raises(SaladError, match="with model big has no voice 'none'"):
        make_engine(engine, "none", "big")


def test_a_model_for_an_engine_that_takes_none() -> None:
    with pytest.raises(SaladError, match=r"cannot be made with model x .* leave the model out"):
        make_engine(f"{fakes.__file__}:ToneEngine", "tone", "x")
