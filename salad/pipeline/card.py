"""The dataset card of a speech folder: what it holds, who speaks, how it was chosen, how to open it.

Names come from pools, plug-ins and foreign shards: in the front matter YAML's own writer quotes them, in the text they stand
in code spans, where Markdown and HTML mean nothing. So what a source is called can never become markup of the card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salad.artifact import checksum

PAPER = "https://arxiv.org/abs/2510.13632"
LONGEST_NAME = 100
INERT = str.maketrans({"`": "'", "|": "¦"})  # what ends a code span, or a cell

# What is known of the texts that come inside packages (docs/licences.md); `licences` of a caller comes first.
TEXT_LICENCES = {
    "packaged:recipes": "CC BY-SA 4.0 (English Wikibooks Cookbook)",
    "packaged:medicine": "HPO licence: free use with attribution, unaltered (Human Phenotype Ontology)",
    "packaged:law": "CC BY 4.0 for the collection; each text its own (ScanCode)",
    "packaged:security": "CWE terms of use of The MITRE Corporation",
    "packaged:encyclopedia": "CC BY-SA (English Wikipedia)",
}

COLUMNS = {
    "id": "hash of the text",
    "text": "the whole text, what is heard and what is read",
    "source": "where the text comes from",
    "domain": "its domain; the selection never sees it",
    "cluster": "of the pool, by k-means on sentence embeddings",
    "rank": "order in which it was chosen",
    "probability": "with which it was drawn",
    "predicted_divergence": "what the surrogate expected of its D, nats",
    "predicted_se": "standard error of that",
    "nearest_selected_distance": "to the nearest other text chosen, between unit embeddings",
    "est_seconds": "seconds of speech that were expected",
    "selector": "the strategy that chose it",
    "reason": "why, in words",
    "round": "of selection, from 0",
    "audio": "`bytes`: mono FLAC of the spans, one after the other; `path`: a name for it",
    "sampling_rate": "samples a second",
    "seconds": "of the sound",
    "engine": "the TTS engine",
    "voice": "its voice, with pitch and tempo where they were changed",
    "spans": "what is heard: `text`, `spoken` (as the engine was given it), `char_start`, `char_end` in the text, "
    "`audio_start`, `audio_end` in seconds",
    "cer": "character error rate of an ASR on the spans; null: not checked",
    "heard": "what the ASR understood, spans divided by a bar",
    "words_per_second": "of the sound",
    "edge_silence": "seconds: the longest silence at the start or end of a span",
    "pause": "seconds: the longest silence inside a span",
    "clipped": "share of samples at full scale, as the engine gave them",
    "gain": "dB that brought the sound to its level",
    "peak": "of full scale, after that",
}

PARQUET = """FOLDER is where this card lies.

```python
import datasets

speech = datasets.load_dataset("FOLDER", split="train")  # or its name on the hub
speech = speech.cast_column("audio", datasets.Audio(decode=False))  # leave this out where torchcodec is installed
```

```python
import io, soundfile
import pyarrow.dataset

rows = pyarrow.dataset.dataset("FOLDER/data").head(1).to_pylist()
sound, rate = soundfile.read(io.BytesIO(rows[0]["audio"]["bytes"]))
span = rows[0]["spans"][0]  # heard in sound[round(span["audio_start"] * rate) : round(span["audio_end"] * rate)]
```

```sql
-- DuckDB
SELECT voice, sum(seconds) FROM 'FOLDER/data/*.parquet' GROUP BY voice;
SELECT id, s.text, s.audio_end - s.audio_start FROM (SELECT id, unnest(spans) AS s FROM 'FOLDER/data/*.parquet');
```

