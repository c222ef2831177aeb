"""NeMo manifest: `manifest.jsonl`, one line a span, and the sounds in `audio/`.

NeMo's ASR wants sound and text that say the same. The sound of a sample holds only its spans, one after the other, so a
line is a span: `offset` and `duration` cut it out of the sample's file. Paths are relative to the manifest's folder, as
NeMo resolves them (nemo/collections/common/parts/preprocessing/manifest.py).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.pipeline.card import card
from salad.pipeline.export.facts import corpus_facts
from salad.pipeline.export.files import write_flac

if TYPE_CHECKING:
    from salad.pipeline.export import Options
    from salad.pipeline.export.corpus import Corpus, Sample

LOADING = """`manifest.jsonl` has a line a span: `audio_filepath` (relative to the manifest), `offset` and `duration` in seconds,
`text`; then `spoken` (what the engine was given to say), the characters of the span in its text, and the columns below.

```yaml
model.train_ds:
  manifest_filepath: manifest.jsonl
  sample_rate: 16000  # NeMo resamples
```
"""

RESERVED = ("audio_filepath", "audio_filename", "offset", "duration", "text", "lang", "span", "spoken", "char_start", "char_end",
            "speaker", "orig_sample_rate", "token_labels", "seconds", "sampling_rate")  # fmt: skip


def write(corpus: Corpus, out: Path, options: Options) -> None:
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for sample in corpus.samples(options.progress):
            path = write_flac(sample, out)
            for line in _lines(sample, path, options.language):
                manifest.write(json.dumps(line, allow_nan=False) + "\n")  # ASCII: NeMo opens it in the locale's encoding
    facts = corpus_facts(corpus, options.licences, options.language)
    (out / "README.md").write_text(card(facts, LOADING), encoding="utf-8")


def _lines(sample: Sample, path: str, language: str) -> list[dict[str, Any]]:
    return [
        {
            "audio_filepath": path,
            "offset": seconds(span.start, sample.rate),
            "duration": seconds(span.end - span.start, sample.rate),
            "text": span.text,
            "lang": language,
            "span": number,
            "spoken": span.spoken,
            "char_start": span.char_start,
            "char_end": span.char_end,
            **{name: value for name, value in sample.facts.items() if name not in RESERVED},
        }
        for number, span in enumerate(sample.spans)
    ]


def seconds(frames: int, rate: int) -> float:
    """Seconds that truncate to these very samples, as NeMo does: `int(seconds * rate)` (its AudioSegment.from_file)."""
    found = frames / rate
    return found if int(found * rate) == frames else math.nextafter(found, math.inf)
