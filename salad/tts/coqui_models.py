"""How Coqui's models speak: VITS in batches and with the times of its words, the others one text at a time.

VITS (Kim et al. 2021, arXiv 2106.06103) decides how many frames each symbol lasts, and a frame is a fixed number of
samples: so it is known, not estimated, when a word is heard.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from salad.audio import Wave
from salad.seeds import derive
from salad.tts.base import Speech, WordTime

BATCH = 8  # texts in one pass of VITS
WIDEST = 4  # words that a front end may join when it reads them
LANGUAGE = "en"  # what a model of several languages speaks
_STRESS = str.maketrans("", "", "ˈˌ")


@dataclass(frozen=True)
class Tokens:
    """A text as a model gets it.

    groups: its symbols as they stand between spaces, mostly one group a word. places: of each group, the tokens that are
    spoken, with the blanks on both sides and without punctuation; none where nothing is.
    """

    ids: list[int]
    groups: list[str]
    places: list[range]


class FrontEnd:
    """Text to tokens: as TTSTokenizer.text_to_ids, and it says which tokens are which word's."""

    def __init__(self, tokenizer: Any, language: str) -> None:
        self._tokenizer = tokenizer
        self._language = language
        self._symbols = lru_cache(100_000)(self._transcribe)

    def __call__(self, text: str) -> Tokens:
        tokenizer, symbols = self._tokenizer, self._symbols(text)
        found = {i: token for i, symbol in enumerate(symbols) if (token := self._id(symbol)) is not None}
        known, ids = list(found), list(found.values())
        ids = tokenizer.intersperse_blank_char(ids) if tokenizer.add_blank else ids
        ids = tokenizer.pad_with_bos_eos(ids) if tokenizer.use_eos_bos else ids
        every, blanks, begin = (2, 1, 1) if tokenizer.add_blank else (1, 0, 0)
        begin += tokenizer.use_eos_bos
        groups, places = [], []
        for group in re.finditer(r"\S+", symbols):
            inside = range(bisect_left(known, group.start()), bisect_left(known, group.end()))
            heard = [n for n in inside if _is_spoken(symbols[known[n]])]
            at = range(begin + every * heard[0] - blanks, begin + every * heard[-1] + blanks + 1) if heard else range(0)
            groups.append(group.group())
            places.append(at)
        return Tokens(ids, groups, places)

    def align(self, words: list[str], groups: list[str]) -> list[tuple[range, range]] | None:
        """Which groups are which words', in order, by reading the words by themselves; None where that does not show it.

        A front end may join words ("of the" is one for espeak) and read them another way than alone: then two, three or
        four are read together.
        """
        if len(words) == len(groups) and all(map(_is_plain, words)):
            return [(range(i, i + 1), range(i, i + 1)) for i in range(len(words))]
        pairs, i, at = [], 0, 0
        while i < len(words):
            read = ((n, self._symbols(" ".join(words[i : i + n])).split()) for n in range(1, WIDEST + 1))
            n, said = next(((n, said) for n, said in read if _alike(said, groups[at : at + len(said)])), (0, []))
            if not n:
                return None
            if len(said) == n:
                pairs += [(range(i + k, i + k + 1), range(at + k, at + k + 1)) for k in range(n)]
            else:
                pairs.append((range(i, i + n), range(at, at + len(said))))
            i, at = i + n, at + len(said)
        return pairs if at == len(groups) else None

    def _transcribe(self, text: str) -> str:
        tokenizer, language = self._tokenizer, self._language
        try:
            if tokenizer.text_cleaner is not None:
                text = tokenizer.text_cleaner(text, lang=language.split("-")[0])
            return tokenizer.phonemizer.phonemize(text, separator="", language=language) if tokenizer.phonemizer else text
        except (ValueError, IndexError, KeyError):  # a text that it cannot read, such as a number of a thousand digits
            return ""

    def _id(self, symbol: str) -> int | None:
        try:
            return int(self._tokenizer.characters.char_to_id(symbol))
        except KeyError:
            return None


def _alike(these: list[str], those: list[str]) -> bool:
    """The same but for stress, which a word has from its sentence."""
    return [g.translate(_STRESS) for g in these] == [g.translate(_STRESS) for g in those]


def _is_spoken(symbol: str) -> bool:
    return unicodedata.category(symbol)[0] not in "PZC"


def _is_plain(word: str) -> bool:
    """One word for every front end."""
    return bool(re.fullmatch(r"['\"“‘(]*[^\W\d_]+(['’][^\W\d_]+)*[,.;:!?'\"”’)]*", word))


