"""The run in words: what was done with what, and what the figures do and do not say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from salad.pipeline import summary
from salad.pipeline.report.figures import CONTROL, NO_SPEECH, SYMBOLS, scored_rounds

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SIGNALS = {
    "divergence": "how far the student that hears is from the teacher that reads",
    "misalignment": "how far the student that hears is from itself reading",
    "excess": "how much further the student is from the teacher when it hears than when it reads",
}


def story(run: Run) -> list[str]:
    """Paragraphs of plain text: what was done, what the figures cannot say, what they say."""
    parts = (_setting(run), _signal(run), _limits(run), _result(run))
    return [text for part in parts if (text := " ".join(part))]


def _setting(run: Run) -> Iterator[str]:
    c = run.config
    copy = "a frozen copy" if c.student.lm == "frozen" else "a trained copy"
    spoken = [f"“{v.label}” ({v.engine})" for v in c.speech.voices]
    voice = f"the synthetic voice{'s' if len(spoken) > 1 else ''} {_listed(spoken)}"
    yield (
        f"The teacher is {c.models.lm}, which reads. The student is {copy} of it that listens through {c.models.encoder} "
        f"(frozen) and an adapter of {c.student.adapter.layers} layers, at {c.student.adapter.frame_rate:g} positions a second."
    )
    if brought := c.natural.shards or (c.natural.recordings and c.natural.recordings.dataset):
        yield f"Stage I heard natural speech from {brought}. Everything else that is heard is spoken by {voice}."
    else:
        yield (
            f"No human voice was used: {_natural_seconds(run)} of texts from {_listed(c.natural.domains)}, spoken by {voice}, "
            f"stood in for natural speech. {'The same voice speaks' if len(spoken) == 1 else 'The same voices speak'} the probes "
            "and whatever the rounds choose."
        )
    heldout = c.speech.heldout_voice
    says = f"by “{heldout.label}” ({heldout.engine}), which no training hears" if heldout else "likewise"
    yield f"The held-out texts are spoken {says}."
    wanted = f"γ = {c.select.gamma:g}"
    if c.select.target_ess is not None:
        wanted = f"γ such that P_target amounts to {c.select.target_ess:g} equal clusters"
    yield (
        f"In {_count(c.rounds, 'round')} the selector {c.select.selector} had {c.select.budget:g} seconds of synthetic speech a "
        f"round to spend on texts of {c.cluster.k} clusters ({wanted})."
    )


def _signal(run: Run) -> Iterator[str]:
    """What the last scored round had to choose by, and what was wrong with it."""
    rounds = scored_rounds(run)
    if not rounds:
        return
    meta = run.store.manifest(f"round-{rounds[-1]:03d}/scores").meta
    yield (
        f"What the rounds have to choose by is {SYMBOLS[meta['signal']]}, {SIGNALS[meta['signal']]}, measured on "
        f"{_count(meta['probes'], 'probe')}: {meta['seconds']:,.0f} seconds of speech that is never trained on."
    )
    if n := meta["quarantined"]:
        yield f"{_count(n, 'more probe')} cannot be used and {'counts' if n == 1 else 'count'} nowhere."
    if n := meta["flagged"]:
        yield f"In round {rounds[-1]}, {_count(n, 'cluster')} {'is' if n == 1 else 'are'} flagged and left out of P_target."


def _limits(run: Run) -> Iterator[str]:
    models = run.config.models
    if run.config.student.lm == "frozen":
        yield (
            "The student’s LM is frozen, so it reads exactly as its teacher does: F is 0 and M equals D by construction. "
            "Only D is a finding."
        )
    if models.asr is None:
        yield "No ASR listened to the speech, so there is no character error rate."
    elif models.asr == models.encoder:
        yield (
            f"The ASR that judges the speech, {models.asr}, is the network whose encoder the student hears with. This check "
            "is circular: a low character error rate says that the student can hear the words, not that a person would."
        )


def _result(run: Run) -> Iterator[str]:
    measured = {name: (label, summary.metrics(run, name)["all"]) for label, name, _ in summary.students(run)}
    levels = [f"{m['D']:.3f} {label}" for name, (label, m) in measured.items() if name not in (NO_SPEECH, CONTROL)]
    if levels:
        texts = next(iter(measured.values()))[1]["texts"]
        yield f"On {_count(texts, 'held-out text')} D, in nats a position, is {_listed(levels)}."
    if NO_SPEECH in measured:
        yield f"With no speech at all, guessing from the text around it, D is {measured[NO_SPEECH][1]['D']:.3f}."
    if verdict := summary.against_control(run):
        yield f"The control had the data of Stage I alone, for as many steps. {verdict}"


def _natural_seconds(run: Run) -> str:
    if summary.published(run, "natural"):
        return f"{run.store.manifest('natural').meta['seconds']:,.0f} seconds"
    return f"up to {run.config.natural.seconds:,.0f} seconds"


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
