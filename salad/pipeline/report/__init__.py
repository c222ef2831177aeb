"""The report of a run: HTML pages that open from disk, with their figures and sounds beside them, no network.

Everything is read from published artefacts. What is not published yet is left out and named at the top.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

import salad
from salad.artifact import Manifest
from salad.errors import SaladError
from salad.pipeline import summary
from salad.pipeline.pool import read_pool
from salad.pipeline.report import figures, listening, rates, samples
from salad.pipeline.report.calibration import calibration
from salad.pipeline.report.flagged import flagged, probe_folders
from salad.pipeline.report.story import story

if TYPE_CHECKING:
    from jinja2 import Environment

    from salad.pipeline.stages import Run


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
    """Write the pages, plotly.min.js, config.yaml and audio/ into `out`; the same artefacts give the same bytes."""
    from plotly.offline import get_plotlyjs

    shutil.rmtree(out / "audio", ignore_errors=True)
    environment = _environment()
    tried = rates.tried(run, rates.synthesised(run))
    heard = _write_listening(out, run, environment, tried)
    round_ = samples.last_spoken_round(run)
    speech = None if round_ is None else run.store.path(f"round-{round_:03d}/speech")
    selected = samples.selected(speech, out / "audio") if speech else []
    flags = flagged(run, probe_folders(run), out / "audio")
    plots = figures.all_figures(run)
    prediction = calibration(run)
    if prediction:
        plots["calibration"] = prediction.figure
    rounds = figures.scored_rounds(run)
    config = yaml.safe_dump(run.config.model_dump(mode="json", exclude={"runs_dir"}), sort_keys=False, allow_unicode=True)
    page = environment.get_template("page.html")
    html = page.render(
        name=run.config.name,
        missing=[s.name for s in run.stages[:-1] if not summary.published(run, s.name)],
        stages=len(run.stages) - 1,
        story=story(run),
        figures=plots,
        heldout=(summary.HELDOUT_COLUMNS, summary.heldout_rows(run)),
        domains=summary.domain_rows(run),
        benchmarks=summary.benchmark_tables(run),
        speech=(summary.SPEECH_COLUMNS, summary.speech_rows(run)),
        times=summary.time_rows(run),
        clusters={r: cluster_table(run, r) for r in rounds},
        scores={r: run.store.manifest(f"round-{r:03d}/scores").meta for r in rounds},
        symbols=figures.SYMBOLS,
        prediction=prediction,
        flags=flags,
        round=round_,
        voices=rates.by_voice(tried),
        listening=listening.PAGE if heard else None,
        selected=selected,
        rejected=samples.rejected(speech, out / "audio") if speech else [],
        pool=run.store.manifest("pool").meta if summary.published(run, "pool") else None,
        machine=machine(),
        packages=packages(),
        config=config,
    )
    (out / "index.html").write_text(html, encoding="utf-8")
    (out / "config.yaml").write_text(config, encoding="utf-8")
    (out / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    progress(1)
    return {"figures": len(plots), "sounds": len(list((out / "audio").glob("*.flac")))}


def _write_listening(out: Path, run: Run, environment: Environment, tried: list[rates.Tried]) -> bool:
    """Write the listening page, where there is a sample to hear. tried: what the run's voices spoke."""
    (out / listening.PAGE).unlink(missing_ok=True)
    texts = [*tried, *rates.tried(run, listening.brought(run))]
    if not texts:
        return False
    html = environment.get_template(listening.PAGE).render(
        name=run.config.name,
        sections=listening.sections(run, texts, out / "audio"),
        quality=run.config.speech.quality,
        voices=rates.by_voice(tried),
        clusters=rates.by_cluster(tried, common_domains(run)) if tried else None,
        unfolded=listening.CLUSTERS,
    )
    (out / listening.PAGE).write_text(html, encoding="utf-8")
    return True


def cluster_table(run: Run, round_: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a round's clusters, each with the domain that most of its pool texts are of.

    A column of flags and one of F stand there only where a cluster has one.
    """
    rows = figures.cluster_rows(run, round_)
    common = common_domains(run)
    columns: dict[str, list[Any]] = {
        "cluster": [row["cluster"] for row in rows],
        "mostly": [common[row["cluster"]] for row in rows],
        "flag": [row["flag"] for row in rows],
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
    shown = {name: values for name, values in columns.items() if name not in ("flag", "F") or any(values)}
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


def machine() -> dict[str, Any]:
    """Where this report was written."""
    return {
        "salad": salad.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
    }


def packages() -> dict[str, str]:
    """Versions of what salad depends on, without its extras."""
    try:
        wanted = metadata.requires("salad-speech") or []
    except metadata.PackageNotFoundError:
        return {}
    names = sorted(re.split(r"[^\w.-]", line)[0] for line in wanted if "extra ==" not in line)
    found = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions() if d.name}
    return {name: found[name.lower()] for name in names if name.lower() in found}


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    model = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return model[1] if model else platform.processor() or "unknown"


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _environment() -> Environment:
    """Jinja with every value escaped; JSON that would not parse in a browser is refused."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    return environment
