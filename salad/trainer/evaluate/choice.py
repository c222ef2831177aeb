"""Multiple choice by log-probability: the option whose words the model finds likeliest after the prompt.

log P(option | prompt) = Σ_t log P(option_t | prompt, option_<t), as it is (`acc`) and over the option's length
(`acc_norm` of Gao et al., lm-evaluation-harness) or less log P(option) by itself, so that a likely sentence is no likely
answer (Brown et al. 2020, section 2.4; Holtzman et al. 2021, "Surface Form Competition"): nothing is generated, so
nothing has to be parsed. The prompt goes through the LM once, the shots that all prompts share once for all of them; the
options go on from their cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from salad.errors import SaladError
from salad.trainer.data import Example, Hearing, Targets, Utterance, collate, prefix_token
from salad.trainer.evaluate.divergences import batches
from salad.trainer.logits import CHUNK
from salad.trainer.student import Student

BATCH = 4096  # positions of questions that are read together, padding included
LENGTHS: dict[str, Callable[[str], int]] = {
    "characters": lambda option: len(option.strip()),
    "bytes": lambda option: len(option.strip().encode()),
    "none": lambda option: 1,
}
PRIOR = "prior"  # normalised by what is likely without a prompt


@dataclass(frozen=True)
class Context:
    """What comes before an answer: a text, the character ranges of it that are heard, and the frames of each."""

    text: str
    spoken: Sequence[tuple[int, int]] = ()
    frames: Sequence[np.ndarray] = ()  # (T, encoder width)


@dataclass(frozen=True)
class Question:
    """options: as they follow the context, white space between the two included. answer: which one is right."""

    id: str
    context: Context
    options: Sequence[str]
    answer: int


@dataclass(frozen=True)
class Reader:
    """Who answers: an LM, and how a batch of `collate` becomes what it reads, (B, L, d)."""

    lm: PreTrainedModel
    embed: Callable[[dict[str, Any]], torch.Tensor]
    stack: int
    hearing: Hearing


def reader(lm: PreTrainedModel) -> Reader:
    """An LM that reads every word: the teacher, or a student's own."""
    return Reader(lm, lambda batch: lm.get_input_embeddings()(batch["token_ids"]), 1, "text")


def listener(student: Student, hearing: Hearing = "speech") -> Reader:
    """A student that hears what is spoken; hearing "nothing": it goes by what is left to read."""
    student.eval()
    return Reader(student.language_model, student.embedded, student.config.stack, hearing)


@dataclass(frozen=True)
class Answers:
    """log_probs: of each question, (options,) in nats. Each (n,): what is chosen by them and by them normalised, and
    whether several options were equally likely then, so that the first was taken."""

    log_probs: list[np.ndarray]
    chosen: np.ndarray
    chosen_normalised: np.ndarray
    ties: np.ndarray


def answer(
    who: Reader,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    shots: Context | None = None,
    normalise: str = "characters",
    priors: Sequence[np.ndarray] | None = None,
    max_positions: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
    positions: int = BATCH,
) -> Answers:
    """Every question answered; shots: answered examples that all of them begin with.

    normalise: a key of LENGTHS, or PRIOR, with `option_priors` as `priors`. positions: of a batch, padding included.
    SaladError where a question needs more than `max_positions` of context and option.
    """
    found = option_log_probs(who, questions, tokenizer, shots, max_positions, progress, positions)
    if normalise == PRIOR:
        priors = option_priors(who.lm, questions, tokenizer) if priors is None else priors
        normalised = [row - prior for row, prior in zip(found, priors, strict=True)]
    else:
        normalised = [row / [LENGTHS[normalise](o) for o in q.options] for row, q in zip(found, questions, strict=True)]
    return Answers(
        found,
        np.array([int(row.argmax()) for row in found], np.int64),
        np.array([int(row.argmax()) for row in normalised], np.int64),
        np.array([(row == row.max()).sum() > 1 for row in normalised], bool),
    )


