"""The student over a tiny LM: speech enters in its places, padding changes nothing, checkpoints come back whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from salad.errors import SaladError
from salad.trainer.data import Example, Utterance, collate, load_examples, prepare
from salad.trainer.encoders import make_encoder
from salad.trainer.evaluate import measure
from salad.trainer.student import Student, StudentConfig, load_lm, load_student, new_student
from salad.trainer.targets import FromStates
from tests.fakes import RATE, ToneEngine
from tests.trainer.encoders.tiny import write_mimi, write_qwen

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
    out = tmp_path_factory.mktemp("prepared")
    encoder = make_encoder(fake_models["encoder"], torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(fake_models["lm"])
    meta = prepare(spoken(), out, encoder, teacher, tokenizer, 512, 4)
    assert meta["examples"] == 3
    return load_examples(out)


SUMS = {"inward.weight": 0.3415, "body.layers.1.mlp.up_proj.weight": -0.387706}  # of what version 0.1.0 began with
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


def student_of(teacher: Any, lm_training: str = "frozen", **changes: Any) -> Student:
    config = StudentConfig(
        lm="tiny",
        lm_training=lm_training,
        lora=LORA,
        encoder_width=16,
        encoder_frame_rate=50.0,
        layers=1,
        width=16,
        mlp=32,
        heads=2,
        kv_heads=1,
        **changes,
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
    length = batch["token_ids"].shape[1]
    for b, example in enumerate(examples):
        labels = batch["labels"][batch["owner"] == b]
        assert labels.tolist() == example.tokens[example.layout(4).teacher_loss_at + 1].tolist()
        read = batch["token_ids"][b][(batch["loss_at"][batch["owner"] == b] - b * length + 1)[:-1]]
        assert torch.equal(read, labels[:-1]), "a text token follows the position that predicts it"
    assert torch.equal(batch["loss_at"] // length, batch["owner"])
    assert len(set(batch["frame_at"].tolist())) == len(batch["frame_at"])


@pytest.mark.parametrize("lm_training", ["frozen", "lora", "full"])
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


def test_a_new_student_of_a_seed_has_the_weights_it_always_had(teacher: Any) -> None:
    config = StudentConfig(lm="tiny", encoder_width=16, encoder_frame_rate=50.0, layers=2, width=16, mlp=32, heads=2, kv_heads=1)
    weights = new_student(config, teacher, seed=3).adapter.state_dict()
    sums = {k: round(float(weights[k].double().sum()), 6) for k in ("inward.weight", "body.layers.1.mlp.up_proj.weight")}
    assert sums == pytest.approx(SUMS, abs=1e-5)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "student.pt"])
def test_pickled_weights_are_refused(teacher: Any, tmp_path: Path, name: str) -> None:
    student = student_of(teacher)
    student.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(student.state_dict(), tmp_path / name)
    with pytest.raises(SaladError, match=f"pickled weights only \\({name}\\)"):
        Student.from_pretrained(tmp_path, lm=teacher)
    with pytest.raises(SaladError, match="pickled"):
        load_student(tmp_path, teacher)


def test_a_pickled_lm_is_refused(fake_models: dict[str, str], tmp_path: Path) -> None:
    for path in Path(fake_models["lm"]).iterdir():
        (tmp_path / ("pytorch_model.bin" if path.suffix == ".safetensors" else path.name)).write_bytes(path.read_bytes())
    with pytest.raises(SaladError, match=r"safetensors|pickled"):
        load_lm(str(tmp_path), torch.float32)


def test_a_checkpoint_that_lacks_a_weight_is_refused(teacher: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    student_of(teacher).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["adapter.outward.bias"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SaladError, match=r"lacks 1 of its weights, adapter\.outward\.bias"):
        load_student(tmp_path, teacher)


def test_another_model_is_no_student(fake_models: dict[str, str]) -> None:
    with pytest.raises(SaladError, match="is a llama model, not a student"):
        Student.from_pretrained(fake_models["lm"])


def test_an_lm_of_another_size_is_refused(teacher: Any, tmp_path: Path) -> None:
    student_of(teacher).save_pretrained(tmp_path / "c")
    other = load_lm(str(write_qwen(tmp_path / "lm", tied=True, padding=8)), torch.float32)
    with pytest.raises(SaladError, match=r"trained on 'tiny' \(width, vocabulary: \(32, 400\)\)"):
        load_student(tmp_path / "c", other)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("lm_training", ["frozen", "lora", "full"])
def test_checkpointing_changes_memory_and_no_number(
    teacher: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch, lm_training: str, kind: str
) -> None:
    runs = 0
    block = type(teacher.get_decoder().layers[0].mlp)
    forward = block.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        runs += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(block, "forward", counted)
    found, batch = [], collate(examples, 4)
    for checkpointing in (False, True):
        student = student_of(teacher, lm_training, kind=kind)
        if checkpointing:
            student.gradient_checkpointing_enable()
        student.train()
        runs = 0
        loss = student.states_at_loss(batch).square().mean()
        loss.backward()
        gradients = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
        found.append((loss, gradients, runs))
        assert not any(m.training for m in teacher.modules())
        assert not any(getattr(m, "gradient_checkpointing", False) for m in teacher.modules())
    (loss, gradients, once), (again, others, twice) = found
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys() != set()
    assert all(torch.equal(gradients[n], others[n]) for n in gradients)
    assert twice > once, "layers were run again in the backward pass"


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("lm_training", ["frozen", "lora", "full"])
def test_what_must_not_be_split_is_there_and_is_every_layer_of_the_lm_that_trains(
    tmp_path: Path, lm_training: str, kind: str
) -> None:
    student = student_of(load_lm(str(write_qwen(tmp_path, tied=True)), torch.float32), lm_training, kind=kind)
    wanted = {"LlamaDecoderLayer"} if kind == "transformer" else set()
    assert student._no_split_modules == wanted | ({"Qwen2DecoderLayer"} if lm_training == "full" else set())


@pytest.mark.parametrize(
    ("encoder", "kind", "tied"), [("mimi", "transformer", True), ("mimi", "mlp", False), ("logmel", "transformer", False)]
)
@pytest.mark.parametrize("lm_training", ["frozen", "lora", "full"])
def test_qwen_with_mimi_from_sound_to_a_model_that_comes_back(
    tmp_path: Path, lm_training: str, encoder: str, kind: str, tied: bool
) -> None:
    """The paper's architecture, its vocabulary padded: prepare, collate, forward, backward, a step, save, AutoModel."""
    lm_name = str(write_qwen(tmp_path / "lm", tied, padding=7))
    ears = make_encoder(str(write_mimi(tmp_path / "mimi")) if encoder == "mimi" else encoder, torch.float32)
    lm, tokenizer = load_lm(lm_name, torch.float32), AutoTokenizer.from_pretrained(lm_name)
    config = StudentConfig(
        lm=lm_name, lm_training=lm_training, lora=LORA, encoder=ears.name, encoder_width=ears.width,
        encoder_frame_rate=ears.frame_rate, kind=kind, layers=1, width=16, mlp=32, heads=2, kv_heads=1,
    )  # fmt: skip
    student = new_student(config, lm, seed=1).train()
    prepare(list(spoken()), tmp_path / "prepared", ears, lm, tokenizer, 512, config.stack)
    batch = collate(load_examples(tmp_path / "prepared"), config.stack)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss, _ = student(batch, FromStates(lm.get_output_embeddings().weight), len(batch["labels"]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    student.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student")
    assert isinstance(again, Student)
    with torch.no_grad():
        assert torch.equal(again.states(batch), student.eval().states(batch))
    assert again.speech_encoder.width == ears.width
    assert again.generate((spoken()[0].waves[0], RATE), "the", max_new_tokens=3) == student.generate(
        (spoken()[0].waves[0], RATE), "the", max_new_tokens=3
    )


def spoken() -> list[Utterance]:
    engine = ToneEngine()
    return [
        Utterance(f"u{i}", text, spans, [s.wave for s in engine.synthesize([text[a:b] for a, b in spans], "tone")], RATE)
        for i, (text, spans) in enumerate(zip(TEXTS, SPOKEN, strict=True))
    ]


@pytest.mark.parametrize("lm_training", ["frozen", "lora"])
def test_emptying_a_student_leaves_its_teacher_whole(teacher: Any, lm_training: str) -> None:
    before = [p.clone() for p in teacher.parameters()]
    student = student_of(teacher, lm_training)
    student.to("meta")
    student.to_empty(device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, load_lm_again(student), strict=True))


def load_lm_again(student: Student) -> list[torch.Tensor]:
    return [p for n, p in student.language_model.named_parameters() if "lora_" not in n]


def in_two_processes(rank: int, address: str, lm: str, prepared: str, lm_training: str, checkpointing: bool) -> None:
    """Rank 0 hears and reads, rank 1 only reads: both take a step, and stay the same student."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    student = student_of(load_lm(lm, torch.float32), lm_training).train()
    if checkpointing:
        student.gradient_checkpointing_enable()
    wrapped = torch.nn.parallel.DistributedDataParallel(student)  # every parameter must have a gradient
    examples = load_examples(Path(prepared))
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    head = student.head().detach().clone()
    for _ in range(2):
        batch = collate(examples, 4, "speech" if rank == 0 else "text")
        loss, _ = wrapped(batch, FromStates(head), len(batch["labels"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    mine = torch.cat([p.detach().flatten() for p in student.parameters()])
    other = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(other, mine)
    assert torch.equal(other[0], other[1])
    del wrapped, loss  # before the group that they speak over
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("lm_training", "checkpointing"), [("full", False), ("lora", True)])
def test_a_process_without_speech_keeps_step(
    fake_models: dict[str, str], teacher: Any, tmp_path: Path, lm_training: str, checkpointing: bool
) -> None:
    encoder, tokenizer = make_encoder(fake_models["encoder"], torch.float32), AutoTokenizer.from_pretrained(fake_models["lm"])
    prepare(spoken(), tmp_path / "prepared", encoder, teacher, tokenizer, 512, 4)
    address = f"file://{tmp_path / 'meet'}"
    given = (address, fake_models["lm"], str(tmp_path / "prepared"), lm_training, checkpointing)
    torch.multiprocessing.spawn(in_two_processes, given, nprocs=2)


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
