"""From prepared examples to a padded batch: what the student reads and hears, and what it shall learn there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from salad.errors import SaladError
from salad.trainer.examples import Example, Hearing


def collate(examples: Sequence[Example], stack: int, hearing: Hearing = "speech") -> dict[str, Any]:
    """A padded batch for the student.

    hearing: "speech" (the context c), "text" (the words themselves, w), or "nothing" (spoken spans left out).
    token_ids (B, L) · frames (S, T · stack, width) or None · frame_from, frame_at: where adapter outputs come
    from and go to, flat · loss_at (m,): flat positions that predict text · labels (m,): what comes there ·
    owner (m,): the example of each text position · ids: of the examples · teacher_ids (B, L'), teacher_at (m,): what a
    teacher reads and where, flat, it predicts the same · targets: a `Targets`, and what it says of the teacher's
    distribution: teacher (m, d) states, or kept_ids, kept_log_q (m, k) and kept_log_floor (m,) of `sparse.Kept`.
    """
    views = [e.view(stack, hearing) for e in examples]
    length = max(view.length for view in views)
    reads = [int(view.teacher_loss_at[-1]) + 1 if len(view.teacher_loss_at) else 1 for view in views]
    token_ids = np.zeros((len(examples), length), np.int64)
    teacher_ids = np.zeros((len(examples), max(reads)), np.int64)
    spans: list[tuple[np.ndarray, np.ndarray]] = []  # flat positions, features
    for b, (example, view, n) in enumerate(zip(examples, views, reads, strict=True)):
        token_ids[b, view.token_at] = example.tokens[view.token]
        teacher_ids[b, :n] = example.tokens[:n]
        spans += [(b * length + at, f) for at, f in zip(view.frame_at, example.frames if view.frame_at else [], strict=True)]
    longest = max((len(at) for at, _ in spans), default=0)
    counts = [len(view.student_loss_at) for view in views]
    return {
        "token_ids": torch.from_numpy(token_ids),
        "frames": padded([f for _, f in spans], longest * stack),
        "frame_at": _joined([at for at, _ in spans]),
        "frame_from": _joined([i * longest + np.arange(len(at)) for i, (at, _) in enumerate(spans)]),
        "loss_at": _joined([b * length + view.student_loss_at for b, view in enumerate(views)]),
        "labels": _joined([e.tokens[view.teacher_loss_at + 1] for e, view in zip(examples, views, strict=True)]),
        "owner": torch.from_numpy(np.repeat(np.arange(len(examples)), counts)),
        "teacher_ids": torch.from_numpy(teacher_ids),
        "teacher_at": _joined([b * teacher_ids.shape[1] + view.teacher_loss_at for b, view in enumerate(views)]),
        "ids": [e.id for e in examples],
        **_targets(examples),
    }


def padded(features: Sequence[np.ndarray], length: int) -> torch.Tensor | None:
    """(spans, length, width) float32 of features (T, width) each, zeros at their ends; None for no features."""
    if not features:
        return None
    frames = np.zeros((len(features), length, features[0].shape[1]), features[0].dtype)
    for row, f in zip(frames, features, strict=True):
        row[: len(f)] = f
    return torch.from_numpy(frames).float()  # far faster than numpy's conversion of float16


def _targets(examples: Sequence[Example]) -> dict[str, Any]:
    """What the examples keep of the teacher's distribution, by the names that `collate` documents."""
    about = {e.about for e in examples}
    if len(about) > 1:
        made = ", ".join(sorted(f"{a.kind} at temperature {a.temperature:g}" for a in about))
        raise SaladError(
            f"texts of one batch were prepared in different ways ({made}), {examples[0].id} and {examples[-1].id} among them",
            "give sources that were prepared with the same train.teacher, top_k and temperature",
        )
    (kind,) = about
    rows = np.concatenate([e.targets for e in examples]) if kind.kind != "none" else np.empty(0)
    if kind.kind == "states":
        return {"targets": kind, "teacher": torch.from_numpy(rows).view(torch.bfloat16)}
    if kind.kind == "top_k":
        kept = {"kept_ids": np.int64, "kept_log_q": np.float32, "kept_log_floor": np.float32}
        columns = zip(kept.items(), rows.dtype.names or (), strict=True)
        return {"targets": kind, **{name: torch.from_numpy(rows[c].astype(dtype)) for (name, dtype), c in columns}}
    return {"targets": kind}


def _joined(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.zeros(0, dtype=torch.long)