def option_priors(lm: PreTrainedModel, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """log P(option) at the beginning of a text, without prompt or shots, of every question's options, (options,) each."""
    return option_log_probs(reader(lm), [replace(q, context=Context("")) for q in questions], tokenizer)


@torch.inference_mode()
def option_log_probs(
    who: Reader,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    shots: Context | None = None,
    max_positions: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
    positions: int = BATCH,
) -> list[np.ndarray]:
    """log P(option | prompt) of every question's options, (options,) float64 each, in the order given."""
    asked = [_tokenise(q, tokenizer) for q in questions]
    before = _first(who, _shots(shots, tokenizer)) if shots and shots.text else None
    taken = 0 if before is None else before.real.shape[1]
    lengths = [a.context.positions(who.stack, who.hearing) + max(map(len, a.options)) + taken for a in asked]
    for question, length in zip(questions, lengths, strict=True):
        if max_positions is not None and length > max_positions:
            raise SaladError(
                f"question {question.id} needs {length} positions, above interleave.max_positions ({max_positions})",
                "raise it, or ask for fewer shots",
            )
    found: list[np.ndarray] = [np.empty(0)] * len(questions)
    done = 0
    for members in batches([n - taken for n in lengths], positions):
        for i, row in zip(members, _batch(who, [asked[i] for i in members], before, positions // 4), strict=True):
            found[i] = row
        done += len(members)
        progress(done)
    return found


@dataclass(frozen=True)
class _Asked:
    context: Example  # ends with one token to predict, which is not read
    options: list[np.ndarray]  # the tokens of each


def _tokenise(question: Question, tokenizer: PreTrainedTokenizerBase) -> _Asked:
    """Context and option as one text; a token across their border belongs to the option."""
    text, n_text = question.context.text, len(question.context.text)
    encoded = [tokenizer(text + o, add_special_tokens=False, return_offsets_mapping=True) for o in question.options]
    ids = [list(e["input_ids"]) for e in encoded]
    offsets = [tuple(o) for o in encoded[0]["offset_mapping"]]
    n = 0
    while all(n < len(row) for row in ids) and offsets[n][1] <= n_text and len({row[n] for row in ids}) == 1:
        n += 1
    options = [np.array(row[n:]) for row in ids]
    if not all(map(len, options)):
        raise SaladError(f"question {question.id} has an option without a token", "options must hold text")
    return _Asked(_example(question.id, question.context, [*ids[0][:n], ids[0][n]], offsets[:n], tokenizer), options)


def _shots(shots: Context, tokenizer: PreTrainedTokenizerBase) -> Example:
    encoded = tokenizer(shots.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    return _example("shots", shots, [*ids, ids[-1]], [tuple(o) for o in encoded["offset_mapping"]], tokenizer)


def _example(
    name: str, context: Context, ids: list[int], offsets: list[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> Example:
    """A context and one token after it, which is read whatever the context ends with."""
    n = len(context.text)
    spans = Utterance(name, context.text + " ", list(context.spoken), [], 0).spans()
    tokens = np.array([prefix_token(tokenizer), *ids])
    nothing = np.zeros((0, 0))
    return Example(name, tokens, [*offsets, (n, n + 1)], spans, list(context.frames), nothing, Targets("none"))


@dataclass
class _Read:
    """What the LM has read, by row: its cache, which of the places in it are real, and the state after the last."""

    cache: DynamicCache
    real: torch.Tensor  # (B, L) bool
    last: torch.Tensor  # (B, d)

    def rows(self, at: torch.Tensor) -> _Read:
        """These rows, any number of times each; the original stays as it is."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]  # selecting and extending put new tensors into them
        cache.batch_select_indices(at)
        return _Read(cache, self.real[at], self.last[at])


def _first(who: Reader, example: Example) -> _Read:
    embedded, lengths = _embed(who, [example])
    return _extend(who.lm, None, embedded, lengths)[1]


def _batch(who: Reader, asked: Sequence[_Asked], before: _Read | None, positions: int) -> list[np.ndarray]:
    """Log-probabilities of the options of questions that are read together."""
    device = who.lm.device
    embedded, lengths = _embed(who, [a.context for a in asked])
    if before is not None:  # the prefix token is theirs
        embedded, lengths = embedded[:, 1:], lengths - 1
        before = before.rows(torch.zeros(len(asked), dtype=torch.long, device=device))
    _, read = _extend(who.lm, before, embedded, lengths)
    options = [o for a in asked for o in a.options]
    owner = torch.tensor([i for i, a in enumerate(asked) for _ in a.options], device=device)
    # Each option's first token is predicted by its context's last state, the rest by the tokens before them.
    states, at, of, labels = [read.last], [owner], [torch.arange(len(options), device=device)], [o[0] for o in options]
    for members in batches([len(o) for o in options], positions):
        longest = max(len(options[i]) - 1 for i in members)
        if not longest:
            continue
        rest = torch.tensor([len(options[i]) - 1 for i in members], device=device)
        ids = torch.zeros(len(members), longest, dtype=torch.long)
        for row, i in zip(ids, members, strict=True):
            row[: len(options[i]) - 1] = torch.from_numpy(options[i][:-1])
            labels += options[i][1:].tolist()
        after, _ = _extend(who.lm, read.rows(owner[members]), who.lm.get_input_embeddings()(ids.to(device)), rest)
        n = sum(map(len, states))
        states.append(after[torch.arange(longest, device=device) < rest[:, None]])
        at.append(torch.arange(n, n + len(states[-1]), device=device))
        of.append(torch.repeat_interleave(torch.tensor(members, device=device), rest))
    head = who.lm.get_output_embeddings().weight
    of_tokens = _log_probs(torch.cat(states), head, torch.cat(at), torch.tensor(labels, device=device))
    sums = torch.zeros(len(options), dtype=torch.float64, device=device).index_add_(0, torch.cat(of), of_tokens).cpu().numpy()
    return np.split(sums, np.cumsum([len(a.options) for a in asked])[:-1])


def _embed(who: Reader, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, d), padded at the end, and how many of each row's positions come before its last token, (B,)."""
    batch = send_to_device(collate(examples, who.stack, who.hearing), who.lm.device)
    embedded = who.embed(batch)
    ends = torch.bincount(batch["owner"], minlength=len(examples)).cumsum(0) - 1  # each context predicts at least one token
    last = batch["loss_at"][ends] % embedded.shape[1]
    return embedded[:, : int(last.max()) + 1], last + 1


def _extend(lm: PreTrainedModel, read: _Read | None, embedded: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, _Read]:
    """Read on: states (B, L, d), and everything that is read by now. lengths: (B,), of L; the rest is padding."""
    places = torch.arange(embedded.shape[1], device=embedded.device)
    real = places < lengths[:, None]
    cache = DynamicCache(config=lm.config) if read is None else read.cache
    options: dict[str, Any] = {}
    if read is not None:
        start = read.real.sum(1, keepdim=True)
        seen = torch.cat([read.real, real], dim=1)
        options = {"attention_mask": seen.long(), "position_ids": start + places}
        real = seen
    # Without a past the padding is at the end only and attention is causal: no mask is needed.
    out = lm.get_decoder()(inputs_embeds=embedded, past_key_values=cache, use_cache=True, **options)
    states = out.last_hidden_state
    last = states[torch.arange(len(states), device=states.device), (lengths - 1).clamp_min(0)]
    return states, _Read(out.past_key_values, real, last)


def _log_probs(states: torch.Tensor, head: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(m,) float64: log P of labels (m,), each predicted by the state of its row; logits exist for a few rows at a time."""
    found = torch.empty(len(labels), dtype=torch.float64, device=states.device)
    size = max(CHUNK // len(head), 1)
    for i in range(0, len(states), size):
        log_p = torch.log_softmax((states[i : i + size].to(head.dtype) @ head.T).float(), dim=-1)
        here = (rows >= i) & (rows < i + size)
        found[here] = log_p[rows[here] - i, labels[here]].double()
    return found
