"""The listening page: what a person judges voices and quality control by, a few sounds of each voice and of each fault."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.pipeline import summary
from salad.pipeline.report import rates, samples
from salad.pipeline.report.difference import SAME, Piece, differences
from salad.pipeline.report.rates import Tried
from salad.seeds import derive

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

PAGE = "listening.html"
HANDFUL = 5  # of each voice, kept, whatever they are like
WORST = 3  # of each voice, kept, whose CER is highest
FAULTY = 4  # of each reason
CLUSTERS = 12  # in the table before it is unfolded
RECORDED = "natural speech"  # that was brought, whoever speaks
PURPOSES = {
    "probe": "probes",
    "heldout": "held-out texts",
    "natural": "Stage I",
    "probe-": "probes, wave {}",
    "round-": "round {}",
}
MEASURES = (
    ("seconds", "seconds", "{:.1f}"),
    ("words a second", "words_per_second", "{:.2f}"),
    ("edge silence", "edge_silence", "{:.2f} s"),
    ("longest pause", "pause", "{:.2f} s"),
    ("clipped", "clipped", "{:.2%}"),
    ("gain", "gain", "{:+.1f} dB"),
)


@dataclass(frozen=True)
class Section:
    """Samples that are heard one after the other."""

    title: str
    parts: list[tuple[str, list[dict[str, Any]]]]  # what the samples are, and the samples


def brought(run: Run) -> list[str]:
    """The published speech artefact that no voice of the run spoke, if there is one."""
    return [] if run.config.natural.domains or not summary.published(run, "natural") else ["natural"]


def sections(run: Run, texts: list[Tried], sounds: Path) -> list[Section]:
    """A section a voice, by name, and one of what was turned down. Sounds are written into `sounds`, named by number.

    The same texts give the same samples.
    """
    recorded, seed, number = brought(run), run.config.seed, count(1)

    def section(title: str, parts: list[tuple[str, list[Tried]]]) -> Section:
        return Section(title, [(what, [_sample(text, sounds, next(number)) for text in some]) for what, some in parts if some])

    found = []
    voices = rates.grouped(texts, lambda text: RECORDED if text.stage in recorded else text.who)
    for who, some in sorted(voices.items()):
        kept = [text for text in some if text.rejected is None]
        handful = across_clusters(kept, seed, HANDFUL)
        found.append(section(who, [("Kept", handful), ("Kept, and understood worst", worst(kept, but=handful))]))
    reasons = rates.grouped((text for text in texts if text.reason), lambda text: text.reason)
    common = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    faults = [(f"{reason} ({len(some):,})", across_clusters(some, seed, FAULTY)) for reason, some in common]
    found.append(section("Turned down", faults))
    return [section for section in found if section.parts]


def across_clusters(texts: list[Tried], seed: int, most: int) -> list[Tried]:
    """Texts drawn by seed and id, those with a sound first, each of another cluster as far as there are clusters."""
    drawn = sorted(texts, key=lambda text: (text.seconds is None, derive(seed, "listening", text.id)))
    ranked, before = [], dict.fromkeys((text.cluster for text in drawn), 0)
    for text in drawn:
        ranked.append((text.seconds is None, before[text.cluster], text))
        before[text.cluster] += 1
    return [text for *_, text in sorted(ranked, key=lambda item: item[:2])[:most]]


def worst(texts: list[Tried], but: list[Tried]) -> list[Tried]:
    """Those whose CER is highest, without those that stand elsewhere and those that were understood."""
    wrong = [text for text in texts if text.cer and text.cer > 0 and text not in but]
    return sorted(wrong, key=lambda text: (-(text.cer or 0.0), text.id))[:WORST]


def _sample(text: Tried, sounds: Path, number: int) -> dict[str, Any]:
    """A whole row as the page shows it. What is not known is a dash, but of a text without sound only what is known stands."""
    row = samples.with_sound(samples.read_row(text.file, text.row), sounds, f"sample-{number:05d}.flac")
    facts = [("CER", text.cer if text.cer is not None or not row["sound"] else "not checked")]
    facts += [(name, _measure(row.get(column), form)) for name, column, form in MEASURES]
    return {
        "number": number,
        "sound": row["sound"],
        "pieces": row["pieces"],
        "said": said_otherwise(row),
        "heard": heard(row),
        "facts": [
            ("voice", text.who),
            ("spoken for", purpose(text.stage)),
            ("cluster", text.cluster),
            *([("turned down", text.rejected)] if text.rejected else []),
            *((name, value) for name, value in facts if row["sound"] or value is not None),
        ],
    }


def _measure(value: float | None, form: str) -> str | None:
    return None if value is None or value != value else form.format(value)


def purpose(stage: str) -> str:
    """What a speech artefact is spoken for, in words."""
    head, dash, number = stage.removesuffix("/speech").partition("-")
    return PURPOSES[head + dash].format(int(number or 0))


def said_otherwise(row: dict[str, Any]) -> list[str]:
    """The spoken forms of the spans that are not spoken letter by letter as they are written."""
    return [said for written, said in _wordings(row) if said != written]


def heard(row: dict[str, Any]) -> list[list[Piece]] | None:
    """What the ASR heard of each span, beside what was said; None where it did not listen or the shard does not tell."""
    if row.get("heard") is None:
        return None
    said, transcripts = [said for _, said in _wordings(row)], row["heard"].split(" | ")
    if not said:  # old shards do not tell of what was turned down
        return [[(row["heard"], SAME)]]
    if len(said) != len(transcripts):  # a transcript holds the bar itself
        return [differences(" ".join(said), row["heard"])]
    return [differences(*both) for both in zip(said, transcripts, strict=True)]


def _wordings(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(as written, as spoken) of each span; old shards do not tell how they were spoken."""
    written = [(row["text"][span["char_start"] : span["char_end"]].strip(), span) for span in row.get("spans") or []]
    return [(words, span.get("spoken") or words) for words, span in written]
