"""How many texts a pool will have, and how much of one is heard: from limits, files and known sizes, not from the texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from salad.config import Config, Source
from salad.errors import SaladError
from salad.pipeline.streams import files_of, names_files

CHARS = 6.4  # bytes of English a word, the space included (docs/results.md's packaged texts: 5.6 to 6.6)
KEPT = 0.85  # of the words of running text, what comes into a passage: 96 % at 12 to 40 words, 82 % at 40 to 1,200
HALF_SENTENCE = 10  # words that a passage has beyond `min_words`, since whole sentences are joined: 9 to 13 on articles
SAMPLED = 1 << 18  # bytes of a file that are looked at
DRAWS = 256  # span plans behind the share that is heard

# (documents, words). Packaged texts: counted. FineWeb-Edu: its card (HuggingFaceFW/fineweb-edu) gives tokens of GPT-2, of
# which a word has 1.3.
PACKAGED = {
    "recipes": (3_129, 314_073),
    "medicine": (20_698, 501_196),
    "law": (2_273, 2_213_863),
    "security": (14_472, 446_859),
    "encyclopedia": (107, 455_321),
}
HUB = {
    ("HuggingFaceFW/fineweb-edu", "sample-10BT"): (9_672_101, 10e9 / 1.3),
    ("HuggingFaceFW/fineweb-edu", "sample-100BT"): (97_270_686, 100e9 / 1.3),
}


@dataclass(frozen=True)
class Supply:
    """Passages, and how that is known."""

    texts: float
    how: str


def words_a_text(config: Config) -> float:
    """Expected length of a passage: whole sentences are joined until there are `min_words`."""
    low, high = config.pool.min_words, config.pool.max_words
    return min(low + HALF_SENTENCE, (low + high) / 2)


def passages(config: Config, sources: Iterable[Source], advice: str = "say how many texts: --texts N") -> Supply:
    """Of all sources together. SaladError, with the advice, for one whose size nobody here knows."""
    found = [_of_source(source, words_a_text(config), advice) for source in sources]
    return Supply(sum(s.texts for s in found), "; ".join(dict.fromkeys(s.how for s in found)))


def _of_source(source: Source, words: float, advice: str) -> Supply:
    known = _size(source)
    if known is None:
        if source.limit:
            return Supply(source.limit, "`limit`, if there is so much")
        raise SaladError(f"nobody here knows how many texts '{source.dataset}' holds", advice)
    documents, all_words, how = known
    # A document that is no longer than a passage is one; else what is left over at its paragraphs' ends is lost.
    expected = documents if documents and all_words / documents <= words else KEPT * all_words / words
    if source.limit and source.limit <= expected:
        return Supply(source.limit, "`limit`")
    return Supply(expected, f"{how}, {words:.0f} words a passage")


def _size(source: Source) -> tuple[float, float, str] | None:
    """(documents, or 0 where that is not known, words, how it is known)."""
    name = source.dataset
    if name.startswith("packaged:"):
        known = PACKAGED.get(name.removeprefix("packaged:"))
        return (*known, "by words counted") if known else None
    if not names_files(name):
        hub = HUB.get((name, source.subset or ""))
        return (*hub, f"by its card {hub[0]:,} documents, {hub[1] / 1e9:.1f} G words") if hub else None
    files = [] if "://" in name else files_of(name)
    if not files:
        return None
    sizes = [_of_parquet(f, source) if f.suffix == ".parquet" else _of_lines(f, source) for f in files]
    return sum(d for d, _ in sizes), sum(w for _, w in sizes), f"by the size of {len(files):,} files"


def _of_parquet(path: Path, source: Source) -> tuple[float, float]:
    """From the file's metadata: rows, and the bytes of the column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as e:
        raise SaladError(f"pool source {path} is not a Parquet file ({e})", "mend or replace the file") from e
    groups = (about.row_group(i) for i in range(about.num_row_groups))
    columns = (group.column(j) for group in groups for j in range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == source.text_column)
    return about.num_rows, size / CHARS


def _of_lines(path: Path, source: Source) -> tuple[float, float]:
    """From its size and its first lines; what is not JSON lines counts as text throughout."""
    size = path.stat().st_size
    with path.open("rb") as f:
        lines = f.read(SAMPLED).splitlines()
    lines = lines[:-1] if size > SAMPLED else lines
    if path.suffix not in (".jsonl", ".json"):
        return (len(lines) / max(sum(len(x) + 1 for x in lines), 1) * size if path.suffix == ".txt" else 0.0), size / CHARS
    rows = words = read = 0
    for line in lines:
        try:
            text = json.loads(line)[source.text_column]
        except (ValueError, KeyError, TypeError):
            continue
        rows, words, read = rows + 1, words + len(str(text).split()), read + len(line) + 1
    return (rows / read * size, words / read * size) if read else (0.0, size / CHARS)


def heard(config: Config, words: float) -> tuple[float, float]:
    """(words heard, spans heard) of a passage of so many words: the mean over span plans, drawn as for real texts."""
    from salad.trainer.interleave import plan_spans

    plan, text = config.interleave, " ".join(["word"] * max(2, round(words)))
    drawn = [
        plan_spans(text, str(i), config.seed, plan.speech_words, plan.text_words, plan.start, plan.pattern) for i in range(DRAWS)
    ]
    spans = [text[s.char_start : s.char_end] for of_text in drawn for s in of_text if s.modality == "speech"]
    return sum(len(s.split()) for s in spans) / DRAWS, len(spans) / DRAWS
