"""The report of a run: HTML pages that open from disk, with their figures and sounds beside them, no network.

Everything is read from published artefacts. What is not published yet is left out and named at the top.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from salad.artifact import Manifest
from salad.errors import SaladError
from salad.pipeline import summary
from salad.pipeline.pool import read_pool
from salad.pipeline.report import atlas, figures, listening, machine, overview, rates, sample_table
from salad.pipeline.report.calibration import calibration
from salad.pipeline.report.flagged import flagged, probe_folders
from salad.pipeline.report.look import cell, copy_scripts, templates
from salad.pipeline.report.scripts import write_script
from salad.pipeline.report.story import story

if TYPE_CHECKING:
    from jinja2 import Environment

    from salad.pipeline.stages import Run


PAGES = [
    ("index.html", "Story"),
    ("map.html", "Map"),
    ("samples.html", "Samples"),
    (listening.PAGE, "Listening"),
    ("machine.html", "Machine"),
]


def write_report(run: Run) -> Path:
    """Publish the report anew from whatever is published now; returns the path of its page.

    The key names the stages it was made from. Of a finished run it is therefore the stage's own key; of an
    unfinished one it is another, and `salad run` writes the report again at its end.
    """
    from salad.pipeline.stages import CODE_VERSION

    stage = run.stages[-1]
    there = tuple(name for name in stage.inputs if summary.published(run, name))
    if not there:
        raise SaladError(f"run {run.store} has nothing to report yet", "start it with `salad run`")
    inputs = {name: run.store.manifest(name).key for name in there}
    key = run.key(replace(stage, inputs=there))
    blank = Manifest(stage.name, key, stage.depends, inputs, CODE_VERSION, run.config.seed, 0.0)
    run.store.publish(stage.name, blank, lambda out: build_report(out, run, lambda _: None))
    return run.store.path(stage.name) / "index.html"


def build_report(out: Path, run: Run, progress: Callable[[float], None]) -> dict[str, Any]:
    """Write the pages, their scripts and data, config.yaml and audio/ into `out`; the same artefacts give the same bytes."""
    for folder in ("audio", "rows"):
        shutil.rmtree(out / folder, ignore_errors=True)
    environment, tried = templates(), rates.tried(run, rates.synthesised(run))
    heard = _write_listening(out, run, environment, tried)
    found = Pages(run, out, environment, heard)
    drawn = [found.story(), found.map(), found.samples(rates.by_voice(tried)), found.machine()]
    copy_scripts(out, "figures.js", "map.js", "samples.js")
    progress(1)
    return {"figures": sum(drawn), "sounds": len(list((out / "audio").rglob("*.flac")))}


class Pages:
    """The report's pages; each method writes one and returns how many figures are on it."""

    def __init__(self, run: Run, out: Path, environment: Environment, heard: bool) -> None:
        self.run, self.out, self._environment = run, out, environment
        self.pages = [page for page in PAGES if heard or page[0] != listening.PAGE]

    def story(self) -> int:
        run, plots = self.run, figures.story_figures(self.run)
        missing = [s.name for s in run.stages[:-1] if not summary.published(run, s.name)]
        self._write(
            "index.html",
            missing=missing,
            stages=len(run.stages) - 1,
            tiles=overview.tiles(run),
            story=story(run),
            figures=plots,
            heldout=(summary.HELDOUT_COLUMNS, summary.heldout_rows(run)),
            domains=summary.domain_rows(run),
            benchmarks=summary.benchmark_tables(run),
        )
        return len(plots)

    def map(self) -> int:
        run, rounds = self.run, figures.scored_rounds(self.run)
        scored = {r: figures.cluster_rows(run, r) for r in rounds}
        plots = {f"clusters-{r}": figures.clusters(rows) for r, rows in scored.items()}
        prediction = calibration(run)
        if prediction:
            plots["calibration"] = prediction.figure
        points, about, common = atlas.points(run), atlas.about(run), common_domains(run) if scored else []
        if points:
            write_script(self.out / "map-data.js", "drawMap", points)
        self._write(
            "map.html",
            map=points,
            about=about,
            figures=plots,
            clusters={r: cluster_table(rows, common, about) for r, rows in scored.items()},
            scores={r: run.store.manifest(f"round-{r:03d}/scores").meta for r in rounds},
            symbols=figures.SYMBOLS,
            prediction=prediction,
            flags=flagged(run, probe_folders(run), self.out / "audio"),
            pool=run.store.manifest("pool").meta if summary.published(run, "pool") else None,
        )
        return len(plots) + bool(points)

    def samples(self, voices: rates.Table) -> int:
        written = sample_table.write_samples(sample_table.samples_of(self.run), self.out)
        speech = (summary.SPEECH_COLUMNS, summary.speech_rows(self.run))
        self._write("samples.html", samples=written, speech=speech, voices=voices)
        return 0

    def machine(self) -> int:
        run = self.run
        dumped = run.config.model_dump(mode="json", exclude={"runs_dir"})
        config = yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True)
        (self.out / "config.yaml").write_text(config, encoding="utf-8")
        self._write(
            "machine.html",
            times=summary.time_rows(run),
            by_stage=(machine.COLUMNS, machine.stage_rows(run)),
            machine=machine.machine(),
            packages=machine.packages(),
            config=config,
        )
        return 0

    def _write(self, page: str, **facts: Any) -> None:
        html = self._environment.get_template(page).render(name=self.run.config.name, pages=self.pages, **facts)
        (self.out / page).write_text(html, encoding="utf-8")