class Vits:
    """VITS: symbols to frames for a batch of texts at once, frames to sound for each by itself.

    Nine tenths of the work is the decoder's, which a batch slows down: its activations leave the cache. By itself a sound
    has its own length, and is the same whatever texts it shared a batch with.
    """

    def __init__(self, synthesizer: Any) -> None:
        self._model = synthesizer.tts_model
        self._rate = int(synthesizer.output_sample_rate)
        self._hop = math.prod(self._model.args.upsample_rates_decoder)  # samples a frame of the decoder
        self._longest = self._model.max_inference_len  # in frames; None: no limit
        self._model.max_inference_len = 1  # the decoder's part in `inference`
        self._language = _language(self._model)
        self._read = FrontEnd(self._model.tokenizer, self._language)

    def __call__(self, texts: list[str], speaker: str | None) -> list[Speech]:
        tokens = [self._read(text) for text in texts]
        order = sorted((i for i, t in enumerate(tokens) if any(t.places)), key=lambda i: len(tokens[i].ids))
        speech = [Speech(np.zeros(0, np.float32), self._rate, ())] * len(texts)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            with seeded(derive(0, speaker, *(texts[i] for i in batch))):
                sounds = self._infer([tokens[i].ids for i in batch], speaker)
            for i, (wave, times) in zip(batch, sounds, strict=True):
                speech[i] = Speech(wave, self._rate, self._words(texts[i], tokens[i], times))
        return speech

    def _infer(self, batch: list[list[int]], speaker: str | None) -> list[tuple[Wave, list[float]]]:
        """Of each list of token ids, the sound and when each token begins, and the last ends, in seconds."""
        import torch

        model, n = self._model, len(batch)
        speaker_id, d_vector = model._get_speaker_id_or_dvector(speaker)
        language = model._get_language_id(self._language) if model.args.use_language_embedding else None
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch], batch_first=True)
        given = {
            "x_lengths": torch.tensor([len(ids) for ids in batch]),
            "speaker_ids": None if speaker_id is None else speaker_id.expand(n),
            "d_vectors": None if d_vector is None else d_vector.expand(n, -1),
            "language_ids": None if language is None else torch.full((n,), language),
        }
        sounds = []
        with torch.inference_mode():
            out = model.inference(padded, given)
            who = model._get_speaker_conditioning(given, "emb_g", normalize_embedding=False)  # (n, channels, 1), as inference's
            latents = out["z"] * out["y_mask"]
            for i, ids in enumerate(batch):
                frames = int(out["y_mask"][i].sum())
                wave = model.waveform_decoder(
                    latents[i : i + 1, :, :frames][:, :, : self._longest], g=who if who is None else who[i : i + 1]
                )
                ends = out["durations"][i, 0, : len(ids)].cumsum(0)
                times = ends / ends[-1].clamp(min=1) * (frames * self._hop / self._rate)
                sounds.append((wave[0, 0].numpy().copy(), [0.0, *times.tolist()]))
        return sounds

    def _words(self, text: str, tokens: Tokens, times: list[float]) -> tuple[WordTime, ...]:
        words = list(re.finditer(r"\S+", text))
        heard: list[WordTime] = []
        for of_words, of_groups in self._read.align([w.group() for w in words], tokens.groups) or []:
            if places := [tokens.places[g] for g in of_groups if tokens.places[g]]:
                begin = max(times[places[0].start], heard[-1].end if heard else 0.0)
                chars = words[of_words[0]].start(), words[of_words[-1]].end()
                heard.append(WordTime(*chars, begin, times[places[-1].stop]))
        return tuple(heard)


class OneByOne:
    """Any other model of TTS: one text at a time, each with a seed of its own."""

    def __init__(self, synthesizer: Any) -> None:
        self._tts = synthesizer
        self._language = _language(synthesizer.tts_model)
        self._rate = int(synthesizer.output_sample_rate)

    def __call__(self, texts: list[str], speaker: str | None) -> list[Speech]:
        """A text that the network fails on, as some do on a single letter, gives an empty wave; if all do, it is not the text."""
        failed: list[Exception] = []
        waves = [self._wave(text, speaker, failed) for text in texts]
        if failed and not any(map(len, waves)):
            raise failed[0]
        return [Speech(wave, self._rate) for wave in waves]

    def _wave(self, text: str, speaker: str | None, failed: list[Exception]) -> Wave:
        from TTS.utils.synthesizer import PAD_SILENCE_SAMPLES  # which it adds to every text

        said: list[float] = []
        if self._can_read(text):
            try:
                with seeded(derive(0, speaker, text)):
                    said = self._tts.tts(text, speaker_name=speaker, language_name=self._language, split_sentences=False)
            except (RuntimeError, ValueError, IndexError, AssertionError) as e:
                failed.append(e)
        return np.clip(np.asarray(said[:-PAD_SILENCE_SAMPLES], np.float32), -1, 1)

    def _can_read(self, text: str) -> bool:
        tokenizer = self._tts.tts_model.tokenizer
        if hasattr(tokenizer, "characters"):
            return any(FrontEnd(tokenizer, self._language)(text).places)
        return any(map(str.isalnum, text))  # XTTS


def _language(model: Any) -> str:
    names: list[str] = model.language_manager.language_names
    return LANGUAGE if LANGUAGE in names else names[0]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's and numpy's draws of what is said inside; both generators are afterwards as they were before."""
    import torch

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads of torch mostly wait for each other here, and workers have a core each."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
