"""Benchmarks by ear: a short YAML each (salad/benchmarks/), spoken once a run, answered by every student.

Stages of a benchmark, below `benchmarks/NAME/` of a run: `items` (rows to questions), `speech` (prompts said by the
held-out voice), `features` (what the student's encoder makes of them), `toplines` (Q on text, and after an ASR).
Students are asked where they are measured (`salad/pipeline/metrics.py`). Nothing of it is ever trained on or chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.pipeline.benchmarks.spec import HELDOUT, Benchmark, known, load_benchmark, load_benchmarks

if TYPE_CHECKING:
    from salad.pipeline.benchmarks.score import Spoken
    from salad.pipeline.stages import Run, Stage

__all__ = ["HELDOUT", "Benchmark", "Wanted", "known", "load_benchmark", "load_benchmarks", "stages", "wanted"]


@dataclass(frozen=True)
class Wanted:
    """A benchmark that a run is to be measured on, with so many items."""

    benchmark: Benchmark
    items: int
    name: str  # of the artefacts' folder

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Names of everything that a student's answers depend on."""
        return tuple(f"{self.name}/{part}" for part in ("items", "speech", "features", "toplines"))

    def of(self, run: Run) -> Spoken:
        from salad.pipeline.benchmarks.score import Spoken

        return Spoken(self.benchmark, run.store.path(self.name))


def wanted(run: Run, names: Sequence[str] | None = None, items: int | None = None) -> list[Wanted]:
    """These benchmarks, or those of a run's configuration. Another number of items has artefacts of its own."""
    usual = run.config.evaluate.items
    n = items or usual
    suffix = "" if n == usual else f"@{n}"
    found = load_benchmarks(list(run.config.evaluate.benchmarks if names is None else names))
    return [Wanted(b, n, f"benchmarks/{b.name}{suffix}") for b in found]


def stages(run: Run, benchmarks: Sequence[Wanted]) -> list[Stage]:
    """What has to be there before a student can be asked, in order."""
    return [stage for one in benchmarks for stage in _stages(run, one)]


def _stages(run: Run, one: Wanted) -> list[Stage]:
    from salad.pipeline import distil
    from salad.pipeline.benchmarks import items, score, speech
    from salad.pipeline.stages import Stage
    from salad.pipeline.streams import file_sizes
    from salad.plugins import fingerprint
    from salad.tts.base import ENGINES

    c, models, bench, benchmark = run.config, run.models, one.of(run), one.benchmark
    here = dict(zip(("items", "speech", "features", "toplines"), one.artefacts, strict=True))
    own = benchmark.dataset == HELDOUT
    voice = speech.voice_of(c)
    asr = {"asr": c.models.asr, "dtype": c.train.dtype}

    def build_items(out: Path, progress: Callable[..., None]) -> dict[str, Any]:
        heldout = run.store.path("heldout") if own else None
        return items.build_items(out, c, benchmark, one.items, heldout, progress)

    spec = benchmark.model_dump(mode="json", exclude={"measures", "licence", "normalise"})
    said = {
        "voice": voice.model_dump(mode="json"),
        "code": fingerprint("engine", voice.engine, ENGINES),
        "quality": c.speech.quality.model_dump(mode="json"),
        "shard_rows": c.speech.shard_rows,
        "most_words": c.interleave.speech_words[1],
        **asr,
    }
    heard = {
        "encoder": c.models.encoder,
        "lm": c.models.lm,
        "dtype": c.train.dtype,
        "adapter": c.student.adapter.model_dump(mode="json"),
        "max_positions": c.interleave.max_positions,
    }
    answered = {"lm": c.models.lm, "normalise": benchmark.normalise, "max_positions": c.interleave.max_positions, **asr}
    return [
        Stage(
            here["items"], build_items, {"benchmark": spec, "items": one.items, "files": file_sizes(benchmark.dataset)},
            ("heldout",) if own else (), total=one.items, unit="questions", network=True,
        ),
        Stage(
            here["speech"], lambda out, p: speech.build_prompts(out, c, models, bench.items, p), said, (here["items"],),
            unit="s of speech", network=True,
        ),
        Stage(
            here["features"], lambda out, p: distil.build_prepared(out, c, models, bench.speech, p, "none"), heard,
            (here["speech"],), unit="prompts", network=True,
        ),
        Stage(
            here["toplines"], lambda out, p: score.build_toplines(out, c, models, bench, p), answered,
            (here["items"], here["speech"], here["features"]), unit="answers", network=True,
        ),
    ]  # fmt: skip
