"""From spoken texts to batches: tokens, encoder features and teacher targets, computed once and memory-mapped.

A prepared folder holds `examples.parquet` (tokens, their character ranges, spans, counts), `frames.npy`
(float16 encoder features) and `targets.npy` (the teacher's final hidden state at every text position, as
bfloat16 bits). The teacher's distribution is its head applied to that state: exact, at 2·d bytes a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salad.audio import Wave, resample
from salad.errors import SaladError
from salad.trainer.encoders import SpeechEncoder
from salad.trainer.interleave import Layout, Span, lay_out


@dataclass(frozen=True)
class Utterance:
    """A text with the sound of its spoken spans, in order; no spoken span: text only."""

    id: str
    text: str
    spoken: list[tuple[int, int]]  # character ranges that are heard
    waves: list[Wave]
    rate: int

    def spans(self) -> list[Span]:
        """The spoken ranges and the read ones between them, a partition of the text."""
        spans, at = [], 0
        for start, end in self.spoken:
            if start > at:
                spans.append(Span("text", at, start))
            spans.append(Span("speech", start, end))
            at = end
        if at < len(self.text):
            spans.append(Span("text", at, len(self.text)))
        return spans


@dataclass(frozen=True)
class Example:
    """One prepared text. `frames` has one (T, encoder width) array a speech span."""

    id: str
    tokens: np.ndarray  # (n + 1,), the prefix token first
    offsets: list[tuple[int, int]]  # (n,)
    spans: list[Span]
    frames: list[np.ndarray]
    targets: np.ndarray  # (m, d) bfloat16 bits

    def layout(self, stack: int, deaf: bool = False) -> Layout:
        return lay_out(self.offsets, self.spans, [math.ceil(len(f) / stack) for f in self.frames], deaf)

    def length(self, stack: int) -> int:
        return len(self.tokens) + sum(math.ceil(len(f) / stack) for f in self.frames)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that every sequence starts with: the tokenizer's BOS, else its EOS."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    assert token is not None, "a tokenizer without BOS and EOS"
    return int(token)


def prepare(
    utterances: Iterable[Utterance],
    out: Path,
    encoder: SpeechEncoder | None,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_positions: int,
    stack: int,
    progress: Callable[[int], None] = lambda n: None,
    chunk: int = 256,
) -> dict[str, Any]:
    """Write a prepared folder; returns counts. Memory is bounded by `chunk` utterances.

    A text whose context would need more than `max_positions` is an error that names it.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with (out / "frames.raw").open("wb") as frames, (out / "targets.raw").open("wb") as targets:
        for group in _chunks(utterances, chunk):
            features = _encode(group, encoder)
            tokens = [_tokenise(u.text, tokenizer) for u in group]
            states = _teacher_states([ids for ids, _ in tokens], teacher)
            for u, (ids, offsets), spans_frames, state in zip(group, tokens, features, states, strict=True):
                spans = u.spans()
                layout = lay_out(offsets, spans, [math.ceil(len(f) / stack) for f in spans_frames])
                if max(layout.length, len(ids)) > max_positions:
                    raise SaladError(
                        f"text {u.id} needs {max(layout.length, len(ids))} positions, above interleave.max_positions",
                        f"raise it above {max_positions}, or lower pool.max_words",
                    )
                wanted = state[torch.from_numpy(layout.teacher_loss_at)].to(torch.bfloat16)
                targets.write(wanted.view(torch.int16).numpy().tobytes())
                for f in spans_frames:
                    frames.write(f.to(torch.float16).numpy().tobytes())
                rows.append(
                    {
                        "id": u.id,
                        "tokens": ids,
                        "offsets": [x for pair in offsets for x in pair],
                        "spoken": [x for pair in u.spoken for x in pair],
                        "n_chars": len(u.text),
                        "frames": [len(f) for f in spans_frames],
                        "n_targets": len(wanted),
                    }
                )
            progress(len(rows))
    width = encoder.width if encoder else 1
    _finish(out, "frames", np.float16, width)
    _finish(out, "targets", np.int16, teacher.config.hidden_size)
    pq.write_table(pa.Table.from_pylist(rows, _EXAMPLES), out / "examples.parquet")
    return {"examples": len(rows), "text_positions": sum(r["n_targets"] for r in rows)}


_EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("offsets", pa.list_(pa.int32())),
        ("spoken", pa.list_(pa.int32())),
        ("n_chars", pa.int32()),
        ("frames", pa.list_(pa.int32())),
        ("n_targets", pa.int32()),
    ]
)


def load_examples(folder: Path) -> list[Example]:
    """The examples of a prepared folder; features and targets stay on disk until they are used."""
    rows = pq.read_table(folder / "examples.parquet").to_pylist()
    if not rows:
        return []  # an empty file cannot be mapped
    frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
    targets = np.load(folder / "targets.npy", mmap_mode="r", allow_pickle=False)
    examples, frame_at, target_at = [], 0, 0
    for row in rows:
        of_spans = []
        for n in row["frames"]:
            of_spans.append(frames[frame_at : frame_at + n])
            frame_at += n
        utterance = Utterance(row["id"], " " * row["n_chars"], _pairs(row["spoken"]), [], 0)
        examples.append(
            Example(
                id=row["id"],
                tokens=np.array(row["tokens"]),
                offsets=_pairs(row["offsets"]),
                spans=utterance.spans(),
                frames=of_spans,
                targets=targets[target_at : target_at + row["n_targets"]],
            )
        )
        target_at += row["n_targets"]
    return examples


