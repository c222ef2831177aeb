"""The clusters that a round flagged: why, and a few of their probes to read and to hear."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salad.config import Flags
from salad.pipeline import summary
from salad.pipeline.flags import cer_limit, cluster_cer
from salad.pipeline.report import figures, samples
from salad.pipeline.shards import shard_files

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

SHOWN = 3  # probes of each cluster
NO_PROBE = {
    "no probe": "It has no probe: it has too few texts, so it stands where the others lead one to expect.",
    "unspeakable": "No text of it that was tried made a sound that could be used, so nothing of it is chosen.",
}


def flagged(run: Run, folders: list[Path], sounds: Path) -> dict[str, Any] | None:
    """The flags of the last scored round; None before any round: its number, the rule in words, and the clusters.

    folders: speech folders that hold the probes. The sounds of those shown are written into `sounds`.
    """
    rounds = figures.scored_rounds(run)
    if not rounds:
        return None
    scores = run.store.path(f"round-{rounds[-1]:03d}/scores") / "probes.parquet"
    table = pq.read_table(scores, columns=["id", "cluster", "cer", "quarantined"])
    counts = pc.is_null(table["quarantined"])
    probes, unusable = table.filter(counts), table.filter(pc.invert(counts))
    cluster, cer = (probes[name].to_numpy() for name in ("cluster", "cer"))
    of_clusters = cluster_cer(cer.astype(np.float64), cluster, run.config.cluster.k)
    shown = []
    for row in figures.cluster_rows(run, rounds[-1]):
        c, flag = row["cluster"], row["flag"]
        if flag in NO_PROBE:
            shown.append({"cluster": c, "reason": _no_probe(flag, c, unusable), "probes": _turned_down(folders, c, sounds)})
        elif flag:
            ids = probes["id"].filter(cluster == c).to_pylist()
            worst = [i for _, i in sorted(zip(-np.nan_to_num(cer[cluster == c]), ids, strict=True))]
            spoken = _spoken(folders, worst[:SHOWN], sounds, f"cluster-{c:05d}")
            shown.append({"cluster": c, "reason": _reason(flag, float(of_clusters[c]), of_clusters), "probes": spoken})
    shown.sort(key=lambda row: row["cluster"])
    rule = run.config.score.flags
    return {"round": rounds[-1], "rule": _rule(of_clusters, rule), "clusters": shown}


def probe_folders(run: Run) -> list[Path]:
    """Published speech folders of probes."""
    names = [s.name for s in run.stages if s.name == "probe" or (s.name.startswith("probe-") and s.name.endswith("/speech"))]
    return [run.store.path(name) for name in names if summary.published(run, name)]


def _no_probe(flag: str, cluster: int, unusable: pa.Table) -> str:
    why = sorted(set(unusable["quarantined"].filter(pc.equal(unusable["cluster"], cluster)).to_pylist()))
    if flag == "no probe" and why:
        return f"None of its probes can be used ({', '.join(why)}), so it stands where the others lead one to expect."
    return NO_PROBE[flag]


def _reason(flag: str, cer: float, of_clusters: np.ndarray) -> str:
    if flag != "cer" or math.isnan(cer):
        return f"It is flagged “{flag}”."
    return f"The ASR does not understand it: its CER is {cer:.3f}, the median cluster’s {np.nanmedian(of_clusters):.3f}."


def _rule(of_clusters: np.ndarray, rule: Flags) -> str:
    if np.isnan(of_clusters).all():
        return "No ASR listened to the probes, so no cluster can be flagged for its character error rate (CER)."
    return (
        "A cluster’s character error rate (CER) is the mean of its probes’, without the worst eighth of them. A cluster is "
        f"flagged where that is above {cer_limit(of_clusters, rule):.3f} in this round: {rule.outlier:g} robust standard "
        f"deviations above the median cluster ({np.nanmedian(of_clusters):.3f}), but at least {min(rule.least, rule.max_cer):g} "
        f"and at most {rule.max_cer:g}. The highest is {np.nanmax(of_clusters):.3f}."
    )


def _spoken(folders: list[Path], ids: list[str], sounds: Path, prefix: str) -> list[dict[str, Any]]:
    """These probes in this order, their sounds written; an id that no folder has is left out."""
    columns = ["id", "text", "domain", "cer", "seconds", "words_per_second", "audio", "spans"]
    files = [path for folder in folders for path in shard_files(folder)]
    tables = [pq.read_table(path, columns=columns, filters=[("id", "in", ids)]) for path in files]
    rows = {row["id"]: row for table in tables for row in table.to_pylist()}
    shown = [rows[i] for i in ids if i in rows]
    return [{**samples.with_sound(row, sounds, f"{prefix}-{i}.flac"), "rejected": None} for i, row in enumerate(shown)]


def _turned_down(folders: list[Path], cluster: int, sounds: Path) -> list[dict[str, Any]]:
    """The first texts of a cluster that were tried as its probes and turned down, each with why and its sound, if any."""
    rows = [row for folder in folders for row in samples.turned_down(folder, SHOWN, cluster)]
    return [samples.with_sound(row, sounds, f"turned-down-{cluster:05d}-{i}.flac") for i, row in enumerate(rows[:SHOWN])]
