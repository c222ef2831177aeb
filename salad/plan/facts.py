"""Everything that the rows of a plan are computed from: counts that the configuration fixes, and sizes of its models."""

from __future__ import annotations

from dataclasses import dataclass, field

from salad.config import Config, Voice
from salad.plan.machine import Machine
from salad.plan.networks import Ears, Reader, ears, reader, trained
from salad.plan.supply import Supply, heard, passages, words_a_text

WORDS_PER_SECOND = 2.8  # hibari and Kokoro (docs/results.md); Piper and espeak 2.9
TOKENS = 1.35  # a word: SmolLM2 1.2 to 1.4 on the packaged texts, BERT 1.35 to 1.5
QUESTION = 25  # words of a benchmark's question that are heard
CORE_SECONDS = {"hibari": 0.0065, "kokoro": 0.30, "piper": 0.045, "espeak": 0.0016}  # for a second of speech: docs/results.md
RATES = {"piper": 22_050, "espeak": 22_050}  # Hz; others 24,000


@dataclass(frozen=True)
class Facts:
    config: Config
    machine: Machine
    supply: Supply
    words: float  # a text
    heard: float  # words of it
    spans: float  # that are heard of it
    lm: Reader
    embedder: Reader
    encoder: Ears
    asr: Ears | None
    adapter: float  # weights
    learns: float  # weights of the LM that a step changes
    seconds: dict[str, float] = field(default_factory=dict)  # of speech, by kind
    how_spoken: dict[str, str] = field(default_factory=dict)
    beside: float = 0.0  # texts of select.evaluation and select.target

    @property
    def texts(self) -> float:
        return self.supply.texts

    @property
    def a_text(self) -> float:
        """Seconds of speech."""
        return self.heard / WORDS_PER_SECOND

    @property
    def tokens(self) -> float:
        """Of a text that is read throughout."""
        return self.words * TOKENS

    @property
    def read(self) -> float:
        """Tokens of a text that are read: where the loss is."""
        return (self.words - self.heard) * TOKENS

    @property
    def positions(self) -> float:
        """Of the student's sequence, a text partly heard."""
        return 1 + self.read + self.a_text * self.config.student.adapter.frame_rate

    def spoken(self, kind: str) -> float:
        """Texts with so much speech."""
        return self.seconds.get(kind, 0.0) / self.a_text

    def is_synthesised(self, kind: str) -> bool:
        return kind != "natural" or bool(self.config.natural.domains)

    @property
    def synthesised(self) -> float:
        return sum(s for kind, s in self.seconds.items() if self.is_synthesised(kind))

    def listened(self, kind: str) -> float:
        """Share of a kind that the ASR hears."""
        n = self.config.natural
        return 1.0 if kind != "natural" else 0.0 if n.shards else n.asr_share

    def voices(self, kind: str) -> list[Voice]:
        speech = self.config.speech
        return [speech.heldout_voice] if speech.heldout_voice and kind in ("held-out", "benchmarks") else speech.voices

    # -- training --------------------------------------------------------------------------------------------

    @property
    def reads_text(self) -> bool:
        return self.config.student.lm != "frozen" and self.config.train.mix.text > 0

    @property
    def steps(self) -> dict[str, int]:
        """Optimiser steps of each part, every one with its own decay."""
        t, rounds = self.config.train, self.config.rounds
        found = {"Stage I": t.stage_one_steps + t.decay_steps, "rounds": rounds * (t.round_steps + t.decay_steps)}
        return found | ({"control": rounds * t.round_steps + t.decay_steps} if self.config.control else {})

    def samples(self, stage: str) -> float:
        return self.steps[stage] * self.config.train.batch_size * self.config.train.accumulate

    def text_share(self, stage: str) -> float:
        """Of samples that are read throughout."""
        mix = self.config.train.mix
        weights = mix.natural + (mix.synthetic if stage == "rounds" else 0.0)
        return mix.text / (weights + mix.text) if self.reads_text else 0.0

    def mean_positions(self, stage: str) -> float:
        text = self.text_share(stage)
        return (1 - text) * self.positions + text * (1 + self.tokens)

    @property
    def text_only(self) -> float:
        """Texts that are prepared to be read."""
        t = self.config.train
        return min(self.texts, t.batch_size * t.accumulate * t.stage_one_steps) if self.reads_text else 0.0

    @property
    def students(self) -> int:
        """That are measured by ear: untrained, Stage I, every round, control. One more has no ears."""
        return 2 + self.config.rounds + self.config.control


def gather(config: Config, on: Machine, texts: int | None) -> Facts:
    supply = Supply(texts, "--texts") if texts else passages(config, config.pool.sources)
    words = words_a_text(config)
    said, spans = heard(config, words)
    lm, listening = reader("lm", config.models.lm), ears("encoder", config.models.encoder)
    adapter, learns = trained(config, lm, listening)
    facts = Facts(
        config, on, supply, words, max(said, 1e-9), spans, lm, reader("embedder", config.models.embedder), listening,
        ears("asr", config.models.asr) if config.models.asr else None, adapter, learns,
        beside=sum(s.limit or 0 for s in (*config.select.evaluation, *config.select.target)),
    )  # fmt: skip
    seconds, how = _speech(config, facts.a_text)
    return Facts(**{**vars(facts), "seconds": seconds, "how_spoken": how})


def _speech(config: Config, a_text: float) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds by kind, and how they are known."""
    p, n, b = config.probe, config.natural, config.evaluate
    each = f"{a_text:.1f} s a text: words heard / {WORDS_PER_SECOND} a second"
    first = config.cluster.k * p.per_cluster
    asked = [name for name in b.benchmarks if name != "mmsu"]  # which brings its sound
    brought = "recordings" if n.recordings else "shards" if n.shards else "spoken"
    found = {
        "probes": (p.budget, "probe.budget") if p.budget else (first * a_text, f"{first:,} probes, {each}"),
        "held-out": (p.heldout * a_text, f"{p.heldout:,} texts, {each}"),
        "natural": (n.seconds, f"natural.seconds, {brought}"),
        "rounds": (config.rounds * config.select.budget, f"{config.rounds} x select.budget"),
    }
    if asked:
        questions = len(asked) * b.items
        found["benchmarks"] = (questions * QUESTION / WORDS_PER_SECOND, f"{questions:,} questions of {QUESTION} words")
    return {kind: float(s) for kind, (s, _) in found.items()}, {kind: how for kind, (_, how) in found.items()}
