"""The Coqui engine with small untrained checkpoints: what it says means nothing, when and how it says it must be right."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad.errors import SaladError
from salad.tts.base import Speech, make_engine
from salad.tts.coqui import CoquiEngine
from salad.tts.coqui_models import FrontEnd
from tests.tts.tiny_vits import HOP, RATE, SPEAKERS, write_model, write_vits

if importlib.util.find_spec("TTS") is None:
    pytest.skip("needs coqui-tts: pip install 'salad-speech[coqui]'", allow_module_level=True)

TEXTS = [
    "Hello there, my good friend.",
    "A much longer text, of words that go on and on, until at last it comes to its end.",
    "no",
    "The middle one of these.",
]
CONFIG = {"model": "vits", "audio": {"sample_rate": RATE}, "model_args": {}}


def folder_of(path: Path, config: dict[str, Any], *checkpoints: str) -> Path:
    """A model's folder that is never loaded."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    for name in checkpoints:
        (path / name).write_bytes(b"")
    return path


# --- Quick: nothing is loaded ---


def test_making_an_engine_and_its_voices_import_neither_torch_nor_tts(tmp_path: Path) -> None:
    args = {"use_speaker_embedding": True}
    folder = folder_of(tmp_path / "model", CONFIG | {"speakers": SPEAKERS, "model_args": args}, "best_model.pth")
    code = f"""
import sys
from salad.tts.coqui import CoquiEngine
print([v.name for v in CoquiEngine({str(folder)!r}).voices()], sorted({{"torch", "TTS", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{SPEAKERS} []"


def test_one_speaker_is_called_default(tmp_path: Path) -> None:
    (voice,) = CoquiEngine(str(folder_of(tmp_path, CONFIG, "model.pth"))).voices()
    assert (voice.name, voice.rate, voice.language, voice.licence) == ("default", RATE, "en", "unknown")


def test_speakers_come_from_the_files_beside_a_config_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "speakers.json").write_text(json.dumps({"zoe": 0, "adam": 1}))
    embedded = CONFIG | {"model_args": {"use_speaker_embedding": True, "speakers_file": "/elsewhere/speakers.json"}}
    assert [v.name for v in CoquiEngine(str(folder_of(tmp_path, embedded, "model.pth"))).voices()] == ["zoe", "adam"]

    (tmp_path / "vectors.json").write_text(
        json.dumps({"1.wav": {"name": "zoe"}, "2.wav": {"name": "adam"}, "3.wav": {"name": "zoe"}})
    )
    vectors = CONFIG | {"model_args": {"use_d_vector_file": True, "d_vector_file": ["/elsewhere/vectors.json"]}}
    assert [v.name for v in CoquiEngine(str(folder_of(tmp_path, vectors, "model.pth"))).voices()] == ["adam", "zoe"]


def test_a_listed_model_tells_its_licence_and_no_voices_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    name = "tts_models/en/vctk/vits"
    assert make_engine("coqui", "p225", name).voices() == []
    fetched = tmp_path / "tts" / name.replace("/", "--")
    fetched.mkdir(parents=True)
    folder_of(fetched, CONFIG | {"speakers": ["p225"], "model_args": {"use_speaker_embedding": True}}, "model_file.pth")
    (voice,) = make_engine("coqui", "p225", name).voices()
    assert (voice.name, voice.licence) == ("p225", "apache 2.0")


def test_xtts_is_not_fetched_before_its_licence_is_agreed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("COQUI_TOS_AGREED", raising=False)
    with pytest.raises(SaladError, match=r"non-commercial.*COQUI_TOS_AGREED=1"):
        CoquiEngine("tts_models/multilingual/multi-dataset/xtts_v2")
    monkeypatch.setenv("COQUI_TOS_AGREED", "1")
    assert CoquiEngine("tts_models/multilingual/multi-dataset/xtts_v2").voices() == []


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "TTS", None)
    with pytest.raises(SaladError, match=r"pip install 'salad-speech\[coqui\]'"):
        CoquiEngine("tts_models/en/vctk/vits")


def test_a_model_has_to_be_named() -> None:
    with pytest.raises(SaladError, match=r"name one: tts_models/en/vctk/vits, or a local folder"):
        CoquiEngine()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tts_models/en/vctk/vit", "did you mean 'tts_models/en/vctk/vits'"),
        ("no/such/folder", "no local folder or file"),
    ],
)
def test_a_model_that_is_nowhere(model: str, message: str) -> None:
    with pytest.raises(SaladError, match=message):
        CoquiEngine(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{'model': ", "is not the config.json of a Coqui model"),
        ("[1, 2]", "is not the config.json of a Coqui model"),
        ('{"hidden_size": 576}', "is not the config.json of a Coqui model"),
        (json.dumps(CONFIG | {"audio": {"sample_rate": RATE, "stats_path": "scale_stats.npy"}}), "scale_stats.npy is a pickle"),
        (json.dumps(CONFIG | {"model": "bark"}), "opens its checkpoints as pickles"),
        (json.dumps(CONFIG | {"characters": {"characters_class": "os.system"}}), "os.system is not of TTS"),
    ],
)
def test_a_config_that_is_missing_broken_or_would_run_a_program(config: str | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(SaladError, match=message):
        CoquiEngine(str(tmp_path))


def test_a_folder_has_one_checkpoint_or_one_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(SaladError, match=r"no checkpoint in"):
        CoquiEngine(str(folder_of(tmp_path, CONFIG, "speakers.pth")))
    folder_of(tmp_path, CONFIG, "checkpoint_1.pth", "checkpoint_2.pth")
    with pytest.raises(SaladError, match=r"2 checkpoints in .*name one of them, such as .*checkpoint_1.pth"):
        CoquiEngine(str(tmp_path))
    assert CoquiEngine(str(tmp_path / "checkpoint_2.pth")).voices()
    folder_of(tmp_path, CONFIG, "best_model.pth")
    assert CoquiEngine(str(tmp_path)).voices()


def test_a_broken_speakers_file_is_named(tmp_path: Path) -> None:
    args = {"use_speaker_embedding": True, "speakers_file": "gone.json"}
    engine = CoquiEngine(str(folder_of(tmp_path, CONFIG | {"model_args": args}, "model.pth")))
    with pytest.raises(SaladError, match=r"the speakers of .* cannot be read"):
        engine.voices()


class Plain:
    """A tokenizer that reads "of the" as one word, digits by name, and stresses the first word."""

    phonemizer, add_blank, use_eos_bos = None, False, False

    @staticmethod
    def text_cleaner(text: str, lang: str) -> str:
        text = text.replace("of the", "ofthe").replace("12", "twelve").replace("-", " ").replace("a dog", "uh dog")
        return "ˈ" + text if text else ""


def pieces(text: str) -> list[tuple[str, str]] | None:
    words, front = text.split(), FrontEnd(Plain(), "en")
    groups = Plain.text_cleaner(text, "en").split()
    pairs = front.align(words, groups)
    return None if pairs is None else [(" ".join(words[i] for i in w), " ".join(groups[i] for i in g)) for w, g in pairs]


def test_words_are_found_among_symbols_that_a_front_end_joined_split_or_changed() -> None:
    assert pieces("we see ships") == [("we", "ˈwe"), ("see", "see"), ("ships", "ships")]
    assert pieces("12 of the well-known ships") == [
        ("12", "ˈtwelve"),
        ("of the", "ofthe"),
        ("well-known", "well known"),
        ("ships", "ships"),
    ]
    assert pieces("12 see a dog") == [("12", "ˈtwelve"), ("see", "see"), ("a", "uh"), ("dog", "dog")]
    assert FrontEnd(Plain(), "en").align(["12", "ships"], ["elf", "ships"]) is None


# --- Slow: TTS is imported (4 s) and speaks ---


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from salad.tts.coqui_stubs import quiet, without_torchaudio

    root = tmp_path_factory.mktemp("coqui")
    still = {"inference_noise_scale": 0.0, "inference_noise_scale_dp": 0.0}
    with without_torchaudio(), quiet():
        return {
            "one": write_vits(root / "one"),
            "three": write_vits(root / "three", 3),
            "vectors": write_vits(root / "vectors", 3, d_vectors=True),
            "still": write_vits(root / "still", 3, **still),
            "no blanks": write_vits(root / "no_blanks", add_blank=False),
        }


@pytest.fixture(params=["one", "three", "vectors", "no blanks"])
def any_model(request: pytest.FixtureRequest, models: dict[str, Path]) -> tuple[CoquiEngine, str]:
    engine = CoquiEngine(str(models[request.param]))
    return engine, engine.voices()[-1].name


@pytest.mark.slow
def test_every_text_has_its_own_sound(any_model: tuple[CoquiEngine, str]) -> None:
    engine, voice = any_model
    sounds = engine.synthesize(TEXTS, voice)
    assert all(s.wave.dtype == np.float32 and s.wave.ndim == 1 and s.rate == RATE for s in sounds)
    assert all(0.01 < np.abs(s.wave).max() <= 1 for s in sounds)
    assert sounds[2].seconds < min(sounds[0].seconds, sounds[3].seconds) < sounds[1].seconds / 2  # as long as the texts


@pytest.mark.slow
def test_word_times_are_exact(any_model: tuple[CoquiEngine, str]) -> None:
    """Against VITS itself: its durations, symbol by symbol, make up the whole sound, and the words their part of it."""
    import torch

    engine, voice = any_model
    text = "Hello there, my good friend."
    with torch.random.fork_rng(devices=[]):
        (speech,) = engine.synthesize([text], voice)
        model = engine._say._model  # type: ignore[attr-defined]
        spy = Spy(model.inference)
        model.inference = spy
        engine.synthesize([text], voice)
    frames = spy.out["durations"][0, 0].tolist()
    assert sum(frames) * HOP == len(speech.wave)
    assert len(frames) == (2 * len(text) + 1 if model.tokenizer.add_blank else len(text))

    seconds = [HOP / RATE * sum(frames[:i]) for i in range(len(frames) + 1)]
    places = [i if not model.tokenizer.add_blank else 2 * i for i in range(len(text) + 1)]  # of a character and its blank
    blank = int(model.tokenizer.add_blank)
    letters = [(0, 5), (6, 11), (13, 15), (16, 20), (21, 27)]  # without punctuation
    assert speech.words is not None
    assert [text[w.char_start : w.char_end] for w in speech.words] == ["Hello", "there,", "my", "good", "friend."]
    for word, (first, last) in zip(speech.words, letters, strict=True):
        assert word.start == pytest.approx(seconds[places[first]])
        assert word.end == pytest.approx(seconds[places[last] + blank])


class Spy:
    """Remembers what a function returned."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.out: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.out = self._function(*args, **kwargs)
        return self.out


