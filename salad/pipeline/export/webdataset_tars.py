"""WebDataset: `shard-NNNNNN.tar`, each sample as KEY.flac, KEY.json (times, words and columns) and KEY.txt (the whole text).

The tars come from the standard library, with nothing of this machine in their headers: the same speech gives the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.pipeline.card import card
from salad.pipeline.export.facts import corpus_facts

if TYPE_CHECKING:
    from salad.pipeline.export import Options
    from salad.pipeline.export.corpus import Corpus, Sample

LOADING = """`KEY.txt` is the whole text; `KEY.flac` has the sound of its spans, one after the other; `KEY.json` lists the `spans`
with words, characters in the text and times, and has the columns below. FOLDER is where this card lies.

```python
import io, json, soundfile, webdataset

for sample in webdataset.WebDataset("FOLDER/shard-000000.tar", shardshuffle=False):  # or shard-{000000..000009}.tar
    sound, rate = soundfile.read(io.BytesIO(sample["flac"]))
    text, spans = sample["txt"].decode(), json.loads(sample["json"])["spans"]
```

```python
import datasets

samples = datasets.load_dataset("FOLDER", split="train")  # `flac` is bytes, so this needs no torchcodec
samples = samples.cast_column("flac", datasets.Audio(decode=False))
```
"""


def write(corpus: Corpus, out: Path, options: Options) -> None:
    samples = corpus.samples(options.progress)
    for number, first in enumerate(samples):
        with tarfile.open(out / f"shard-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in chain([first], islice(samples, options.shard_rows - 1)):
                for kind, data in _entries(sample):
                    member = tarfile.TarInfo(f"{sample.name}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    facts = corpus_facts(corpus, options.licences, options.language)
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "shard-*.tar"}]}],
        "dataset_info": {"features": _features(corpus)},
    }
    (out / "README.md").write_text(card(facts, LOADING, front), encoding="utf-8")


def _entries(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "flac", sample.flac
    spans = [
        {
            "text": span.text,
            "spoken": span.spoken,
            "char_start": span.char_start,
            "char_end": span.char_end,
            "audio_start": span.start / sample.rate,
            "audio_end": span.end / sample.rate,
        }
        for span in sample.spans
    ]
    measured = {"sampling_rate": sample.rate, "seconds": sample.frames / sample.rate}
    yield "json", json.dumps({**sample.facts, **measured, "spans": spans}, allow_nan=False).encode()
    yield "txt", sample.text.encode()


def _features(corpus: Corpus) -> list[dict[str, Any]]:
    """Types for `datasets`, which would guess them from five samples, and stop at the first value in place of a null.

    `flac` is binary: as Audio, `datasets` would ask for torchcodec merely to pass the bytes on.
    """
    kinds = {"float": "float32", "double": "float64"}  # Arrow's names, and those of `datasets`
    span = {"text": "string", "spoken": "string", "char_start": "int64", "char_end": "int64", "audio_start": "float64"}
    columns = {f.name: str(f.type) for f in corpus.schema if f.name in corpus.plain_columns and f.name != "text"}
    columns |= {"sampling_rate": "int64", "seconds": "float64"}
    inside = [{"name": name, "dtype": kinds.get(kind, kind)} for name, kind in columns.items()]
    spans = [{"name": name, "dtype": kind} for name, kind in {**span, "audio_end": "float64"}.items()]
    return [
        {"name": "flac", "dtype": "binary"},
        {"name": "json", "struct": [*inside, {"name": "spans", "list": spans}]},
        *({"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")),
    ]
