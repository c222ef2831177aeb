"""What a flow run shows in Prefect: progress of each stage, where the run is in words and tables, where the report is.

A key names one thing of a run, such as `demo-summary`, and Prefect keeps every version of it: the history of the run. What a
server does not take is left out with a warning: hours of training never end for a display.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from salad.errors import redact, visible
from salad.flows.told import inert, name_of

if TYPE_CHECKING:
    from salad.pipeline.stages import Run, Stage

SECONDS_BETWEEN_UPDATES = 2.0


def artifact_key(*parts: str) -> str:
    """Lower-case letters, digits and dashes, the only ones that Prefect allows."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class StageProgress:
    """A stage's progress artefact. Made with the first news after 2 s, so a short stage costs one request and none
    where nothing was built. A server that does not answer must not end hours of training, nor hold them up, though Prefect
    repeats a call for minutes: at most a tenth of the time is spent on telling."""

    def __init__(self, run_name: str, stage: Stage) -> None:
        self.stage = stage
        self.key = artifact_key(run_name, stage.name)
        self.artifact: UUID | None = None
        self.next = time.monotonic() + SECONDS_BETWEEN_UPDATES

    def __call__(self, done: float, total: float | None = None) -> None:
        if time.monotonic() >= self.next:
            total = total or self.stage.total
            of = f" of {total:,.0f}" if total else ""
            percent = min(100.0, 100 * done / total) if total else 0.0
            self._show(percent, f"{self.stage.name}: {done:,.0f}{of} {self.stage.unit}")

    def finish(self, seconds: float) -> None:
        self._show(100.0, f"{self.stage.name}: built in {seconds:.1f} s")

    def _show(self, percent: float, text: str) -> None:
        began = time.monotonic()
        try:
            if self.artifact is None:
                self.artifact = cast(UUID, create_progress_artifact(percent, key=self.key, description=inert(text)))
            else:
                update_progress_artifact(self.artifact, percent, description=inert(text))
        except Exception as e:
            get_logger("salad").warning("progress of %s not shown: %s: %s", self.stage.name, type(e).__name__, e)
        now = time.monotonic()
        self.next = now + max(SECONDS_BETWEEN_UPDATES, 9 * (now - began))


def show_round(run: Run, rounds: int) -> None:
    """After so many rounds, while more may come: where the run is, and its clusters."""
    from salad.flows.told import headline, summary_text

    name = run.config.name
    _tell(
        name,
        lambda: create_markdown_artifact(
            summary_text(run, rounds), key=artifact_key(name, "summary"), description=headline(run, rounds)
        ),
        lambda: _show_clusters(run),
    )


def show_results(run: Run, page: Path, ended: str | None = None) -> None:
    """What ends a flow run: where the run is, the tables of clusters, speech and students, and the report."""
    from salad.flows.told import headline, rounds_done, summary_text
    from salad.pipeline import summary

    name = run.config.name

    def told() -> None:
        rounds = rounds_done(run)
        if rounds is not None:
            text = summary_text(run, rounds, ended)
            create_markdown_artifact(text, key=artifact_key(name, "summary"), description=headline(run, rounds))

    def table(key: str, columns: list[str], rows: list[list[Any]], said: str) -> None:
        key = artifact_key(name, "table", key)
        create_table_artifact(table_rows(columns, rows), key=key, description=f"Run {name_of(name)}: {said}")

    _tell(
        name,
        told,
        lambda: _show_clusters(run),
        lambda: table("speech", summary.SPEECH_COLUMNS, summary.speech_rows(run), "speech chosen and spoken"),
        lambda: table(
            "heldout",
            summary.HELDOUT_COLUMNS,
            summary.heldout_rows(run),
            "held-out texts, never chosen from, never trained on (nats)",
        ),
        lambda: _show_report(run, page),
    )


def _tell(name: str, *shows: Callable[[], object]) -> None:
    """Show one after the other. A server that does not answer, or a table that cannot be made, only costs the display.

    Prefect repeats a call for minutes before it gives up, so once it has, the rest is left out.
    """
    for show in shows:
        try:
            show()
        except Exception as e:
            get_logger("salad").warning("run %s: not shown in Prefect: %s: %s", name, type(e).__name__, e)
            if isinstance(e, (HTTPError, PrefectException)):
                return


CLUSTER_COLUMNS = ["cluster", "mostly", "texts", "probes", "D ± SE", "CER", "flag", "P_web", "P_target"]


def _show_clusters(run: Run) -> None:
    """The clusters by the last scores, those that get the most first; nothing before there are scores."""
    from salad.pipeline.report import common_domains, figures

    scored = figures.scored_rounds(run)
    if scored and run.store.has("pool") and run.store.has("clusters"):
        name, mostly = run.config.name, common_domains(run)
        rows = [
            [row["cluster"], mostly[row["cluster"]], row["n_pool"], row["n_probe"], _with_error(row)]
            + [row[fact] for fact in ("cer", "flag", "p_web", "p_target")]
            for row in figures.cluster_rows(run, scored[-1])
        ]
        create_table_artifact(
            table_rows(CLUSTER_COLUMNS, rows),
            key=artifact_key(name, "table", "clusters"),
            description=f"Run {name_of(name)}: clusters as round {scored[-1]} found them (D in nats), the most wanted first",
        )


def _with_error(row: dict[str, Any]) -> str | None:
    """A cluster's D and its standard error in one cell: the page is narrow."""
    value, error = row["divergence"], row["divergence_se"]
    return None if value is None else f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _show_report(run: Run, page: Path) -> None:
    """Where the report is: on this disk a link and its path, elsewhere its URL. A browser may refuse to follow file://."""
    name = run.config.name
    key, said = artifact_key(name, "report"), f"Run {name_of(name)}: where the report is"
    place = str(run.store)
    if "://" in place:
        url = quote(redact(f"{place}/report/{page.name}"), safe=":/@%-._~?=&")
        create_link_artifact(url, link_text=f"The report of run {name_of(name)}", key=key, description=said)
    else:
        path = page.resolve()
        text = f"[The report of run {name_of(name)}]({path.as_uri()})\n\nIt lies at {inert(visible(str(path)))}"
        create_markdown_artifact(text, key=key, description=said)


def table_rows(columns: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    """One mapping a row, as Prefect wants them: numbers stay numbers, text is inert, nothing is a dash."""
    return [dict(zip(columns, map(_cell, row), strict=True)) for row in rows]


def _cell(value: Any) -> Any:
    if value is None:
        return "–"
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, int) else name_of(value)