@pytest.mark.slow
def test_a_batch_sounds_as_its_texts_alone_and_as_tts_itself(models: dict[str, Path]) -> None:
    import torch

    engine = CoquiEngine(str(models["still"]))
    together = engine.synthesize(TEXTS, "bert")
    alone = [engine.synthesize([text], "bert")[0] for text in TEXTS]
    model = engine._say._model  # type: ignore[attr-defined]
    model.max_inference_len = None
    for text, one, many in zip(TEXTS, alone, together, strict=True):
        np.testing.assert_allclose(one.wave, many.wave, atol=1e-6)
        assert one.words == many.words
        ids = torch.tensor([model.tokenizer.text_to_ids(text, language="en")])
        whole = model.inference(ids, {"x_lengths": torch.tensor([ids.shape[1]]), "speaker_ids": torch.tensor([1])})
        np.testing.assert_allclose(one.wave, whole["model_outputs"][0, 0].numpy(), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three", "vectors"])
def test_speakers_differ(name: str, models: dict[str, Path]) -> None:
    engine = CoquiEngine(str(models[name]))
    anna, bert = (engine.synthesize(TEXTS[:1], voice)[0].wave for voice in SPEAKERS[:2])
    assert anna.shape != bert.shape or np.abs(anna - bert).max() > 0.01
    with pytest.raises(SaladError, match=r"has no voice 'annna'; did you mean 'anna'.*known: anna, bert, carla"):
        engine.synthesize(TEXTS, "annna")


@pytest.mark.slow
def test_the_same_texts_give_the_same_samples_and_leave_all_draws_and_threads_alone(models: dict[str, Path]) -> None:
    import torch

    threads = torch.get_num_threads()
    first = CoquiEngine(str(models["one"])).synthesize(TEXTS, "default")
    torch.manual_seed(5)
    np.random.seed(5)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    second = CoquiEngine(str(models["one"])).synthesize(TEXTS, "default")
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.get_num_threads() == threads
    assert all(np.array_equal(a.wave, b.wave) and a.words == b.words for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_what_cannot_be_read_is_empty_and_stops_nobody(models: dict[str, Path]) -> None:
    engine = CoquiEngine(str(models["one"]))
    texts = ["", "☃", "... -- !", "7" * 5000, "a", "Fine."]
    assert [len(s.wave) > 0 for s in engine.synthesize(texts, "default")] == [False, False, False, False, True, True]


@pytest.mark.slow
def test_brackets_are_no_markup(models: dict[str, Path]) -> None:
    """espeak would say phonemes in double brackets, XTTS take [STOP] for its own."""
    engine = CoquiEngine(str(models["one"]))
    engine.synthesize(["Hello."], "default")
    spy = Spy(engine._say)
    engine.__dict__["_say"] = lambda texts, speaker: spy(seen.extend(texts) or texts, speaker)
    seen: list[str] = []
    (speech,) = engine.synthesize(["one [[tu:]] [STOP]"], "default")
    assert seen == ["one   tu:    STOP "]
    assert speech.words is not None
    assert [(w.char_start, w.char_end) for w in speech.words] == [(0, 3), (6, 9), (13, 17)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=3))
def test_any_text_is_only_text(engine_of_three: CoquiEngine, texts: list[str]) -> None:
    sounds = engine_of_three.synthesize(texts, "carla")
    assert len(sounds) == len(texts)
    for text, speech in zip(texts, sounds, strict=True):
        check_words(text, speech)
        again = engine_of_three.synthesize([text], "carla")[0]
        assert (len(again.wave) == 0) == (len(speech.wave) == 0)


@pytest.fixture(scope="session")
def engine_of_three(models: dict[str, Path]) -> CoquiEngine:
    return CoquiEngine(str(models["three"]))


def check_words(text: str, speech: Speech) -> None:
    """Words follow one another, in the text and in the sound."""
    chars, at = 0, 0.0
    assert speech.words is not None
    for word in speech.words:
        assert chars <= word.char_start < word.char_end <= len(text)
        assert at <= word.start < word.end <= speech.seconds + 1e-6
        chars, at = word.char_end, word.end


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_checkpoint_is_not_run(zipped: bool, models: dict[str, Path], tmp_path: Path) -> None:
    import torch

    config = json.loads((models["one"] / "config.json").read_text())
    folder_of(tmp_path, config)
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(SaladError, match=r"cannot be loaded .*Weights only load failed"):
        CoquiEngine(str(tmp_path)).synthesize(["Hello."], "default")
    assert not (tmp_path / "boom").exists()
    speakers = config["model_args"] | {"use_speaker_embedding": True, "speakers_file": "model.pth"}
    engine = CoquiEngine(str(folder_of(tmp_path, config | {"model_args": speakers})))
    with pytest.raises(SaladError, match=r"speakers of .* cannot be read"):
        engine.voices()
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / "model.pth", weights_only=False)  # the bomb is one
    assert (tmp_path / "boom").exists()


