"""Recorded speech with transcripts, one utterance at a time: decoded, checked, and named with a reason where it cannot be used.

Lhotse cuts, an audio folder, or whatever `datasets` opens: `recording_sources` reads them alike.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from salad.audio import Wave
from salad.config import Recordings
from salad.pipeline.clean import clean, short_name
from salad.pipeline.recording_sources import SLACK, Entry, Unreadable, open_entries
from salad.pipeline.streams import files_of

RATES = (4_000, 384_000)  # samples a second that speech is recorded at
_TAG = re.compile(r"<[^<>]*>|&[a-z]+;|&#\d+;")


@dataclass(frozen=True)
class Word:
    """A word and when it is heard, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Recording:
    """An utterance: finite float32 mono, not empty; `words` where its word times were given."""

    key: str  # how its source names it
    text: str  # cleaned, one space between words
    wave: Wave
    rate: int
    words: tuple[Word, ...] | None
    group: str  # speaker or recording, or ""


@dataclass(frozen=True)
class Unusable:
    """An utterance that cannot be one, and why."""

    key: str
    text: str | None
    group: str
    reason: str


def read_recordings(source: Recordings) -> Iterator[Recording | Unusable]:
    """Utterances in their source's order, one in memory at a time, `source.limit` at most.

    SaladError when the source itself cannot be read: nothing there, no such column, a damaged file.
    """
    for entry in islice(open_entries(source), source.limit):
        key, group = short_name(entry.key), short_name(entry.group)
        text = " ".join(clean(entry.text).split()) if isinstance(entry.text, str) else ""
        try:
            if not any(map(str.isalnum, text)):
                raise Unreadable("no text")
            if _TAG.search(text):  # <unk>, <laughter>: nobody says that
                raise Unreadable("markup")
            wave, rate = _decoded(entry)
            yield Recording(key, text, wave, rate, _words(entry.words, len(wave) / rate), group)
        except Unreadable as e:
            yield Unusable(key, text or None, group, str(e))


def recording_files(source: Recordings) -> dict[str, Any]:
    """Of a local source: how many files, their bytes, and a digest of names and sizes. {} for a hub name."""
    path = Path(source.dataset).expanduser()
    inside = (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else iter(files_of(source.dataset))
    sizes = sorted((str(p), p.stat().st_size) for p in inside)
    digest = hashlib.blake2b(json.dumps(sizes).encode(), digest_size=8).hexdigest()
    return {"files": len(sizes), "bytes": sum(size for _, size in sizes), "digest": digest} if sizes else {}


def _decoded(entry: Entry) -> tuple[Wave, int]:
    try:
        wave, rate = entry.sound()
    except (RuntimeError, OSError, TypeError, ValueError, IndexError, MemoryError) as e:  # of libsndfile, too
        raise Unreadable("cannot be decoded") from e
    if len(wave) == 0:
        raise Unreadable("no sound")
    if not RATES[0] <= rate <= RATES[1]:
        raise Unreadable("no rate of speech")
    if not np.isfinite(wave).all():
        raise Unreadable("sound is not finite")
    return wave, rate


def _words(given: Any, seconds: float) -> tuple[Word, ...] | None:
    """Word times of any of the shapes that files have them in; None where there are none.

    A list of {word, start, end}, its JSON, or a dict of three lists, which is how `datasets` may give the first.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except ValueError as e:
            raise Unreadable("word times cannot be read") from e
    if not given:
        return None
    try:
        columns: Iterable[Any]
        if isinstance(given, dict):
            columns = zip(given["word"], given["start"], given["end"], strict=True)
        else:
            columns = ((w["word"], w["start"], w["end"]) for w in given)
        words = tuple(Word(str(word), _from_zero(float(start)), float(end)) for word, start, end in columns)
    except (KeyError, TypeError, ValueError) as e:
        raise Unreadable("word times cannot be read") from e
    starts = [w.start for w in words]
    if starts != sorted(starts) or not all(0 <= w.start <= w.end < math.inf for w in words):
        raise Unreadable("word times out of order")
    if max(w.end for w in words) > seconds + SLACK:
        raise Unreadable("words beyond the sound")
    return words


def _from_zero(seconds: float) -> float:
    return 0.0 if -SLACK < seconds < 0 else seconds