def _write_listening(out: Path, run: Run, environment: Environment, tried: list[rates.Tried]) -> bool:
    """Write the listening page, where there is a sample to hear. tried: what the run's voices spoke."""
    (out / listening.PAGE).unlink(missing_ok=True)
    texts = [*tried, *rates.tried(run, listening.brought(run))]
    if not texts:
        return False
    html = environment.get_template(listening.PAGE).render(
        name=run.config.name,
        pages=PAGES,
        sections=listening.sections(run, texts, out / "audio"),
        quality=run.config.speech.quality,
        voices=rates.by_voice(tried),
        clusters=rates.by_cluster(tried, common_domains(run)) if tried else None,
        unfolded=listening.CLUSTERS,
    )
    (out / listening.PAGE).write_text(html, encoding="utf-8")
    return True


def cluster_table(
    rows: list[dict[str, Any]], common: list[str], about: dict[int, dict[str, Any]]
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a round's clusters. rows: `figures.cluster_rows`; common: `common_domains`; about: `atlas.about`.

    Columns of typical words, of flags and of F stand there only where a cluster has one.
    """
    columns: dict[str, list[Any]] = {
        "cluster": [row["cluster"] for row in rows],
        "about": [", ".join(about.get(row["cluster"], {"words": []})["words"][:4]) for row in rows],
        "mostly": [common[row["cluster"]] for row in rows],
        "flag": [row["flag"] for row in rows],
        "texts": [row["n_pool"] for row in rows],
        "probes": [row["n_probe"] for row in rows],
        "D": [row["divergence"] for row in rows],
        "95%": [interval(row) for row in rows],
        f"{figures.SYMBOLS[rows[0]['signal']]} est.": [row["divergence_shrunk"] for row in rows],
        "±": [figures.estimate_error(row) for row in rows],
        "F": [row["forgetting"] for row in rows],
        "CER": [row["cer"] for row in rows],
        "P_web": [row["p_web"] for row in rows],
        "P_target": [row["p_target"] for row in rows],
    }
    shown = {name: values for name, values in columns.items() if name not in ("about", "flag", "F") or any(values)}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def interval(row: dict[str, Any]) -> str | None:
    """The 95% interval of a cluster's D in one cell."""
    low, high = row["divergence_low"], row["divergence_high"]
    return None if low is None or high is None else f"{cell(low)}–{cell(high)}"


def common_domains(run: Run) -> list[str]:
    """For each cluster, the most common domain of its texts and its share of them."""
    cluster = np.load(run.store.path("clusters") / "assignment.npy", allow_pickle=False)
    domain = read_pool(run.store.path("pool"), ["domain"])["domain"].combine_chunks().fill_null("unknown").dictionary_encode()
    names = domain.dictionary.to_pylist()
    k, d = run.config.cluster.k, len(names)
    counts = np.bincount(cluster.astype(np.int64) * d + domain.indices.to_numpy(), minlength=k * d).reshape(k, d)
    return [f"{names[row.argmax()]} {row.max() / row.sum():.0%}" if row.sum() else "–" for row in counts]
