"""A student answers: what it goes on with after a sound and a text, by its LM's own `generate` and its KV cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from salad.audio import Wave, resample
from salad.errors import SaladError
from salad.trainer.batch import padded
from salad.trainer.data import prefix_token

if TYPE_CHECKING:
    from salad.trainer.student import Student

AUDIO = "<audio>"  # in a prompt: here is the sound
PIECE = 30.0  # seconds of sound encoded at a time, at most
QUIET = 0.1  # seconds whose power tells how quiet a moment is


@torch.inference_mode()
def generate(
    student: Student,
    audio: tuple[Wave, int] | None,
    prompt: str = "",
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    write: Callable[[str], None] | None = None,
) -> str:
    """The student's continuation of a sound and a prompt, until the LM ends it or `max_new_tokens` are there.

    audio: a mono wave in [-1, 1] and its rate, or None. prompt: text; "<audio>" in it, once, is where the sound goes,
    by default before it. Nothing else in it is special: "<|im_end|>" is ten characters. temperature 0: greedy, else
    sampled by `seed`. write: gets the text as it comes. SaladError when there is nothing to go on, the sound cannot
    be used, or both are too long for the LM.
    """
    tokenizer, lm = student.tokenizer, student.language_model
    before, after = _around_audio(prompt, audio is not None)
    ids = [[prefix_token(tokenizer), *_tokens(before, tokenizer)], _tokens(after, tokenizer)]
    was_training = student.training
    student.eval()
    try:
        parts = [lm.get_input_embeddings()(torch.tensor(i, dtype=torch.long, device=student.device)) for i in ids]
        if audio is not None:
            room = _room(lm) - max_new_tokens - sum(map(len, ids))
            parts.insert(1, _heard(student, *audio, room).to(parts[0].dtype))
        given = torch.cat(parts)
        if len(given) == 1:
            raise SaladError("there is neither sound nor text to go on", "give an audio file, a prompt, or both")
        if len(given) + max_new_tokens > _room(lm):
            raise SaladError(
                f"{len(given)} positions and {max_new_tokens} new tokens are more than the {_room(lm)} that the LM can hold",
                "shorten the prompt, or lower max_new_tokens",
            )
        with torch.random.fork_rng(devices=[student.device] if student.device.type == "cuda" else []):
            torch.manual_seed(seed)
            found = lm.generate(
                inputs_embeds=given[None],
                attention_mask=torch.ones(1, len(given), dtype=torch.long, device=given.device),
                generation_config=_settings(lm, tokenizer, max_new_tokens, temperature, top_p),
                streamer=_Streamer(tokenizer, write) if write else None,
            )
    finally:
        student.train(was_training)
    return str(tokenizer.decode(found[0], **DECODE))


DECODE: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


class _Streamer(TextStreamer):
    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, **DECODE)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.write(text)


def _settings(
    lm: Any, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float, top_p: float
) -> GenerationConfig:
    """Plain greedy or nucleus sampling, whatever the LM's authors set for chats; rows beyond the vocabulary never come."""
    ends = lm.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    sampled = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        suppress_tokens=list(range(len(tokenizer), lm.config.vocab_size)) or None,
        repetition_penalty=1.0,
        top_k=0,
        **sampled,
    )


def _around_audio(prompt: str, sounds: bool) -> tuple[str, str]:
    """The prompt before the sound and after it."""
    before, marker, after = prompt.partition(AUDIO)
    if AUDIO in after:
        raise SaladError(f"the prompt has {AUDIO} more than once", "one sound goes into one place")
    if marker and not sounds:
        raise SaladError(f"the prompt has {AUDIO}, but there is no sound", "give an audio file, or leave it out")
    return (before, after) if marker else ("", prompt)


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _room(lm: Any) -> int:
    return int(getattr(lm.config, "max_position_embeddings", None) or 2**31)


def _heard(student: Student, wave: Wave, rate: int, room: int) -> torch.Tensor:
    """(T, d): a sound as positions of the LM, at most `room` of them; each piece of it is a span of its own."""
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise SaladError("the sound is empty, not mono or not finite", "give one wave with at least one sample")
    encoder, stack = student.speech_encoder, student.config.stack
    needs = math.ceil(len(wave) / rate * encoder.frame_rate / stack)
    if needs > room:
        raise SaladError(
            f"{len(wave) / rate:.0f} s of sound need {needs} positions, where the LM has room for {max(room, 0)}",
            "cut the sound, or lower max_new_tokens",
        )
    frames = encoder.encode(cut_at_quiet(resample(wave, rate, encoder.rate), encoder.rate, min(encoder.window, PIECE)))
    counts = [math.ceil(len(f) / stack) for f in frames]
    spans = padded([f.float().cpu().numpy() for f in frames], max(counts) * stack)
    assert spans is not None
    heard = student.hear(spans.to(student.device))
    return torch.cat([h[:n] for h, n in zip(heard, counts, strict=True)])


def cut_at_quiet(wave: Wave, rate: int, longest: float) -> list[Wave]:
    """A wave in pieces of at most `longest` seconds, each cut at the quietest moment of its second half."""
    most, around = max(int(longest * rate), 2), max(int(QUIET * rate), 1)
    start, pieces = most // 2, []
    while len(wave) > most:
        energy = np.cumsum(np.square(wave[start:most], dtype=np.float64))
        moments = energy[around:] - energy[:-around]
        at = start + 1 + (int(np.argmin(moments)) + around // 2 if len(moments) else 0)
        pieces.append(wave[:at])
        wave = wave[at:]
    return [*pieces, wave]