@pytest.mark.slow
def test_a_checkpoint_that_is_cut_off_or_another_models(models: dict[str, Path], tmp_path: Path) -> None:
    whole = (models["one"] / "model.pth").read_bytes()
    folder_of(tmp_path, json.loads((models["one"] / "config.json").read_text()))
    for data in (b"", whole[: len(whole) // 2], (models["three"] / "model.pth").read_bytes()):
        (tmp_path / "model.pth").write_bytes(data)
        with pytest.raises(SaladError, match=r"model.pth cannot be loaded"):
            CoquiEngine(str(tmp_path)).synthesize(["Hello."], "default")


@pytest.mark.slow
def test_it_is_silent_and_leaves_no_trace_of_torchaudio(models: dict[str, Path]) -> None:
    """In a process of its own: nothing on stdout or stderr, and what is imported afterwards finds the truth."""
    code = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from salad.tts.coqui import CoquiEngine
engine = CoquiEngine({str(models["three"])!r})
assert len(engine.synthesize(["Hello there.", "☃ A word."], "anna")) == 2
import importlib.util, transformers.utils, datasets.config, sentence_transformers
from transformers import WhisperFeatureExtractor
there = [importlib.util.find_spec(n) is not None for n in ("torchaudio", "torchcodec")]
assert [transformers.utils.is_torchaudio_available(), transformers.utils.is_torchcodec_available()] == there
assert datasets.config.TORCHCODEC_AVAILABLE == there[1]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "TTS" in line or "trainer" in line or "Warning" in line]
    assert said == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is not None, reason="torchaudio is here: no stand-ins are needed")
