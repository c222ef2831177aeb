"""Samples of recordings: every utterance heard once but the last of its group, every range exact, nothing lost unnamed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.config import Config, load_config
from salad.pipeline.recordings import Recording, Unusable, Word
from salad.pipeline.script import spans_of
from salad.pipeline.utterances import OPEN_GROUPS, Sample, make_samples, windows

RATE = 8000
MAX_WORDS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    from tests.fakes import write_config

    natural = {"recordings": {"dataset": "nowhere"}}
    path = write_config(tmp_path_factory.mktemp("config"), {"lm": "a", "encoder": "b", "embedder": "c"}, natural=natural)
    return load_config(path, {"pool.max_words": MAX_WORDS, "pool.min_words": 4})


def tone(seconds: float, pitch: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def utterance(i: int, words: int = 3, group: str = "", seconds: float | None = None) -> Recording:
    text = " ".join(f"u{i}w{j}" for j in range(words))
    return Recording(f"key{i}", text, tone(seconds or 0.4 * words, 100 + i), RATE, None, group)


def samples_of(items: list[Recording | Unusable], config: Config) -> tuple[list[Sample], list[Unusable]]:
    found = list(make_samples(items, config))
    return [s for s in found if isinstance(s, Sample)], [u for u in found if isinstance(u, Unusable)]


def heard(sample: Sample) -> list[str]:
    return [sample.text[a:b].strip() for (a, b), _ in sample.spans]


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.integers(1, 15), min_size=1, max_size=12), groups=st.integers(1, 3))
def test_every_utterance_but_the_last_of_its_group_is_heard_once(config: Config, sizes: list[int], groups: int) -> None:
    """Groups take turns in the source: they are told apart all the same."""
    items = [utterance(i, n, str(i % groups)) for i, n in enumerate(sizes)]
    samples, refused = samples_of(list(items), config)
    times_heard = Counter(text for s in samples for text in heard(s))
    for g in range(groups):
        members = [r.text for r in items if r.group == str(g)]
        assert [times_heard[t] for t in members[:-1]] == [1] * (len(members) - 1)
        assert sum(times_heard[t] for t in members[-1:]) == 0
        assert [u.reason for u in refused if u.group == str(g)] == (["no neighbour to read"] if len(members) == 1 else [])
    for s in samples:
        of_group = [r.text for r in items if r.group == s.group]
        at = next(i for i, text in enumerate(of_group) if s.text.startswith(text))
        inside = of_group[at : at + 2 * len(s.spans)]
        assert s.text == " ".join(inside), "its texts follow each other in the group"
        assert heard(s) == inside[::2]
        assert len(s.text.split()) <= MAX_WORDS or len(inside) == 2
        assert s.spans[-1][0][1] < len(s.text), "something is read at the end"
        for (a, b), _ in s.spans:
            assert a == 0 or s.text[a] == " ", "the space before a span belongs to it"
            assert s.text[b] == " "


def test_sounds_are_those_of_the_ranges_resampled_and_without_their_silence(config: Config) -> None:
    silence = np.zeros(RATE // 2, np.float32)
    padded = [
        Recording(r.key, r.text, np.concatenate([silence, r.wave, silence]), RATE, None, "") for r in map(utterance, range(4))
    ]
    (first, second), refused = samples_of(list(padded), config)
    assert not refused
    for sample, numbers in ((first, (0, 2)), (second, (1,))):
        for i, (_, wave) in zip(numbers, sample.spans, strict=True):
            assert len(wave) / 16_000 == pytest.approx(1.3, abs=0.03), "the sound and 50 ms on either side"
            peak = np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave)
            assert peak == pytest.approx(100 + i, abs=1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (utterance(1, seconds=31), "span too long"),
        (utterance(1, seconds=0.1), "span too short"),
        (utterance(1, words=9, seconds=1), "too fast"),
        (Recording("key1", "one two", np.zeros(RATE, np.float32), RATE, None, ""), "silent"),
        (Unusable("key1", None, "", "no text"), "no text"),
    ],
)
def test_what_cannot_be_heard_parts_its_neighbours(config: Config, bad: Recording | Unusable, reason: str) -> None:
    samples, refused = samples_of([utterance(0), bad, utterance(2), utterance(3)], config)
    assert [(u.key, u.reason) for u in refused] == [("key0", "no neighbour to read"), ("key1", reason)]
    assert [heard(s) for s in samples] == [[utterance(2).text]]


def test_a_group_that_waits_too_long_is_closed(config: Config) -> None:
    """So memory is bounded by the open groups, however many speakers there are."""
    others = [utterance(i, group=f"g{i}") for i in range(10, 10 + OPEN_GROUPS)]
    samples, refused = samples_of([utterance(0, group="a"), *others, utterance(1, group="a")], config)
    assert not samples
    assert len(refused) == OPEN_GROUPS + 2


def test_a_repeated_sample_and_one_that_cannot_fit_are_named(config: Config) -> None:
    pair = [utterance(0, group="a"), utterance(1, group="a")]
    samples, refused = samples_of([*pair, Unusable("x", None, "a", "no text"), *pair], config)
    assert len(samples) == 1
    assert [u.reason for u in refused] == ["no text", "repeated"]
    small = config.model_copy(update={"interleave": config.interleave.model_copy(update={"max_positions": 16})})
    assert [u.reason for u in samples_of(list(pair), small)[1]] == ["too many positions"]


def test_ids_name_text_and_sound(config: Config) -> None:
    def first_id(wave: np.ndarray, text: str = "a b c") -> str:
        return samples_of([Recording("k", text, wave, RATE, None, ""), utterance(1)], config)[0][0].id

    ids = [first_id(tone(1, 100)), first_id(tone(1, 101)), first_id(tone(1, 100), "a b d")]
    assert len(set(ids)) == 3
    assert first_id(tone(1, 100)) == ids[0]


# -- by word times ---------------------------------------------------------------------------------------------


def timed(text: str, seconds_a_word: float = 0.4) -> Recording:
    """Word i is a tone of 100 + 10 i Hz."""
    words = [Word(w, i * seconds_a_word, (i + 1) * seconds_a_word) for i, w in enumerate(text.split())]
    wave = np.concatenate([tone(seconds_a_word, 100 + 10 * i) for i in range(len(words))])
    return Recording("talk", text, wave, RATE, tuple(words), "ann")


def test_a_timed_recording_is_interleaved_and_cut_at_its_words(config: Config) -> None:
    recording = timed(" ".join(f"w{i}" for i in range(10)))
    (sample,), refused = samples_of([recording], config)
    assert not refused
    assert (sample.timed, sample.text, sample.group) == (True, recording.text, "ann")
    words = recording.text.split()
    for (a, b), wave in sample.spans:
        inside = [words.index(w) for w in sample.text[a:b].split()]
        assert len(wave) / 16_000 == pytest.approx(0.4 * len(inside), abs=0.02)
        first = wave[:6400]
        assert np.abs(np.fft.rfft(first)).argmax() * 2.5 == pytest.approx(100 + 10 * inside[0], abs=3)
    assert sample.spans[-1][0][1] < len(sample.text)


def test_the_plan_is_the_samples_own(config: Config) -> None:
    """As for synthetic speech: by the seed and the sample's id, which names text and sound."""
    text = " ".join(f"w{i}" for i in range(12))
    samples = [samples_of([timed(text, seconds)], config)[0][0] for seconds in (0.3, 0.35, 0.4, 0.45, 0.5)]
    assert len({s.id for s in samples}) == len(samples)
    for s in samples:
        spans = spans_of(text, s.id, config)
        assert heard(s) == [text[x.char_start : x.char_end].strip() for x in spans if x.modality == "speech"]


