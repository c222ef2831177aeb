"""A second view beside D: how alike the student's inner states are over heard words and over the same words read.

Linear CKA (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited") of the two, layer by
layer, with one row a speech span. The plain estimate is far too high where rows are not many more than dimensions,
as spans are not, so this is the debiased one (Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same
Things?"), made of the unbiased HSIC (Song et al. 2012, "Feature Selection via Dependence Maximization", eq. 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import send_to_device

from salad.trainer.data import Example, Hearing, collate
from salad.trainer.interleave import token_modalities
from salad.trainer.student import Student


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA of rows that belong together, (n, d1) and (n, d2), in float64.

    1: the same up to rotation and one scale; 0: nothing linear in common, give or take (an unbiased estimate
    of 0 is as often below it). NaN below 4 rows, and where all rows of a side are equal.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} rows against {len(y)}")
    if len(x) < 4:
        return math.nan
    a, b = _centred_gram(x), _centred_gram(y)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else math.nan


def _centred_gram(x: np.ndarray) -> np.ndarray:
    """(n, n) inner products of the rows, off the diagonal, less their row, column and overall means.

    "U-centred" (Székely & Rizzo 2014): the inner product of two such matrices is n(n-3) times the unbiased HSIC.
    """
    n = len(x)
    x = np.asarray(x, np.float64)
    x = x - x[0]  # equal rows become 0 to the bit
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    means = gram.sum(axis=0) / (n - 2)
    gram += gram.sum() / ((n - 1) * (n - 2)) - means - means[:, None]
    np.fill_diagonal(gram, 0)
    return gram


def span_alignment(
    student: Student,
    examples: Sequence[Example],
    batch_size: int = 16,
    texts: int = 96,
    progress: Callable[[int], None] = lambda n: None,
) -> list[float]:
    """Linear CKA between heard and read speech spans of the first `texts` examples, one value a layer.

    Layer 0 is what enters the LM, the last what its head sees. Works for a frozen LM and a trained one.
    """
    heard, read = span_states(student, examples[:texts], batch_size, progress)
    return [linear_cka(x, y) for x, y in zip(heard, read, strict=True)]


@torch.inference_mode()
def span_states(
    student: Student, examples: Sequence[Example], batch_size: int = 16, progress: Callable[[int], None] = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean states of every speech span, (layers, spans, d) float32 twice: heard in the context c, and read in w.

    Heard: over the positions of the span's frames. Read: over those of its tokens. Spans come in no promised
    order, the same in both; one without frames, or whose words have no token of their own, is left out.
    """
    student.eval()
    stack = student.config.stack
    heard, read = [], []
    spoken = sorted(filter(None, map(_until_heard, examples)), key=lambda e: e.length(stack))
    for i in range(0, len(spoken), batch_size):
        members = spoken[i : i + batch_size]
        places = [(b, *place) for b, example in enumerate(members) for place in span_places(example, stack)]
        if places:
            heard.append(_means(student, members, "speech", [(b, frames) for b, frames, _ in places]))
            read.append(_means(student, members, "text", [(b, tokens) for b, _, tokens in places]))
        progress(i + len(members))
    if not heard:
        nothing = np.zeros((student.language_model.config.num_hidden_layers + 1, 0, 1), np.float32)
        return nothing, nothing
    return np.concatenate(heard, axis=1), np.concatenate(read, axis=1)


def span_places(example: Example, stack: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each speech span its positions in c, where its frames are, and in w, where its tokens are."""
    span_of = np.array(token_modalities(example.offsets, example.spans))
    spoken = [i for i, span in enumerate(example.spans) if span.modality == "speech"]
    tokens = [np.flatnonzero(span_of == i) + 1 for i in spoken]  # w begins with the prefix token
    frames = example.layout(stack).frame_at
    return [(f, t) for f, t in zip(frames, tokens, strict=True) if len(f) and len(t)]


def _until_heard(example: Example) -> Example | None:
    """The example up to its last speech span, without targets: what comes later changes no state before it."""
    last = max((i for i, span in enumerate(example.spans) if span.modality == "speech"), default=-1)
    n = sum(i <= last for i in token_modalities(example.offsets, example.spans))
    cut = replace(
        example,
        tokens=example.tokens[: n + 1],
        offsets=example.offsets[:n],
        spans=example.spans[: last + 1],
        targets=example.targets[:0],
    )
    return cut if cut.spans else None


def _means(student: Student, members: Sequence[Example], hearing: Hearing, places: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """(layers, places, d): the mean state over each place, positions of one example of a batch of these."""
    layers = student.hidden_states(send_to_device(collate(members, student.config.stack, hearing), student.device))
    means = [torch.stack([states[b, at].float().mean(0) for b, at in places]) for states in layers]
    return torch.stack(means).cpu().numpy()
