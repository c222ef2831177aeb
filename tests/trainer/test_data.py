"""From a spoken text to a batch and back: every position where the text says it is, and files that are what they claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from salad.errors import SaladError
from salad.trainer.data import Example, Targets, Utterance, collate, load_examples, prepare
from salad.trainer.interleave import plan_spans
from salad.trainer.student import Student, StudentConfig, load_lm, new_student
from tests.fakes import WORDS

STACK, WIDTH = 4, 6
HEARINGS = ("speech", "text", "nothing")


class Ears:
    """Frame i of a sound is filled with i + 1 and the sound's first sample: 50 frames a second."""

    name, rate, frame_rate, width = "ears", 16_000, 50.0, WIDTH

    def encode(self, waves: list[np.ndarray]) -> list[torch.Tensor]:
        return [torch.stack([torch.full((WIDTH,), i + 1.0 + float(w[0])) for i in range(math.ceil(len(w) / 320))]) for w in waves]


@pytest.fixture(scope="module")
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


@pytest.fixture(scope="module")
def tokenizer(fake_models: dict[str, str]) -> Any:
    return AutoTokenizer.from_pretrained(fake_models["lm"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("prepared")
    return (base / str(i) for i in count())


def utterance(name: str, text: str, seed: int, samples: list[int]) -> Utterance:
    spans = plan_spans(text, name, seed, (1, 4), (1, 5))
    spoken = [(s.char_start, s.char_end) for s in spans if s.modality == "speech"]
    waves = [np.full(samples[i % len(samples)], i / 100, np.float32) for i in range(len(spoken))]
    return Utterance(name, text, spoken, waves, 16_000)


FEW = [utterance(f"t{i}", text, 3, [900, 4000, 1]) for i, text in enumerate(WORDS.values())]
LAST_WORDS = st.lists(
    st.sampled_from([*" ".join(WORDS.values()).split(), "naïve", "日本", "x", "co-op's"]), min_size=1, max_size=14
)
UTTERANCES = st.lists(
    st.tuples(LAST_WORDS, st.integers(0, 99), st.lists(st.integers(1, 9000), min_size=1, max_size=4)), min_size=1, max_size=4
).map(lambda drawn: [utterance(f"u{i}", " ".join(words), seed, n) for i, (words, seed, n) in enumerate(drawn)])


def walk(u: Utterance, tokenizer: Any, hearing: str) -> tuple[list[tuple[str, int]], list[int]]:
    """By hand: what the student meets, ("token", its number in w) or ("frame", 1000 · the number of its sound + its own),
    and the numbers of the tokens that are predicted."""
    encoded = tokenizer(u.text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    met, predicted, done = [("token", 0)], [], 0
    for i, span in enumerate(u.spans()):
        here = [j + 1 for j, end in enumerate(ends) if span.char_start < end <= span.char_end]
        assert here == list(range(done + 1, done + 1 + len(here)))
        done += len(here)
        if span.modality == "text":
            predicted += here
        if span.modality == "text" or hearing == "text":
            met += [("token", j) for j in here]
        elif hearing == "speech":
            sound = [s.modality for s in u.spans()[:i]].count("speech")
            n = math.ceil(math.ceil(len(u.waves[sound]) / 320) / STACK)
            met += [("frame", 1000 * sound + j) for j in range(n)]
    return met, predicted


@settings(max_examples=30, deadline=None)
@given(UTTERANCES)
def test_every_position_is_where_the_text_says(folders: Any, teacher: Any, tokenizer: Any, utterances: list[Utterance]) -> None:
    out = next(folders)
    prepare(utterances, out, Ears(), teacher, tokenizer, 512, STACK)
    examples = load_examples(out)
    with torch.inference_mode():
        read = [teacher.get_decoder()(input_ids=torch.from_numpy(e.tokens)[None].long()).last_hidden_state[0] for e in examples]
    for hearing in HEARINGS:
        batch = collate(examples, STACK, hearing)
        rows, length = batch["token_ids"].shape
        frames = torch.full((rows * length,), -1)
        frames[batch["frame_at"]] = batch["frame_from"]
        at = sounds = 0
        longest = batch["frames"].shape[1] // STACK if batch["frames"] is not None else 0
        for b, (u, e) in enumerate(zip(utterances, examples, strict=True)):
            met, predicted = walk(u, tokenizer, hearing)
            mine = batch["owner"] == b
            assert batch["labels"][mine].tolist() == e.tokens[predicted].tolist()
            assert torch.allclose(
                batch["teacher"][mine].float(), read[b][torch.tensor(predicted, dtype=torch.long) - 1], atol=0.03
            )
            # the student predicts a token from the position before that token
            place = {what: i for i, what in enumerate(met)}
            assert batch["loss_at"][mine].tolist() == [b * length + place["token", j] - 1 for j in predicted]
            held = [(b, i) for i, (what, j) in enumerate(met) if what == "token" and i < e.positions(STACK, hearing)]
            assert [int(batch["token_ids"][p]) for p in held] == [int(e.tokens[j]) for what, j in met if what == "token"][
                : len(held)
            ]
            assert len(met) - e.positions(STACK, hearing) == (met[-1] == ("token", predicted[-1]) if predicted else 0)
            assert e.positions(STACK, hearing) <= e.length(STACK)
            for i, (what, j) in enumerate(met):
                if what == "frame":
                    assert frames[b * length + i] == (sounds + j // 1000) * longest + j % 1000
            sounds += len(u.waves)
            at += len(predicted)
        assert len(batch["loss_at"]) == at
        assert length == max(e.positions(STACK, hearing) for e in examples)
        assert len(batch["frame_at"]) == int((frames >= 0).sum()), "no two frames in one place"


def test_features_are_in_the_positions_they_are_said_to_be_in(folders: Any, teacher: Any, tokenizer: Any) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    batch = collate(load_examples(out), STACK)
    sounds = [w for u in FEW for w in u.waves]
    assert batch["frames"].shape == (len(sounds), 16, WIDTH)  # 4000 samples are 13 frames, four positions
    for row, wave in zip(batch["frames"], sounds, strict=True):
        n = math.ceil(len(wave) / 320)
        assert torch.allclose(row[:n, 0], torch.arange(1, n + 1) + float(wave[0]), atol=0.02)
        assert (row[n:] == 0).all()


def student_of(teacher: Any) -> Student:
    config = StudentConfig(
        lm="tiny", encoder_width=WIDTH, encoder_frame_rate=50.0, layers=1, width=16, mlp=32, heads=2, kv_heads=1
    )
    return new_student(config, teacher, seed=3).eval()


@pytest.mark.parametrize("hearing", HEARINGS)
def test_the_last_token_is_left_out_and_changes_no_state(folders: Any, teacher: Any, tokenizer: Any, hearing: Any) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    for e in load_examples(out):
        batch = collate([e], STACK, hearing)
        longer = {**batch, "token_ids": torch.cat([batch["token_ids"], torch.tensor([[int(e.tokens[-1])]])], 1)}
        with torch.inference_mode():
            a, b = (student_of(teacher).states_at_loss(x) for x in (batch, longer))
        assert torch.allclose(a, b, atol=1e-5)
        assert batch["loss_at"][-1] == batch["token_ids"].shape[1] - 1


@pytest.mark.parametrize("hearing", HEARINGS)
def test_what_the_teacher_would_read_predicts_the_same(folders: Any, teacher: Any, tokenizer: Any, hearing: Any) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    batch = collate(load_examples(out), STACK, hearing)
    with torch.inference_mode():
        states = teacher.get_decoder()(input_ids=batch["teacher_ids"]).last_hidden_state
    found = states.reshape(-1, states.shape[-1])[batch["teacher_at"]]
    assert torch.allclose(found, batch["teacher"].float(), atol=0.03)


def test_kept_tokens_come_back_as_they_were_drawn(folders: Any, teacher: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"targets": "top_k", "k": 8, "temperature": 2.0}
    a, b, c, d = (next(folders) for _ in range(4))
    meta = prepare(FEW, a, Ears(), teacher, tokenizer, 512, STACK, seed=5, **options)
    prepare(list(reversed(FEW)), b, Ears(), teacher, tokenizer, 512, STACK, seed=5, chunk=1, **options)
    prepare(FEW, c, Ears(), teacher, tokenizer, 512, STACK, seed=6, **options)
    prepare(FEW, d, Ears(), teacher, tokenizer, 512, STACK)
    raw = np.load(a / "targets.npy", mmap_mode="r", allow_pickle=False)
    assert (raw.dtype.itemsize, len(raw)) == (4 * 8 + 4, meta["text_positions"])
    batch, states = collate(load_examples(a), STACK), collate(load_examples(d), STACK)["teacher"].float()
    assert batch["targets"] == Targets("top_k", 2.0, teacher.config.vocab_size)
    log_q = torch.log_softmax(states @ teacher.get_output_embeddings().weight.T / 2, -1)
    assert torch.allclose(batch["kept_log_q"], log_q.gather(1, batch["kept_ids"]), atol=0.1)  # the states are in bfloat16
    other_order = collate(load_examples(b)[::-1], STACK)
    assert (other_order["kept_ids"] == batch["kept_ids"]).float().mean() > 0.99, "by text id and place, not by order"
    other_seed = collate(load_examples(c), STACK)
    assert 0 < (other_seed["kept_ids"] == batch["kept_ids"]).float().mean() < 0.99


def test_nothing_is_kept_and_no_teacher_runs(folders: Any, teacher: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(teacher), "get_decoder", lambda self: pytest.fail("the teacher was asked"))
    out = next(folders)
    meta = prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK, targets="none")
    assert not (out / "targets.npy").exists()
    batch = collate(load_examples(out), STACK)
    assert len(batch["labels"]) == meta["text_positions"]
    assert not {"teacher", "kept_ids"} & set(batch)


def test_features_and_targets_stay_on_disk(folders: Any, teacher: Any, tokenizer: Any) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    for e in load_examples(out):
        for array in (*e.frames, e.targets):
            base = array
            while isinstance(base, np.ndarray) and base.base is not None:
                base = base.base
            assert type(base).__name__ == "mmap"


def test_a_folder_without_a_text_or_without_a_text_position(folders: Any, teacher: Any, tokenizer: Any) -> None:
    for targets in ("states", "top_k", "none"):
        out = next(folders)
        assert prepare([], out, Ears(), teacher, tokenizer, 512, STACK, targets=targets)["examples"] == 0
        assert load_examples(out) == []
        out = next(folders)
        heard = Utterance("heard", "only heard", [(0, 10)], [np.zeros(400, np.float32)], 16_000)
        assert prepare([heard], out, Ears(), teacher, tokenizer, 512, STACK, targets=targets)["text_positions"] == 0
        batch = collate(load_examples(out), STACK)
        assert batch["loss_at"].shape == (0,)
        assert batch["token_ids"].shape == (1, 2)


def test_texts_prepared_in_two_ways_are_not_mixed(folders: Any, teacher: Any, tokenizer: Any) -> None:
    a, b = next(folders), next(folders)
    prepare(FEW[:1], a, Ears(), teacher, tokenizer, 512, STACK)
    prepare(FEW[1:], b, Ears(), teacher, tokenizer, 512, STACK, targets="top_k")
    with pytest.raises(SaladError, match=r"different ways \(states at temperature 1, top_k at temperature 1\).*t0"):
        collate([*load_examples(a), *load_examples(b)], STACK)


# -- bad input -------------------------------------------------------------------------------------------------


def sounding(*waves: np.ndarray, text: str = "a b c d", spoken: list[tuple[int, int]] | None = None) -> Utterance:
    return Utterance("odd", text, [(0, 1), (3, 5)][: len(waves)] if spoken is None else spoken, list(waves), 16_000)


SECOND = np.zeros(16_000, np.float32)
BAD_SOUNDS: dict[str, tuple[Utterance, str]] = {
    "empty": (sounding(SECOND[:0]), "odd: the sound of its characters 0 to 1 is empty"),
    "not a number": (sounding(SECOND, np.full(99, np.nan, np.float32)), "odd: the sound of its characters 3 to 5 is not finite"),
    "infinite": (sounding(np.full(99, np.inf, np.float32)), "not finite"),
    "two channels": (sounding(np.zeros((99, 2), np.float32)), "not mono"),
    "one too few": (sounding(SECOND, spoken=[(0, 1), (3, 5)]), "its 1 sounds are not those of its spans"),
    "beyond the text": (sounding(SECOND, spoken=[(0, 99)]), "not those of its spans"),
    "overlapping": (sounding(SECOND, SECOND, spoken=[(0, 4), (3, 5)]), "not those of its spans"),
}


@pytest.mark.parametrize("what", BAD_SOUNDS)
def test_a_bad_sound_names_its_text(folders: Any, teacher: Any, tokenizer: Any, what: str) -> None:
    bad, message = BAD_SOUNDS[what]
    with pytest.raises(SaladError, match=message):
        prepare([FEW[0], bad], next(folders), Ears(), teacher, tokenizer, 512, STACK)


def test_a_sound_shorter_than_a_frame_is_one_position(folders: Any, teacher: Any, tokenizer: Any) -> None:
    class WholeFrames(Ears):
        def encode(self, waves: list[np.ndarray]) -> list[torch.Tensor]:
            return [torch.ones(len(w) // 320, WIDTH) for w in waves]

    out = next(folders)
    prepare([sounding(SECOND[:1]), sounding(SECOND[:319])], out, WholeFrames(), teacher, tokenizer, 512, STACK)
    assert [len(e.view(STACK).frame_at[0]) for e in load_examples(out)] == [1, 1]


def test_features_that_float16_cannot_hold_are_refused(folders: Any, teacher: Any, tokenizer: Any) -> None:
    class Loud(Ears):
        def encode(self, waves: list[np.ndarray]) -> list[torch.Tensor]:
            return [f * 1e6 for f in super().encode(waves)]

    with pytest.raises(SaladError, match=r"ears gives no finite features for .* text odd"):
        prepare([sounding(SECOND)], next(folders), Loud(), teacher, tokenizer, 512, STACK)


class Odd:
    """A tokenizer with one thing wrong."""

    bos_token_id, eos_token_id = 0, 0

    def __init__(self, ids: list[int], offsets: list[tuple[int, int]] | None) -> None:
        self.ids, self.offsets = ids, offsets

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        if self.offsets is None:
            raise NotImplementedError("return_offset_mapping is not available when using Python tokenizers")
        return {"input_ids": self.ids, "offset_mapping": self.offsets}


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (Odd([5], None), "the tokenizer Odd does not say where .* fast tokenizer"),
        (Odd([5, 6], [(0, 3)]), "places of its tokens in text odd"),
        (Odd([5, 6], [(3, 7), (0, 3)]), "places of its tokens in text odd"),
        (Odd([5, 6], [(0, 3), (3, 8)]), "places of its tokens in text odd"),
        (Odd([5, 400], [(0, 3), (3, 7)]), "text odd has token 400, and the LM embeds 400 tokens"),
    ],
)
def test_a_tokenizer_that_does_not_fit(folders: Any, teacher: Any, odd: Odd, message: str) -> None:
    with pytest.raises(SaladError, match=message):
        prepare([Utterance("odd", "a b c d", [], [], 0)], next(folders), None, teacher, odd, 512, STACK)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def pickle_(path: Path) -> None:
    np.save(path, np.array([{}, print], dtype=object), allow_pickle=True)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut short": halve,
    "a row too few": shorten,
    "pickled": pickle_,
    "no array": lambda p: p.write_text("hello"),
    "empty": lambda p: p.write_bytes(b""),
    "another type": lambda p: np.save(p, np.load(p).astype(np.float64)),
    "a zip": lambda p: np.savez(p.open("wb"), np.zeros(3)),
    "gone": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", ["frames.npy", "targets.npy"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(folders: Any, teacher: Any, tokenizer: Any, name: str, damage: str) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    DAMAGE[damage](out / name)
    with pytest.raises(SaladError, match=rf"{name} is not what was prepared .*: delete .* and run again"):
        load_examples(out)


@pytest.mark.parametrize("damage", ["cut short", "no array", "empty", "gone"])
def test_a_damaged_table_is_named(folders: Any, teacher: Any, tokenizer: Any, damage: str) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    DAMAGE[damage](out / "examples.parquet")
    with pytest.raises(SaladError, match=r"examples\.parquet is not what was prepared"):
        load_examples(out)


def test_a_folder_of_before_there_were_other_targets_holds_states(folders: Any, teacher: Any, tokenizer: Any) -> None:
    import pyarrow.parquet as pq

    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    table = pq.read_table(out / "examples.parquet")
    assert json.loads(table.schema.metadata[b"salad.targets"])["kind"] == "states"
    pq.write_table(table.replace_schema_metadata(None), out / "examples.parquet")
    assert {e.about for e in load_examples(out)} == {Targets()}


def test_an_example_that_is_changed_is_laid_out_anew(folders: Any, teacher: Any, tokenizer: Any) -> None:
    out = next(folders)
    prepare(FEW, out, Ears(), teacher, tokenizer, 512, STACK)
    example: Example = load_examples(out)[0]
    assert example.view(STACK) is example.view(STACK)
    longer = replace(example, frames=[np.concatenate([f, f, f]) for f in example.frames])
    assert longer.positions(STACK) > example.positions(STACK)
    assert example.positions(1) > example.positions(STACK)