def collate(examples: Sequence[Example], stack: int, hearing: str = "speech") -> dict[str, Any]:
    """A padded batch for the student.

    hearing: "speech" (the context c), "text" (the words themselves, w), or "nothing" (spoken spans left out).
    token_ids (B, L) · frames (S, T · stack, width) or None · frame_from, frame_at: where adapter outputs come
    from and go to, flat · loss_at (m,): flat positions that predict text · labels (m,): what comes there ·
    teacher (m, d) · owner (m,): the example of each text position · ids: of the examples.
    """
    layouts = [_read_all(e, stack) if hearing == "text" else e.layout(stack, hearing == "nothing") for e in examples]
    length = max(layout.length for layout in layouts)
    token_ids = torch.zeros(len(examples), length, dtype=torch.long)
    frame_at, frame_from, loss_at, labels, owner, spans = [], [], [], [], [], []
    for b, (example, layout) in enumerate(zip(examples, layouts, strict=True)):
        token_ids[b, layout.token_at] = torch.from_numpy(example.tokens[layout.token]).long()
        spans += list(zip(layout.frame_at, example.frames if layout.frame_at else [], strict=True))
        frame_at += [b * length + at for at in layout.frame_at]
        loss_at.append(b * length + layout.student_loss_at)
        labels.append(example.tokens[layout.teacher_loss_at + 1])
        owner.append(np.full(len(layout.student_loss_at), b))
    frames = None
    if spans:
        longest = max(len(at) for at, _ in spans)
        frames = torch.zeros(len(spans), longest * stack, spans[0][1].shape[1])
        for i, (at, f) in enumerate(spans):
            frames[i, : len(f)] = torch.from_numpy(np.asarray(f, dtype=np.float32))
            frame_from.append(i * longest + np.arange(len(at)))
    teacher = np.concatenate([np.asarray(e.targets) for e in examples])
    return {
        "token_ids": token_ids,
        "frames": frames,
        "frame_at": _joined(frame_at),
        "frame_from": _joined(frame_from),
        "loss_at": _joined(loss_at),
        "labels": _joined(labels),
        "owner": _joined(owner),
        "teacher": torch.from_numpy(teacher).view(torch.bfloat16),
        "ids": [e.id for e in examples],
    }


def _read_all(example: Example, stack: int) -> Layout:
    heard = example.layout(stack)
    everything = np.arange(len(example.tokens))
    return Layout(len(everything), everything, everything, [], heard.teacher_loss_at, heard.teacher_loss_at)


def _joined(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts)).long() if parts else torch.zeros(0, dtype=torch.long)


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _chunks(items: Iterable[Utterance], size: int) -> Iterable[list[Utterance]]:
    group: list[Utterance] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _encode(group: list[Utterance], encoder: SpeechEncoder | None) -> list[list[torch.Tensor]]:
    if encoder is None:
        if any(u.waves for u in group):
            raise ValueError("spoken spans need an encoder")
        return [[] for _ in group]
    waves = [resample(w, u.rate, encoder.rate) for u in group for w in u.waves]
    features = iter(encoder.encode(waves) if waves else [])
    return [[next(features) for _ in u.waves] for u in group]


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [prefix_token(tokenizer), *encoded["input_ids"]], [tuple(o) for o in encoded["offset_mapping"]]


@torch.inference_mode()
def _teacher_states(tokens: list[list[int]], teacher: PreTrainedModel, batch: int = 16) -> list[torch.Tensor]:
    """Final hidden states (n + 1, d) of each token sequence, batched by length."""
    states: list[torch.Tensor] = [torch.empty(0)] * len(tokens)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    decoder = teacher.get_decoder()
    for i in range(0, len(order), batch):
        members = order[i : i + batch]
        ids = torch.zeros(len(members), len(tokens[members[-1]]), dtype=torch.long)
        for b, j in enumerate(members):
            ids[b, : len(tokens[j])] = torch.tensor(tokens[j])
        out = decoder(input_ids=ids, use_cache=False).last_hidden_state
        for b, j in enumerate(members):
            states[j] = out[b, : len(tokens[j])].clone()
    return states


def _finish(out: Path, name: str, dtype: Any, width: int) -> None:
    """Raw rows become a .npy of known shape, without holding them in memory."""
    raw = out / f"{name}.raw"
    rows = raw.stat().st_size // (np.dtype(dtype).itemsize * width)
    with (out / f"{name}.npy").open("wb") as f:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(f, header)
        with raw.open("rb") as source:
            while block := source.read(1 << 22):
                f.write(block)
    raw.unlink()
