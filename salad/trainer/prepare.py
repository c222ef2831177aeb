"""From spoken texts to a prepared folder: tokens, encoder features and teacher targets, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salad.audio import resample
from salad.errors import SaladError
from salad.seeds import generator
from salad.trainer.encoders import SpeechEncoder
from salad.trainer.examples import TargetKind, Targets, Utterance
from salad.trainer.interleave import lay_out
from salad.trainer.logits import CHUNK
from salad.trainer.prepared import growing, growing_table, kept_dtype
from salad.trainer.sparse import draw

Tokens = tuple[list[int], list[tuple[int, int]]]


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
    targets: TargetKind = "states",
    k: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a prepared folder; returns counts. Memory is bounded by `chunk` utterances.

    targets: what is kept of the teacher at each text position. "states": its final hidden state, 2·d bytes; "top_k":
    k tokens of its distribution at this temperature, drawn by seed, text id and position, see `sparse`; "none":
    nothing, and the teacher does not run. SaladError that names the text whose context would need more than
    `max_positions`, whose sound is empty or not finite, or whose tokens the teacher does not have.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep = _Keep(teacher, targets, k, temperature, seed)
    width = encoder.width if encoder else 1
    examples = text_positions = 0
    with (
        growing_table(out, keep.about) as write,
        growing(out / "frames.npy", np.dtype(np.float16), (width,)) as frames,
        keep.file(out) as kept,
    ):
        rest = iter(utterances)
        while group := list(islice(rest, chunk)):
            features = _encode(group, encoder)
            tokens = [_tokenise(u, tokenizer, keep.about.vocabulary) for u in group]
            rows, wanted = [], []
            for u, (ids, offsets), heard in zip(group, tokens, features, strict=True):
                layout = lay_out(offsets, u.spans(), [math.ceil(len(f) / stack) for f in heard])
                if max(layout.length, len(ids)) > max_positions:
                    raise SaladError(
                        f"text {u.id} needs {max(layout.length, len(ids))} positions, above interleave.max_positions",
                        f"raise it above {max_positions}, or lower pool.max_words",
                    )
                wanted.append(layout.teacher_loss_at)
                rows.append(_row(u, ids, offsets, heard, len(layout.teacher_loss_at)))
                for f in heard:
                    frames.write(f.tobytes())
            write(rows)
            if kept:
                kept.write(keep.rows([u.id for u in group], [ids for ids, _ in tokens], wanted).tobytes())
            examples += len(group)
            text_positions += sum(map(len, wanted))
            progress(examples)
    return {"examples": examples, "text_positions": text_positions}


def _row(u: Utterance, ids: list[int], offsets: list[tuple[int, int]], heard: list[np.ndarray], n_targets: int) -> dict[str, Any]:
    return {
        "id": u.id,
        "tokens": ids,
        "offsets": [x for pair in offsets for x in pair],
        "spoken": [x for pair in u.spoken for x in pair],
        "n_chars": len(u.text),
        "frames": [len(f) for f in heard],
        "n_targets": n_targets,
    }


def _encode(group: list[Utterance], encoder: SpeechEncoder | None) -> list[list[np.ndarray]]:
    """Features (T, width) in float16 of every wave; T is at least 1, however short the sound."""
    for u in group:
        _check_sound(u)
    if encoder is None:
        if any(u.waves for u in group):
            raise ValueError("spoken spans need an encoder")
        return [[] for _ in group]
    frame = math.ceil(encoder.rate / encoder.frame_rate)
    waves = [resample(w, u.rate, encoder.rate) for u in group for w in u.waves]
    found = iter(encoder.encode([np.pad(w, (0, max(frame - len(w), 0))) for w in waves]) if waves else [])
    features = [[next(found).to(torch.float16).cpu().numpy() for _ in u.waves] for u in group]
    for u, heard in zip(group, features, strict=True):
        if not all(len(f) and np.isfinite(f).all() for f in heard):
            raise SaladError(f"{encoder.name} gives no finite features for the sound of text {u.id}", "leave that text out")
    return features


def _check_sound(u: Utterance) -> None:
    ends = [0, *(x for pair in u.spoken for x in pair), len(u.text)]
    if ends != sorted(ends) or len(u.waves) != len(u.spoken):
        raise SaladError(f"text {u.id}: its {len(u.waves)} sounds are not those of its spans {u.spoken}", "make its shard anew")
    for (start, end), wave in zip(u.spoken, u.waves, strict=True):
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            wrong = "empty" if not wave.size else "not finite" if wave.ndim == 1 else "not mono"
            raise SaladError(
                f"text {u.id}: the sound of its characters {start} to {end} is {wrong}", "leave it out or record it again"
            )


def _tokenise(u: Utterance, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Tokens:
    """Token ids with the prefix token, and the character range of each without it."""
    try:
        encoded = tokenizer(u.text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as e:
        raise SaladError(
            f"the tokenizer {type(tokenizer).__name__} does not say where in the text its tokens are",
            "name an LM with a fast tokenizer (tokenizer.json)",
        ) from e
    ids, offsets = [prefix_token(tokenizer), *encoded["input_ids"]], [tuple(o) for o in encoded["offset_mapping"]]
    ends = [end for _, end in offsets]
    if len(ids) != len(offsets) + 1 or ends != sorted(ends) or not all(0 <= a <= b <= len(u.text) for a, b in offsets):
        raise SaladError(
            f"the tokenizer's places of its tokens in text {u.id} are not in order", "name an LM with another tokenizer"
        )
    if max(ids) >= vocabulary:
        raise SaladError(
            f"text {u.id} has token {max(ids)}, and the LM embeds {vocabulary} tokens", "the tokenizer belongs to another LM"
        )
    return ids, offsets


class _Keep:
    """What is kept of the teacher at every text position."""

    def __init__(self, teacher: PreTrainedModel, kind: TargetKind, k: int, temperature: float, seed: int) -> None:
        self.teacher, self.seed = teacher, seed
        self.head = teacher.get_output_embeddings().weight
        self.about = Targets(kind, temperature if kind == "top_k" else 1.0, len(self.head))
        self.k = min(k, len(self.head))

    def file(self, out: Path) -> AbstractContextManager[BinaryIO | None]:
        if self.about.kind == "states":
            return growing(out / "targets.npy", np.dtype(np.int16), (self.head.shape[1],))
        if self.about.kind == "top_k":
            return growing(out / "targets.npy", kept_dtype(self.k, len(self.head)))
        return nullcontext()

    @torch.inference_mode()
    def rows(self, names: list[str], tokens: list[list[int]], wanted: list[np.ndarray]) -> np.ndarray:
        """Of all wanted positions of these token sequences, one after the other."""
        states = _teacher_states(tokens, wanted, self.teacher)
        if self.about.kind == "states":
            return states.to(torch.bfloat16).view(torch.int16).cpu().numpy()
        u = np.concatenate([generator(self.seed, "targets", n).random(len(at)) for n, at in zip(names, wanted, strict=True)])
        rows = np.empty(len(states), kept_dtype(self.k, len(self.head)))
        size = max(CHUNK // len(self.head), 1)
        for i in range(0, len(states), size):
            log_q = torch.log_softmax((states[i : i + size] @ self.head.T).float().div_(self.about.temperature), -1)
            kept = draw(log_q, self.k, torch.from_numpy(u[i : i + size]).to(log_q.device))
            for name, column in zip(rows.dtype.names or (), kept, strict=True):
                rows[name][i : i + size] = column.cpu().numpy()
        return rows


@torch.inference_mode()
def _teacher_states(tokens: list[list[int]], wanted: list[np.ndarray], teacher: PreTrainedModel, batch: int = 16) -> torch.Tensor:
    """Final hidden states (m, d) at the wanted positions of each token sequence, one after the other; batched by length."""
    states: list[torch.Tensor] = [torch.empty(0)] * len(tokens)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    decoder = teacher.get_decoder()
    for i in range(0, len(order), batch):
        members = order[i : i + batch]
        ids = torch.zeros(len(members), len(tokens[members[-1]]), dtype=torch.long)
        for b, j in enumerate(members):
            ids[b, : len(tokens[j])] = torch.tensor(tokens[j])
        out = decoder(input_ids=ids.to(teacher.device), use_cache=False).last_hidden_state
        for b, j in enumerate(members):
            states[j] = out[b, torch.from_numpy(wanted[j]).to(out.device)]
    return torch.cat(states)
