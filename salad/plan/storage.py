"""Bytes of every artefact that a run keeps."""

from __future__ import annotations

from collections.abc import Iterator

from salad.plan.facts import RATES, TOKENS, Facts
from salad.plan.supply import CHARS

Stored = tuple[tuple[str, float], str]  # (what, bytes), how

POOL_ROW, POOL_TEXT = 30, 0.4  # bytes a row beside its text, and what zstd leaves of that
FLAC = 1.0  # bytes a sample of 16: hibari's sound
SPEECH_ROW = 600  # bytes beside the sound: text, spans, measures
TOKEN = 10  # bytes of a token, its place and its share of the row, in examples.parquet
PAGES = 8e6  # bytes: plotly.js is most of it
FLOAT, HALF = 4, 2
ADAM = 3 * FLOAT  # bytes a weight in a checkpoint to go on from: itself and AdamW's two moments
HELD = 3  # such checkpoints at most, the one being written included


def storage_rows(f: Facts) -> Iterator[Stored]:
    from salad.pipeline.report.sample_table import SOUNDS

    c, d = f.config, f.embedder.width
    yield (
        ("pool", f.texts * (POOL_ROW + f.words * CHARS * POOL_TEXT)),
        f"{POOL_ROW} bytes a text, and its words at {POOL_TEXT:.0%}",
    )
    yield ("embeddings", (f.texts + f.beside) * d * HALF), f"texts x {d} x 2 bytes"
    yield ("clusters", f.texts * FLOAT + c.cluster.k * d * FLOAT), "4 bytes a text, and the centres"
    times = c.rounds + (c.probe.waves if c.probe.budget else 0)
    yield ("predicted", 3 * FLOAT * f.texts * times), f"12 bytes a text, {times} times"
    sound = sum(s * _rate(f, kind) for kind, s in f.seconds.items()) * FLAC
    rows = sum(f.spoken(kind) for kind in f.seconds) * (SPEECH_ROW + f.words * CHARS)
    copied = min(1.0, SOUNDS / max(1.0, f.spoken("rounds")))
    chosen = f.seconds["rounds"] * _rate(f, "rounds") * FLAC
    yield ("report", PAGES + chosen * copied), f"pages, and the sounds of the rounds once more, {SOUNDS:,} at most"
    yield ("speech", sound + rows), f"FLAC, {FLAC:g} byte a sample, and {SPEECH_ROW} bytes and the text a row"
    yield _features(f)
    stages = 1 + c.rounds + c.control
    weights = f.adapter + f.learns
    how = f"{stages} stages, before and after the decay, {weights / 1e6:,.1f} M weights that learn x 4 bytes"
    yield ("checkpoints", 2 * stages * weights * FLOAT), how
    yield ("while training", HELD * ADAM * weights), f"{HELD} states to go on from, 12 bytes a weight; gone afterwards"


def _features(f: Facts) -> Stored:
    seconds, e, teacher = sum(f.seconds.values()), f.encoder, f.config.train.teacher
    frames = seconds * e.frame_rate * e.width * HALF
    states = f.lm.width * HALF
    k = f.config.train.top_k
    kept = 4 + k * (4 if f.lm.shape["vocab_size"] <= 2**16 else 6)
    a_position = {"states": states, "cached": kept, "online": 0}[teacher]
    measured = (f.spoken("probes") + f.spoken("held-out")) * f.read
    taught = (f.spoken("natural") + f.spoken("rounds")) * f.read + f.text_only * f.tokens
    texts = sum(f.spoken(kind) for kind in f.seconds) + f.text_only
    total = frames + measured * states + taught * a_position + texts * f.words * TOKENS * TOKEN
    how = f"{e.frame_rate:g} frames a second x {e.width} x 2 bytes; targets ({teacher}) {a_position} bytes a text position"
    return ("features", total), how


def _rate(f: Facts, kind: str) -> float:
    """Samples a second: recordings are kept at what is heard of them."""
    if not f.is_synthesised(kind):
        return 16_000
    voices = f.voices(kind)
    return sum(v.weight * RATES.get(v.engine, 24_000) for v in voices) / sum(v.weight for v in voices)
