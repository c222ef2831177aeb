"""Benchmarks answered: by Q that reads, by Q after an ASR (the cascade), and by a student that hears.

`gap` is the accuracy of Q on text less that of P on speech, question by question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Config
from salad.pipeline import shards
from salad.pipeline.benchmarks.items import Row
from salad.pipeline.benchmarks.spec import Benchmark
from salad.pipeline.benchmarks.speech import ranges
from salad.pipeline.models import Models
from salad.seeds import derive

if TYPE_CHECKING:
    from salad.trainer.data import Hearing
    from salad.trainer.evaluate import Context, Question, Reader
    from salad.trainer.student import Student

Q_TEXT, CASCADE, P_TEXT, P_SPEECH = "q_text", "cascade", "p_text", "p_speech"
RESULTS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("condition", pa.string()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("answer", pa.int32()),
        ("chosen", pa.int32()),  # as the benchmark normalises
        ("chosen_raw", pa.int32()),  # by log-probability
        ("correct", pa.bool_()),
        ("correct_raw", pa.bool_()),
        ("tie", pa.bool_()),  # several options were equally likely: the first was taken
        ("log_probs", pa.list_(pa.float64())),  # of the options after the prompt, nats
        ("log_priors", pa.list_(pa.float64())),  # and without it; null where nothing is normalised by them
    ]
)


@dataclass(frozen=True)
class Spoken:
    """A benchmark of a run: what it is, and where its artefacts are."""

    benchmark: Benchmark
    folder: Path

    @property
    def items(self) -> Path:
        return self.folder / "items"

    @property
    def speech(self) -> Path:
        return self.folder / "speech"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def toplines(self) -> Path:
        return self.folder / "toplines"


@dataclass(frozen=True)
class _Asked:
    """The rows of items.parquet that have a sound, and their contexts in one condition, by id."""

    rows: list[Row]
    contexts: dict[str, Context]

    def questions(self) -> list[Question]:
        from salad.trainer.evaluate import Question

        return [Question(r["id"], self.contexts[r["id"]], r["options"], r["answer"]) for r in self.rows if r["role"] == "item"]

    def shots(self) -> Context | None:
        """All shots as one context."""
        from salad.trainer.evaluate import Context

        of_shots = [self.contexts[r["id"]] for r in self.rows if r["role"] == "shot"]
        text, spoken, frames = "", [], []
        for shot in of_shots:
            spoken += [(a + len(text), b + len(text)) for a, b in shot.spoken]
            frames += list(shot.frames)
            text += shot.text
        return Context(text, spoken, frames) if of_shots else None


def build_toplines(out: Path, config: Config, models: Models, bench: Spoken, progress: Callable[..., None]) -> dict[str, Any]:
    """What no student changes: Q on text and, where there is an ASR, Q on its transcripts, to `answers.parquet`."""
    from salad.trainer.evaluate import reader

    conditions = {Q_TEXT: _read(bench), **({CASCADE: _transcribed(bench)} if models.asr else {})}
    priors = _priors(bench, models.teacher, conditions[Q_TEXT], models)
    tables = [
        _ask(bench, name, reader(models.teacher), asked, priors, config, models, _after(progress, i * len(asked.rows)))
        for i, (name, asked) in enumerate(conditions.items())
    ]
    pq.write_table(pa.concat_tables(tables), out / "answers.parquet")
    right = {name: pc.mean(table["correct"]).as_py() for name, table in zip(conditions, tables, strict=True)}
    return {"questions": tables[0].num_rows, **{f"accuracy_{name}": share for name, share in right.items()}}


def ask_student(
    student: Student,
    bench: Spoken,
    hearing: Hearing,
    config: Config,
    models: Models,
    progress: Callable[..., None] = lambda *n: None,
) -> pa.Table:
    """RESULTS of the toplines and of a student: on text where its LM was trained, and by ear.

    hearing: "speech", or "nothing" for what it answers by the options alone. With a frozen LM the student that reads
    is Q.
    """
    from salad.trainer.evaluate import listener, reader

    toplines = pq.read_table(bench.toplines / "answers.parquet")
    heard, read = _heard(bench), _read(bench)
    if student.lm_is_frozen:
        of_q = toplines.filter(pc.equal(toplines["condition"], Q_TEXT))
        at = RESULTS.get_field_index("condition")
        on_text = of_q.set_column(at, "condition", pa.array([P_TEXT] * of_q.num_rows, pa.string()))
        kept = of_q["log_priors"].to_pylist()
        priors = [np.array(row) for row in kept] if bench.benchmark.normalise == "prior" else None
    else:
        priors = _priors(bench, student.language_model, read, models)
        on_text = _ask(bench, P_TEXT, reader(student.language_model), read, priors, config, models, progress)
    by_ear = _ask(bench, f"p_{hearing}", listener(student, hearing), heard, priors, config, models, progress)
    return pa.concat_tables([t.cast(RESULTS) for t in (toplines, on_text, by_ear)])


def summary(results: pa.Table, config: Config, by_ear: str = P_SPEECH) -> dict[str, Any]:
    """Of one benchmark: accuracy in every condition and the gap, with 95 % intervals; None where there is no interval.

    The resamples are the same in every condition and for every student, so what differs is not their luck.
    """
    from salad.intervals import mean_interval

    name = results["benchmark"][0].as_py()
    seed = derive(config.seed, "bootstrap", name)

    def interval(key: str, values: np.ndarray) -> dict[str, Any]:
        low, high = mean_interval(values, config.evaluate.bootstrap, seed) or (None, None)
        return {key: float(values.mean()), f"{key}_low": low, f"{key}_high": high}

    conditions, right = {}, {}
    for condition in dict.fromkeys(results["condition"].to_pylist()):
        rows = results.filter(pc.equal(results["condition"], condition))
        right[condition] = rows["correct"].to_numpy(zero_copy_only=False).astype(np.float64)
        raw = rows["correct_raw"].to_numpy(zero_copy_only=False).astype(np.float64)
        ties = int(pc.sum(rows["tie"]).as_py() or 0)
        conditions[condition] = {**interval("accuracy", right[condition]), **interval("accuracy_raw", raw), "ties": ties}
    n_options = pc.list_value_length(rows["log_probs"]).to_numpy()
    found = {"questions": rows.num_rows, "chance": float((1 / n_options).mean()), "conditions": conditions}
    return {**found, **interval("gap", right[Q_TEXT] - right[by_ear])}


def left_out(bench: Spoken) -> dict[str, str]:
    """Ids of prompts without a sound, and why."""
    reasons: dict[str, str] = dict(_meta(bench.items)["unspeakable"])
    rejected = pq.read_table(bench.speech / "rejected.parquet", columns=["id", "rejected"]).to_pylist()
    reasons |= {row["id"]: row["rejected"] for row in rejected}
    return reasons | dict.fromkeys(_meta(bench.features)["undecodable"], "cannot be decoded")


def _meta(folder: Path) -> dict[str, Any]:
    from salad.artifact import read_manifest

    manifest = read_manifest(folder)
    assert manifest is not None, folder
    return manifest.meta


def _priors(bench: Spoken, lm: Any, asked: _Asked, models: Models) -> list[np.ndarray] | None:
    """log P(option) without a prompt, where the benchmark is normalised by it."""
    from salad.trainer.evaluate import option_priors

    return option_priors(lm, asked.questions(), models.tokenizer) if bench.benchmark.normalise == "prior" else None


def _ask(
    bench: Spoken,
    condition: str,
    who: Reader,
    asked: _Asked,
    priors: list[np.ndarray] | None,
    config: Config,
    models: Models,
    progress: Callable[..., None],
) -> pa.Table:
    """RESULTS of one condition."""
    from salad.trainer.evaluate import answer

    rows = [r for r in asked.rows if r["role"] == "item"]
    most, normalise = config.interleave.max_positions, bench.benchmark.normalise
    found = answer(who, asked.questions(), models.tokenizer, asked.shots(), normalise, priors, most, progress)
    right = np.array([r["answer"] for r in rows])
    return pa.table(
        {
            "benchmark": [bench.benchmark.name] * len(rows),
            "condition": [condition] * len(rows),
            "id": [r["id"] for r in rows],
            "domain": pa.array([r["domain"] for r in rows], pa.string()),
            "answer": right,
            "chosen": found.chosen_normalised,
            "chosen_raw": found.chosen,
            "correct": found.chosen_normalised == right,
            "correct_raw": found.chosen == right,
            "tie": found.ties,
            "log_probs": [row.tolist() for row in found.log_probs],
            "log_priors": [None] * len(rows) if priors is None else [row.tolist() for row in priors],
        }
    ).cast(RESULTS)


def _items(bench: Spoken, usable: set[str]) -> list[Row]:
    columns = [c for c in pq.read_schema(bench.items / "items.parquet").names if c != "audio"]
    return [r for r in pq.read_table(bench.items / "items.parquet", columns=columns).to_pylist() if r["id"] in usable]


def _heard(bench: Spoken) -> _Asked:
    from salad.trainer.data import load_examples
    from salad.trainer.evaluate import Context

    examples = {e.id: e for e in load_examples(bench.features)}
    rows = _items(bench, set(examples))

    def context(row: Row) -> Context:
        example = examples[row["id"]]
        spoken = [(s.char_start, s.char_end) for s in example.spans if s.modality == "speech"]
        return Context(row["text"], spoken, example.frames)

    return _Asked(rows, {row["id"]: context(row) for row in rows})


def _read(bench: Spoken) -> _Asked:
    from salad.trainer.evaluate import Context

    rows = _items(bench, _usable(bench))
    return _Asked(rows, {row["id"]: Context(row["text"]) for row in rows})


def _transcribed(bench: Spoken) -> _Asked:
    """What is heard, replaced by what the ASR understood."""
    from salad.trainer.evaluate import Context

    heard = shards.read_columns(bench.speech, ["id", "heard", "spans"]).to_pylist()
    found = {row["id"]: row for row in heard}
    rows = _items(bench, _usable(bench))
    return _Asked(rows, {r["id"]: Context(transcribed(r, found[r["id"]]["heard"], found[r["id"]]["spans"])) for r in rows})


def transcribed(item: Row, heard: str | None, spans: Sequence[Row]) -> str:
    """The prompt's text, each heard stretch in the words of its transcript; white space at its ends as it was.

    The prompt was cut into spans, and perhaps is itself half a sentence: the full stop and the capital that the ASR puts
    at such a cut come from the cutting, not from what was heard, and go.
    """
    parts = (heard or "").split(" | ")
    if len(parts) != len(spans):  # the ASR wrote a bar of its own: which span it is in is not known
        parts = [" ".join(parts), *[""] * (len(spans) - 1)]
    text, at, out = item["text"], 0, []
    for start, end in ranges(item):
        inside = [
            (p, text[s["char_start"] : s["char_end"]])
            for p, s in zip(parts, spans, strict=True)
            if start <= s["char_start"] < end
        ]
        words = " ".join(filter(None, (_mended(p, written, first=i == 0) for i, (p, written) in enumerate(inside))))
        stretch = text[start:end]
        lead, tail = len(stretch) - len(stretch.lstrip()), len(stretch.rstrip())
        out += [text[at:start], stretch[:lead], words, stretch[tail:]]
        at = end
    return "".join([*out, text[at:]])


def _mended(heard: str, written: str, first: bool) -> str:
    """A span's transcript without the marks of a cut in the middle of a sentence."""
    if not written.rstrip().endswith((".", "!", "?")):
        heard = heard.rstrip(".")
    return heard[:1].lower() + heard[1:] if not first and written.lstrip()[:1].islower() else heard


def _usable(bench: Spoken) -> set[str]:
    """Ids of the prompts whose sound students hear: the same questions in all conditions."""
    return set(pq.read_table(bench.features / "examples.parquet", columns=["id"])["id"].to_pylist())


def _after(progress: Callable[..., None], before: int) -> Callable[[int], None]:
    return lambda n: progress(before + n)
