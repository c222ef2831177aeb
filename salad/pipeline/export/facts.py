"""What a dataset card tells, read from shards, their manifests and their run's configuration. No sound is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.errors import SaladError
from salad.pipeline.card import TEXT_LICENCES, Facts, Tally, licence_of
from salad.pipeline.ledger import NOT_REACHED

if TYPE_CHECKING:
    from salad.pipeline.export.corpus import Corpus

_TALLIED = {
    "source": pa.string(), "engine": pa.string(), "voice": pa.string(), "selector": pa.string(),
    "cluster": pa.int32(), "round": pa.int32(), "seconds": pa.float64(), "cer": pa.float64(),
}  # fmt: skip


def speech_facts(
    name: str,
    files: Sequence[Path],
    rejected: Sequence[Path] = (),
    *,
    licences: Mapping[str, str] | None = None,
    budget: float | None = None,
    judge: str | None = None,
    judge_hears_as_student: bool = False,
    chosen: Mapping[str, object] | None = None,
    language: str = "en",
    without: Collection[int] = (),
) -> Facts:
    """Facts of shards, whoever wrote them.

    licences: of "engine/voice", an engine, or a source of texts. without: numbers of rows that do not count.
    """
    table = pa.concat_tables([_tallied(file) for file in files])
    if without:
        table = table.filter(pa.array([row not in without for row in range(table.num_rows)]))
    licences = {**TEXT_LICENCES, **(licences or {})}
    strategies = [s for s in table["selector"].unique().to_pylist() if s]
    clusters, rounds = (len(table[c].unique().drop_null()) for c in ("cluster", "round"))
    found = {"strategy": ", ".join(strategies), "clusters spoken": clusters, "rounds": rounds}
    return Facts(
        name=name,
        texts=table.num_rows,
        seconds=float(pc.sum(table["seconds"]).as_py() or 0.0),
        voices=[_tally(g, ("engine", "voice"), licence_of(g["engine"] or "", g["voice"] or "", licences))
                for g in _groups(table, "engine", "voice") if g["engine"] or g["voice"]],
        sources=[_tally(g, ("source",), licences.get(g["source"], "not known")) for g in _groups(table, "source") if g["source"]],
        columns=list(dict.fromkeys(name for file in files for name in pq.read_schema(file).names)),
        chosen={**{what: value for what, value in found.items() if value}, **(chosen or {})},
        budget=budget,
        cer=pc.mean(table["cer"]).as_py(),
        checked=table.num_rows - table["cer"].null_count,
        judge=judge,
        judge_hears_as_student=judge_hears_as_student,
        rejected=_reasons(rejected),
        language=language,
    )  # fmt: skip


def corpus_facts(corpus: Corpus, licences: Mapping[str, str] | None, language: str) -> Facts:
    """Facts of a corpus: its shards, and what its manifests and its run's configuration add."""
    budgets = [part.manifest.meta.get("budget") or 0.0 if part.manifest else 0.0 for part in corpus.parts]
    models = corpus.run.get("models") or {}
    return speech_facts(
        corpus.name,
        corpus.files,
        [part.folder / "rejected.parquet" for part in corpus.parts if (part.folder / "rejected.parquet").is_file()],
        licences={**voice_licences(corpus.run), **(licences or {})},
        budget=sum(budgets) if all(budgets) else None,
        judge=models.get("asr"),
        judge_hears_as_student=bool(models.get("asr")) and models.get("asr") == models.get("encoder"),
        chosen=_how_chosen(corpus),
        language=language,
        without={row["row"] for row in corpus.left_out},
    )


def voice_licences(run: Mapping[str, Any]) -> dict[str, str]:
    """Licences by "engine/voice" of the engines that a run's configuration names, as far as they are installed here.

    Only engines known by name are asked: a path to somebody's file in a run that was copied here is not executed.
    """
    from salad.plugins import find, registered
    from salad.tts.base import ENGINES

    speech = run.get("speech") or {}
    voices = [v for v in (*(speech.get("voices") or [speech]), speech.get("heldout_voice")) if v]
    found = {}
    for name, model in {(v.get("engine"), v.get("model")) for v in voices}:
        if name not in registered("engine", ENGINES):
            continue
        try:
            engine = find("engine", name, ENGINES)
            for voice in (engine(model) if model else engine()).voices():
                found[f"{name}/{voice.name}"] = voice.licence
        except SaladError:  # not installed here
            continue
    return {voice: licence for voice, licence in found.items() if licence != "unknown"}


def _how_chosen(corpus: Corpus) -> dict[str, object]:
    """Settings of the selection, where the corpus is what rounds of a run have chosen."""
    rounds = [part for part in corpus.parts if part.name.startswith("round-")]
    if not corpus.run or len(rounds) < len(corpus.parts):
        return {}
    score, select, cluster = (corpus.run.get(name) or {} for name in ("score", "select", "cluster"))
    target = select.get("target_ess")
    found = {
        "options of the strategy": json.dumps(select["options"]) if select.get("options") else None,
        "signal": score.get("signal"),
        "estimate": score.get("estimate"),
        "γ": None if target else select.get("gamma"),
        "effective clusters aimed at": target,
        "clusters of the pool": cluster.get("k"),
        "seconds a round": select.get("budget"),
        "effective clusters of P_target (1/Σp²), by round": ", ".join(filter(None, map(_effective, rounds))),
    }
    return {what: value for what, value in found.items() if value not in (None, "")}


def _effective(part: Any) -> str | None:
    from salad.artifact import read_manifest

    scores = read_manifest(part.folder.parent / "scores")
    found = scores.meta.get("effective_clusters") if scores else None
    return f"{found:.1f}" if isinstance(found, (int, float)) else None


def _tallied(file: Path) -> pa.Table:
    """The columns that are counted; null where the shard has none. Seconds then follow from the spans."""
    try:
        names = pq.read_schema(file).names
        present = [name for name in _TALLIED if name in names]
        table = pq.read_table(file, columns=present if "seconds" in names else [*present, "spans"])
        if "seconds" not in names:
            ends = [max((s["audio_end"] for s in spans or []), default=0.0) for spans in table["spans"].to_pylist()]
            table = table.append_column("seconds", pa.array(ends, pa.float64()))
        columns = {
            name: table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
            for name, kind in _TALLIED.items()
        }
    except (OSError, pa.ArrowException) as e:
        raise SaladError(f"{file} is not what docs/shards.md describes ({e})", "the file is damaged or of another kind") from e
    return pa.table(columns)


def _groups(table: pa.Table, *by: str) -> list[dict[str, Any]]:
    sums = table.group_by(list(by)).aggregate([("seconds", "sum"), ("cer", "mean"), ([], "count_all")])
    return sorted(sums.to_pylist(), key=lambda g: (-(g["seconds_sum"] or 0.0), *(str(g[name]) for name in by)))


def _tally(group: dict[str, Any], names: tuple[str, ...], licence: str) -> Tally:
    shown = tuple(group[name] or "–" for name in names)
    return Tally(shown, licence, group["count_all"], group["seconds_sum"] or 0.0, group["cer_mean"])


def _reasons(files: Sequence[Path]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for file in files:
        try:
            counts.update(pq.read_table(file, columns=["rejected"])["rejected"].to_pylist())
        except (OSError, pa.ArrowException) as e:
            raise SaladError(f"{file} cannot be read ({e})", "remove the folder and run `salad run` again") from e
    return {reason: n for reason, n in counts.most_common() if reason not in (None, NOT_REACHED)}
