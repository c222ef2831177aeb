"""Wall time by kind of stage, as the table at the end of a run names them."""

from __future__ import annotations

from collections.abc import Iterator

from salad.plan.facts import CORE_SECONDS, TOKENS, WORDS_PER_SECOND, Facts

Timed = tuple[tuple[str, float], str]  # (what, seconds), how

CLEANING = 0.022e-3  # seconds a word, one core: cleaned, judged, near duplicates, priced (the demo's pool: 20 s)
FITTING = 0.015  # seconds a cluster: centres from a sample (bench/cluster.py) …
ASSIGNING = 25e9  # … and then FLOP a second and core
SURROGATE = 40e9  # FLOP a second and core in float32, of D predicted for every text
PADDING = 1.5  # seconds of silence around a span that an ASR hears
PROMPT = 3  # tokens of its decoder that are no words
ALIGNED = 96  # held-out texts whose inner states are compared
ANSWERED = 200  # positions a question and its options cost a student


def time_rows(f: Facts) -> Iterator[Timed]:
    """In the order of a run. What takes under a hundredth of it (choosing, writing the report) is left out."""
    c, on = f.config, f.machine
    yield ("pool", f.texts * f.words * CLEANING), f"{CLEANING * 1e6:.0f} µs a word, on one core"
    embedded = (f.texts + f.beside) * f.tokens
    yield _network(f, "embeddings", 2 * f.embedder.body * embedded, f"2 x {_m(f.embedder.body)} x {_m(embedded)} tokens")
    assigned = 2.0 * f.texts * c.cluster.k * f.embedder.width / ASSIGNING / on.cores
    how = f"a fit on a sample, then 2 x texts x {c.cluster.k} x {f.embedder.width} FLOP on {on.cores} cores"
    yield ("clusters", FITTING * c.cluster.k + assigned), how
    core = sum(s * _core_seconds(f, kind) for kind, s in f.seconds.items() if f.is_synthesised(kind))
    yield ("speech: TTS", core / on.cores), f"{core / 3600:,.1f} core-hours ({_engines(f)}) on {on.cores} cores, whatever the GPU"
    if f.asr:
        yield _asr(f)
    yield _features(f)
    yield _metrics(f)
    yield _training(f)
    yield from _scores(f)


def _network(f: Facts, what: str, flop: float, how: str, decoding: float = 0.0) -> Timed:
    reached = f"{f.machine.steady:.0%} of {f.machine.peak / 1e12:,.2f} TFLOP/s"
    return (what, f.machine.seconds(flop, decoding)), f"{how} = {flop + decoding:.1e} FLOP at {reached}"


def _asr(f: Facts) -> Timed:
    assert f.asr is not None
    listened = sum(s * f.listened(kind) for kind, s in f.seconds.items())
    spans = listened / f.a_text * f.spans
    tokens = listened * WORDS_PER_SECOND * TOKENS + PROMPT * spans
    flop = f.asr.flop_per_second * (listened + PADDING * spans)
    (what, seconds), how = _network(f, "speech: ASR", flop, f"{listened:,.0f} s heard", 2 * f.asr.decoder * tokens)
    return (what, seconds), f"{how}, {f.machine.decoding:.1%} where it decodes"


def _features(f: Facts) -> Timed:
    """The encoder on every sound, the teacher on every text that keeps something of it."""
    teacher = f.config.train.teacher
    heard = f.encoder.flop_per_second * sum(f.seconds.values())
    measured, taught = f.spoken("probes") + f.spoken("held-out"), f.spoken("natural") + f.spoken("rounds")
    read = (measured + (taught + f.text_only) * (teacher != "online")) * f.tokens
    kept = (taught * f.read + f.text_only * f.tokens) * (teacher == "cached")
    flop = heard + 2 * f.lm.body * read + 2 * f.lm.head * kept
    return _network(f, "features", flop, f"encoder on {sum(f.seconds.values()):,.0f} s, teacher on {_m(read)} tokens")


def _metrics(f: Facts) -> Timed:
    """Held-out texts by every student, and without ears; spans of some of them heard and read; questions."""
    n = f.config.probe.heldout
    read = 0 if f.learns == 0 else n * f.tokens
    aligned = min(ALIGNED, n) * (f.positions + f.tokens)
    asked = len(f.config.evaluate.benchmarks) * f.config.evaluate.items * ANSWERED
    positions = (f.students + 1) * (n * f.positions + read + asked) + f.students * aligned
    heads = (f.students + 1) * n * f.read * (3 if f.learns else 2)
    flop = 2 * f.lm.body * positions + 2 * f.lm.head * heads
    return _network(f, "metrics", flop, f"{f.students + 1} students, {_m(positions)} positions")


def _training(f: Facts) -> Timed:
    t = f.config.train
    passes = (6 if f.config.student.lm == "full" else 4) + (2 if t.gradient_checkpointing else 0)
    flop = 0.0
    for stage in f.steps:
        text = f.text_share(stage) * f.samples(stage)
        spoken = f.samples(stage) - text
        positions = spoken * f.positions + text * (1 + f.tokens)
        losses, taught = spoken * f.read + text * f.tokens, (spoken + text) * f.tokens
        flop += passes * f.lm.body * positions + 6 * f.adapter * spoken * (f.positions - f.read)
        flop += (6 if f.config.student.lm == "full" else 4) * f.lm.head * losses
        flop += 0 if t.teacher == "cached" else 2 * f.lm.head * losses
        flop += 2 * f.lm.body * taught if t.teacher == "online" else 0
    return _network(f, "training", flop, f"{passes} x {_m(f.lm.body)} a position, adapter and heads")


def _scores(f: Facts) -> Iterator[Timed]:
    """Every probe once a round; and D predicted for every text of the pool from them, on the processors."""
    rounds, probes, cores = f.config.rounds, f.spoken("probes"), f.machine.cores
    positions = rounds * probes * (f.positions + (f.tokens if f.learns else 0))
    flop = 2 * f.lm.body * positions + 2 * f.lm.head * rounds * probes * f.read * (3 if f.learns else 2)
    yield _network(f, "scores: probes", flop, f"{probes:,.0f} probes x {rounds} rounds")
    predicted = rounds * f.texts * 2 * (f.embedder.width * probes + probes**2)
    how = f"2 x texts x ({f.embedder.width} x probes + probes²) = {predicted:.1e} FLOP on {cores} cores"
    yield ("scores: D of every text", predicted / SURROGATE / cores), how


def _core_seconds(f: Facts, kind: str) -> float:
    """Of TTS for a second of speech; a voice that was not measured counts as Kokoro, the slowest that was."""
    voices = f.voices(kind)
    costs = [v.weight * CORE_SECONDS.get(v.engine, CORE_SECONDS["kokoro"]) for v in voices]
    return sum(costs) / sum(v.weight for v in voices)


def _engines(f: Facts) -> str:
    used = dict.fromkeys(v.engine for v in f.config.speech.all_voices)
    return ", ".join(f"{e} {CORE_SECONDS[e]:g} a second" if e in CORE_SECONDS else "an engine taken for Kokoro" for e in used)


def _m(number: float) -> str:
    """1.2 M, 3.4 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