def test_a_stand_in_says_what_is_missing() -> None:
    from salad.tts.coqui_stubs import without_torchaudio

    with without_torchaudio():
        import torchaudio
    assert "torchaudio" not in sys.modules
    with pytest.raises(ImportError, match=r"this needs torchaudio.load, and torchaudio is not installed"):
        torchaudio.load("voice.wav")
    with pytest.raises(ImportError, match=r"torchaudio is not installed"):
        torchaudio.transforms.MelSpectrogram(sample_rate=RATE)(np.zeros(RATE))


@pytest.mark.slow
def test_other_models_speak_one_text_at_a_time(tmp_path: Path) -> None:
    from salad.tts.coqui_stubs import quiet, without_torchaudio

    with without_torchaudio(), quiet():
        from TTS.tts.configs.glow_tts_config import GlowTTSConfig
        from TTS.tts.models.glow_tts import GlowTTS

        config = GlowTTSConfig(use_phonemes=False, text_cleaner="english_cleaners")
        config.model_args.hidden_channels_enc = config.model_args.hidden_channels_dec = 32
        config.model_args.num_flow_blocks_dec = 2
        write_model(tmp_path, GlowTTS, config)
    engine = CoquiEngine(str(tmp_path))
    texts = ["Hello there, my friend.", "☃", "a", "Good day to you."]  # its network fails on a single letter
    sounds = engine.synthesize(texts, "default")
    assert [len(s.wave) > 0 for s in sounds] == [True, False, False, True]
    assert all(s.words is None and np.abs(s.wave).max(initial=0) <= 1 for s in sounds)
    assert np.array_equal(engine.synthesize(texts[3:], "default")[0].wave, sounds[3].wave)  # whatever it was said beside
    with pytest.raises(RuntimeError):
        engine.synthesize(["a"], "default")


@pytest.mark.slow
def test_constructing_is_quick(models: dict[str, Path]) -> None:
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert CoquiEngine(str(models["vectors"])).voices()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.5