def test_a_long_recording_falls_into_sentences(config: Config) -> None:
    text = "one two three four five six. Seven eight nine ten eleven. Twelve thirteen fourteen fifteen sixteen seventeen."
    samples, refused = samples_of([timed(text)], config)
    assert [s.text for s in samples] == [
        "one two three four five six.",
        "Seven eight nine ten eleven.",
        "Twelve thirteen fourteen fifteen sixteen seventeen.",
    ]
    assert [s.key for s in samples] == ["talk", "talk #1", "talk #2"]
    assert not refused
    all_words = text.split()
    for s in samples:
        (a, b), wave = s.spans[0]
        at = all_words.index(s.text[a:b].split()[0])
        assert np.abs(np.fft.rfft(wave[:6400])).argmax() * 2.5 == pytest.approx(100 + 10 * at, abs=3)


def test_times_of_other_words_are_refused(config: Config) -> None:
    recording = timed("one two three four five six")
    other = Recording("k", "what is said here is not that at all", recording.wave, RATE, recording.words, "ann")
    assert [u.reason for u in samples_of([other], config)[1]] == ["words are not the transcript's"]
    assert [u.reason for u in samples_of([timed("one")], config)[1]] == ["too short"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b,", "c.", 'd."', "“E", "F?", "(g)", ";", "9."]), min_size=1, max_size=80))
def test_windows_hold_every_word_once_and_in_order(words: list[str]) -> None:
    text = " ".join(words)
    found = windows(text, 4, MAX_WORDS)
    assert " ".join(text[a:b] for a, b in found) == text
    assert all(len(text[a:b].split()) <= MAX_WORDS for a, b in found)
