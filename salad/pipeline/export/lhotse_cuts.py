"""Lhotse: `cuts.jsonl.gz`, one cut a text, and the sounds in `audio/`.

The sound holds only the spans of the text, one after the other; so each span is a supervision with its own words and
times, and the whole text, some of which is read and not heard, stands in the cut's `custom`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.errors import SaladError
from salad.pipeline.card import card
from salad.pipeline.export.facts import corpus_facts
from salad.pipeline.export.files import write_flac

if TYPE_CHECKING:
    from salad.pipeline.export import Options
    from salad.pipeline.export.corpus import Corpus, Sample

LOADING = """The manifest's paths are relative to FOLDER, where this card lies, so that it can be moved.

```python
from lhotse import CutSet

cuts = CutSet.from_file("FOLDER/cuts.jsonl.gz").with_recording_path_prefix("FOLDER")
for cut in cuts:
    sound = cut.load_audio()  # (1, samples); needs soundfile, not torchaudio
    heard = [(s.start, s.duration, s.text) for s in cut.supervisions]
    whole = cut.custom["text"]  # of which the supervisions are heard and the rest is read

spans = cuts.trim_to_supervisions()  # a cut a span: sound and text that say the same, as ASR wants
```

A supervision's `custom` has `spoken` (what the engine was given to say), `char_start` and `char_end` in the whole text.
"""


def write(corpus: Corpus, out: Path, options: Options) -> None:
    try:
        from lhotse import CutSet
    except ImportError as e:
        raise SaladError("this format needs the package lhotse", "pip install 'salad-speech[lhotse]'") from e

    with CutSet.open_writer(out / "cuts.jsonl.gz") as cuts:
        for sample in corpus.samples(options.progress):
            cuts.write(_cut(sample, write_flac(sample, out), options.language))
    facts = corpus_facts(corpus, options.licences, options.language)
    (out / "README.md").write_text(card(facts, LOADING), encoding="utf-8")


def _cut(sample: Sample, path: str, language: str) -> Any:
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    source = AudioSource(type="file", channels=[0], source=path)
    seconds = sample.frames / sample.rate
    supervisions = [
        SupervisionSegment(
            id=f"{sample.name}-{number}",
            recording_id=sample.name,
            start=span.start / sample.rate,
            duration=(span.end - span.start) / sample.rate,
            channel=0,
            text=span.text,
            language=language,
            speaker=sample.facts.get("voice"),
            custom={"spoken": span.spoken, "char_start": span.char_start, "char_end": span.char_end},
        )
        for number, span in enumerate(sample.spans)
    ]
    facts = {name: value for name, value in sample.facts.items() if name not in ("id", "seconds", "sampling_rate")}
    return MonoCut(
        id=sample.name,
        start=0.0,
        duration=seconds,
        channel=0,
        supervisions=supervisions,
        recording=Recording(sample.name, [source], sample.rate, sample.frames, seconds),
        custom={"text_id": sample.facts["id"], "text": sample.text, **facts},
    )
