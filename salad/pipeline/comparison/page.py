"""The page of a comparison: opens from disk without a network, in the look of a run's report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from salad.artifact import Manifest, make_key, publish
from salad.errors import redact
from salad.pipeline import own_folder
from salad.pipeline.comparison import Comparison, differences, figures, notes, tables, verdicts
from salad.pipeline.comparison.facts import Side

STAGE = "comparison"
PAGE = "index.html"


def check_out(out: Path) -> None:
    """SaladError unless the folder is new, empty, or an earlier comparison: writing replaces it."""
    own_folder.check_out(out, STAGE)


def write(out: Path, found: Comparison) -> Path:
    """Publish the page with plotly.min.js beside it, in place of an older one; the path of the page. Same runs, same bytes."""
    check_out(out)
    inputs = {f"{side.store}/{s.label}": s.key for side in found.sides for s in (*side.students, *filter(None, [side.control]))}
    config = {"runs": [redact(str(side.store)) for side in found.sides], "to": found.base.label}
    key = make_key(config=config, inputs=inputs, missing=[side.missing for side in found.sides])
    out.parent.mkdir(parents=True, exist_ok=True)
    publish(out, Manifest(STAGE, key, config, {}, "", 0, 0.0), lambda folder: _build(folder, found, out))
    return out / PAGE


def _build(folder: Path, found: Comparison, out: Path) -> dict[str, Any]:
    from salad.pipeline.report.look import copy_scripts, templates

    plots = figures.all_figures(found)
    html = (
        templates(Path(__file__).parent)
        .get_template("comparison.html")
        .render(
            found=found,
            notes=notes(found),
            verdicts=verdicts(found),
            figures=plots,
            benchmarks=figures.benchmarks(found.sides),
            runs=tables.runs(found.sides, found.costs),
            overall=tables.differences(found.overall),
            domains=tables.domains(found.domains),
            costs=tables.costs(found.sides, found.costs),
            overlaps=tables.overlaps(found.overlaps),
            strategies=tables.strategies(found.strategies),
            unfair=tables.differing(found.sides, found.unfair),
            chosen_by=tables.differing(found.sides, found.chosen_by),
            places=[(side.label, redact(str(side.store)), report_link(side, out)) for side in found.sides],
            resamples=differences.RESAMPLES,
        )
    )
    (folder / PAGE).write_text(html, encoding="utf-8", errors="replace")
    copy_scripts(folder, "figures.js")
    return {"runs": len(found.sides), "figures": len(plots)}


def report_link(side: Side, out: Path) -> str | None:
    """A run's report as seen from the page; None where there is none, or it is elsewhere than on this disk."""
    page = side.store.path("report") / "index.html"
    if "://" in str(side.store) or side.manifest("report") is None or not page.is_file():
        return None
    return quote(Path(os.path.relpath(page.resolve(), out.resolve())).as_posix(), errors="replace")
