"""The student over a tiny LM: speech enters in its places, padding changes nothing, checkpoints come back whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from salad.errors import SaladError
from salad.trainer.data import Example, Utterance, collate, load_examples, prepare
from salad.trainer.encoders import make_encoder
from salad.trainer.evaluate import measure
from salad.trainer.student import Student, StudentConfig, load_lm, load_student, new_student
from tests.fakes import RATE, ToneEngine

TEXTS = [
    "stir the warm soup with salt and pepper then add butter",
    "the patient shows a mild defect of the heart",
    "the owner waives any claim or warranty under this agreement and then some more words",
]
SPOKEN = [[(0, 13)], [(3, 15), (20, 26)], [(0, 9), (30, 50)]]


@pytest.fixture(scope="module")
def teacher(fake_models: dict[str, str]) -> Any:
    return load_lm(fake_models["lm"], torch.float32)


@pytest.fixture(scope="module")
def examples(fake_models: dict[str, str], teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    engine = ToneEngine()
    utterances = [
        Utterance(f"u{i}", text, spoken, [s.wave for s in engine.synthesize([text[a:b] for a, b in spoken], "tone")], RATE)
        for i, (text, spoken) in enumerate(zip(TEXTS, SPOKEN, strict=True))
    ]
    out = tmp_path_factory.mktemp("prepared")
    encoder = make_encoder(fake_models["encoder"], torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    meta = prepare(utterances, out, encoder, teacher, tokenizer, 512, 4)
    assert meta["examples"] == 3
    return load_examples(out)


def student_of(teacher: Any, lm_training: str = "frozen") -> Student:
    config = StudentConfig(
        lm="tiny",
        lm_training=lm_training,
        encoder_width=16,
        encoder_frame_rate=50.0,
        layers=1,
        width=16,
        mlp=32,
        heads=2,
        kv_heads=1,
    )
    return new_student(config, teacher, seed=3).eval()


def test_prepared_targets_are_the_teachers_states(teacher: Any, examples: list[Example]) -> None:
    example = examples[1]
    states = teacher.get_decoder()(input_ids=torch.from_numpy(example.tokens)[None].long()).last_hidden_state[0]
    wanted = states[example.layout(4).teacher_loss_at]
    found = torch.from_numpy(np.array(example.targets)).view(torch.bfloat16).float()
    assert torch.allclose(found, wanted.float(), atol=0.05)


def test_reading_everything_a_fresh_student_is_its_teacher(teacher: Any, examples: list[Example]) -> None:
    student = student_of(teacher, "full")
    found = measure(student, teacher, examples)
    assert np.abs(found.forgetting).max() < 2e-3  # targets are kept in bfloat16
    assert (found.divergence > 0.01).all()
    assert np.allclose(found.misalignment, found.divergence, rtol=0.2)


def test_a_frozen_student_forgets_nothing_by_construction(teacher: Any, examples: list[Example]) -> None:
    found = measure(student_of(teacher), teacher, examples)
    assert (found.forgetting == 0).all()
    assert (found.misalignment == found.divergence).all()


@pytest.mark.parametrize("hearing", ["speech", "text", "nothing"])
def test_padding_and_company_change_nothing(teacher: Any, examples: list[Example], hearing: str) -> None:
    student = student_of(teacher)
    together = student.states_at_loss(collate(examples, 4, hearing))
    alone = torch.cat([student.states_at_loss(collate([e], 4, hearing)) for e in examples])
    assert torch.allclose(together, alone, atol=1e-4)


def test_what_is_heard_matters_and_only_from_there_on(teacher: Any, examples: list[Example]) -> None:
    student = student_of(teacher)
    example = examples[1]
    louder = Example(example.id, example.tokens, example.offsets, example.spans, [f + 1 for f in example.frames], example.targets)
    a, b = (student.states_at_loss(collate([e], 4)) for e in (example, louder))
    layout = example.layout(4)
    before = torch.from_numpy(layout.student_loss_at < layout.frame_at[0][0])
    assert before.any()
    assert torch.equal(a[before], b[before])
    assert not torch.allclose(a[~before], b[~before])


def test_labels_are_the_next_tokens_and_owners_their_examples(examples: list[Example]) -> None:
    batch = collate(examples, 4)
    flat = batch["token_ids"].reshape(-1)
    assert torch.equal(flat[batch["loss_at"] + 1], batch["labels"])
    length = batch["token_ids"].shape[1]
    assert torch.equal(batch["loss_at"] // length, batch["owner"])
    assert len(set(batch["frame_at"].tolist())) == len(batch["frame_at"])


@pytest.mark.parametrize("lm_training", ["frozen", "full"])
def test_checkpoints_come_back_and_are_safetensors_only(
    teacher: Any, examples: list[Example], tmp_path: Path, lm_training: str
) -> None:
    student = student_of(teacher, lm_training)
    student.save_pretrained(tmp_path / "c")
    assert {p.suffix for p in (tmp_path / "c").iterdir()} <= {".json", ".safetensors"}
    again = load_student(tmp_path / "c", teacher).eval()
    batch = collate(examples, 4)
    assert torch.equal(student.states_at_loss(batch), again.states_at_loss(batch))
    saved = sum(p.numel() for p in again.parameters())
    lm = sum(p.numel() for p in teacher.parameters())
    assert (saved > lm) == (lm_training == "full")


def test_a_truncated_checkpoint_is_named(teacher: Any, tmp_path: Path) -> None:
    student_of(teacher).save_pretrained(tmp_path / "c")
    weights = tmp_path / "c/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SaladError, match=r"cannot be loaded.*delete it"):
        load_student(tmp_path / "c", teacher)
    with pytest.raises(SaladError, match="does not exist"):
        load_student(tmp_path / "nowhere", teacher)


@pytest.mark.parametrize("change", ["a bias", "a scale"])
def test_an_lm_whose_head_is_more_than_a_product_is_refused(teacher: Any, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    lm = copy.deepcopy(teacher)
    head = lm.get_output_embeddings()
    plain = head.forward
    other = (lambda x: plain(x) + torch.arange(head.out_features)) if change == "a bias" else (lambda x: 0.5 * plain(x))
    monkeypatch.setattr(head, "forward", other)
    monkeypatch.setattr("salad.assets.load_pretrained", lambda *a, **k: lm)
    with pytest.raises(SaladError, match="head times its last state"):
        load_lm("some/lm", torch.float32)


def test_a_context_too_long_is_named(fake_models: dict[str, str], teacher: Any, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    with pytest.raises(SaladError, match=r"text long needs .* positions"):
        prepare([Utterance("long", TEXTS[0], [], [], 0)], tmp_path, None, teacher, tokenizer, 5, 4)
