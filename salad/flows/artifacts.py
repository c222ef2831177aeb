"""What a flow run shows in Prefect: progress of each stage, the tables of the run, where the report is."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

if TYPE_CHECKING:
    from salad.pipeline.stages import Run, Stage

SECONDS_BETWEEN_UPDATES = 2.0

# What CommonMark or its GitHub dialect would act on, inside a line (also links that need no brackets) and at its start.
INLINE = re.compile(r"[\\`*\[\]<~|&@]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)
BLOCK = re.compile(r"^(\d*)(>|[-+#.)](?=[-#\s]|$))")


def inert(text: str) -> str:
    """The text as Markdown that shows it as it is, on one line: Prefect renders table cells as Markdown too."""
    return BLOCK.sub(r"\1\\\2", INLINE.sub(r"\\\g<0>", " ".join(text.split())))


def artifact_key(*parts: str) -> str:
    """Lower-case letters, digits and dashes, the only ones that Prefect allows."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class StageProgress:
    """A stage's progress artefact. Made with the first news after 2 s, so a short stage costs one request and none
    where nothing was built. A server that does not answer must not end hours of training: it only costs the display."""

    def __init__(self, run_name: str, stage: Stage) -> None:
        self.stage = stage
        self.key = artifact_key(run_name, stage.name)
        self.artifact: UUID | None = None
        self.shown = time.monotonic()

    def __call__(self, done: float, total: float | None = None) -> None:
        if time.monotonic() - self.shown >= SECONDS_BETWEEN_UPDATES:
            total = total or self.stage.total
            of = f" of {total:,.0f}" if total else ""
            percent = min(100.0, 100 * done / total) if total else 0.0
            self._show(percent, f"{self.stage.name}: {done:,.0f}{of} {self.stage.unit}")

    def finish(self, seconds: float) -> None:
        self._show(100.0, f"{self.stage.name}: built in {seconds:.1f} s")

    def _show(self, percent: float, text: str) -> None:
        self.shown = time.monotonic()
        try:
            if self.artifact is None:
                self.artifact = cast(UUID, create_progress_artifact(percent, key=self.key, description=inert(text)))
            else:
                update_progress_artifact(self.artifact, percent, description=inert(text))
        except (HTTPError, PrefectException) as e:
            get_logger("salad").warning("progress of %s not shown: %s", self.stage.name, e)


def show_results(run: Run, page: Path) -> None:
    """The two tables that end `salad round`, and the path of the report."""
    from salad.pipeline import summary

    name = run.config.name
    create_table_artifact(
        table_rows(summary.SPEECH_COLUMNS, summary.speech_rows(run)),
        key=artifact_key(name, "table", "speech"),
        description=f"Run {inert(name)}: speech chosen and spoken",
    )
    create_table_artifact(
        table_rows(summary.HELDOUT_COLUMNS, summary.heldout_rows(run)),
        key=artifact_key(name, "table", "heldout"),
        description=f"Run {inert(name)}: held-out texts, never chosen from, never trained on (nats)",
    )
    create_markdown_artifact(
        f"The report of run **{inert(name)}**: {inert(str(page.resolve()))}",
        key=artifact_key(name, "report"),
        description=f"Run {inert(name)}: where the report is",
    )


def table_rows(columns: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    """One mapping a row, as Prefect wants them: numbers stay numbers, text is inert, nothing is a dash."""
    return [dict(zip(columns, map(_cell, row), strict=True)) for row in rows]


def _cell(value: Any) -> Any:
    if value is None:
        return "–"
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, int) else inert(str(value))