```python
import pandas

table = pandas.read_parquet("FOLDER/data", columns=["id", "text", "seconds", "voice"])
```
"""


@dataclass(frozen=True)
class Tally:
    """The texts that share a voice, or a source; cer: mean of those that were checked."""

    names: tuple[str, ...]
    licence: str
    texts: int
    seconds: float
    cer: float | None


@dataclass(frozen=True)
class Facts:
    """What a card tells. Plain values, and whatever text they hold is made inert when it is written."""

    name: str
    texts: int
    seconds: float
    voices: Sequence[Tally] = ()  # names: engine, voice
    sources: Sequence[Tally] = ()  # names: source
    columns: Sequence[str] = ()
    chosen: Mapping[str, object] = field(default_factory=dict)  # what -> value, in words
    budget: float | None = None  # seconds that were asked for
    cer: float | None = None
    checked: int = 0  # texts that an ASR listened to
    judge: str | None = None  # that ASR
    judge_hears_as_student: bool = False  # it is the student's encoder too, so it may miss what the student misses
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason -> texts
    language: str = "en"


def card(facts: Facts, loading: str = PARQUET, front: Mapping[str, Any] | None = None) -> str:
    """A README.md that the Hugging Face hub takes as a dataset card.

    loading: Markdown that shows how to open this format. front: more of the front matter, such as `configs`.
    """
    import yaml

    matter = {
        "pretty_name": f"SALAD speech: {printable(facts.name)}",
        "license": "other",
        "license_name": "texts-and-voices-keep-their-own",
        "language": [facts.language],
        "task_categories": ["automatic-speech-recognition", "text-to-speech"],
        "size_categories": [size_category(facts.texts)],
        "tags": ["audio", "synthetic-speech", "active-learning", "knowledge-distillation", "salad"],
        **(front or {}),
    }
    body = (
        f"# SALAD speech: {code(facts.name)}\n\n{_summary(facts)}",
        _section("Voices", _tallies(("engine", "voice"), facts.voices)),
        _section("Texts", _tallies(("source",), facts.sources)),
        _section("How the texts were chosen", _table(("what", "value"), [(k, code(v)) for k, v in facts.chosen.items()])),
        _section("Quality", _quality(facts)),
        _section("How to open it", loading.strip()),
        _section("Columns", _table(("column", "what"), [(code(c), COLUMNS.get(c, "–")) for c in facts.columns])),
        _section(
            "Licence and origin",
            "The texts and the voices keep their own licences, named above where they are known: share this under those. "
            f"Made with SALAD, an implementation of the method of [arXiv 2510.13632]({PAPER}): a text language model that "
            "learns to listen chooses, by where it disagrees with its text-only self, which texts are worth speaking.",
        ),
    )
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---\n\n{''.join(body)}"


def shards_front(files: Sequence[Path]) -> dict[str, Any]:
    """Front matter of a folder with these shards in `data/`, beside which other Parquet files may lie.

    `datasets` caches a local folder by its last name and its card's front matter, whatever its files hold: with the same card,
    `round-001/speech` would give the rows of `round-000/speech`. So the card tells one content from another.
    """
    digest = hashlib.blake2b("".join(map(checksum, files)).encode(), digest_size=16).hexdigest()
    data = [{"split": "train", "path": "data/*.parquet"}]
    return {"configs": [{"config_name": "default", "data_files": data, "description": f"content {digest}"}]}


def licence_of(engine: str, voice: str, licences: Mapping[str, str]) -> str:
    """A voice's licence by "engine/voice", with pitch and tempo or without, then by "engine"."""
    plain = voice.split(" pitch")[0].split(" tempo")[0]
    return next((licences[k] for k in (f"{engine}/{voice}", f"{engine}/{plain}", engine) if k in licences), "not known")


def code(value: object) -> str:
    """Any value as a Markdown code span that also fits a table cell: inert, on one line, of bounded length."""
    return f"`{printable(value).translate(INERT) or '–'}`"


def printable(value: object) -> str:
    """One line without control characters, cut short."""
    text = "".join(c if c.isprintable() else "�" for c in " ".join(str(value).split()))
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…"


def size_category(rows: int) -> str:
    """The hub's bracket for a number of rows."""
    edges = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M")]
    return next((name for most, name in edges if rows < most), "10M<n<100M")


def _summary(facts: Facts) -> str:
    budget = f"; {facts.budget:,.0f} s were asked for" if facts.budget else ""
    return (
        f"{facts.texts:,} texts with {facts.seconds:,.1f} s ({facts.seconds / 3600:.2f} h) of speech{budget}. "
        "Some spans of each text are heard, with exact times in `spans`; the rest of the text is read.\n"
    )


def _quality(facts: Facts) -> str:
    lines = []
    if facts.checked and facts.cer is not None:
        judge = f" by {code(facts.judge)}" if facts.judge else ""
        judge += " (whose encoder is the student's too)" if facts.judge_hears_as_student else ""
        share = facts.checked / facts.texts
        lines.append(f"Mean character error rate {facts.cer:.2%}{judge}, which listened to {share:.0%} of the texts.\n")
    else:
        lines.append("No ASR has listened to these sounds.\n")
    if facts.rejected:
        lines.append("\nTurned down, and not in here:\n\n")
        lines.append(_table(("reason", "texts"), [(code(k), f"{n:,}") for k, n in facts.rejected.items()]))
    return "".join(lines)


def _tallies(heads: tuple[str, ...], tallies: Sequence[Tally]) -> str:
    rows = [
        (
            *map(code, tally.names),
            code(tally.licence),
            f"{tally.texts:,}",
            f"{tally.seconds:,.1f}",
            "–" if tally.cer is None else f"{tally.cer:.2%}",
        )
        for tally in tallies
    ]
    return _table((*heads, "licence", "texts", "seconds", "CER"), rows)


def _section(title: str, text: str) -> str:
    return f"\n## {title}\n\n{text.rstrip()}\n" if text else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are safe already; nothing where there are no rows."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if rows else ""
