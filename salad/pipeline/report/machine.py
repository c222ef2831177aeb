"""The machine's side of a run: time, memory and throughput of every stage, and what it was written with."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import salad
from salad.artifact import Manifest
from salad.devices import gpu_name
from salad.pipeline import summary

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

COLUMNS = ["stage", "seconds", "memory (GB)", "done", "a second"]
DONE = {  # what a stage counts in its manifest, in the order in which it is looked for
    "passages": "passages",
    "steps": "steps",
    "examples": "texts",
    "points": "points",
    "probes": "probes",
    "texts": "texts",
    "rows": "texts",
}


def stage_rows(run: Run) -> list[list[Any]]:
    """COLUMNS of every published stage but the report, in their order. Of speech the seconds count, not the texts."""
    rows: list[list[Any]] = []
    for stage in run.stages:
        if stage.name != "report" and summary.published(run, stage.name):
            found = run.store.manifest(stage.name)
            memory = None if found.peak_bytes is None else f"{found.peak_bytes / 1e9:.2f}"
            rows.append([stage.name, f"{found.seconds:.1f}", memory, *_throughput(found)])
    return rows


def _throughput(manifest: Manifest) -> tuple[str | None, str | None]:
    meta = manifest.meta
    if "seconds" in meta and "rows" in meta:  # speech
        count, unit = float(meta["seconds"]), "s of speech"
    else:
        name = next((name for name in DONE if isinstance(meta.get(name), int)), None)
        if name is None:
            return None, None
        count, unit = float(meta[name]), DONE[name]
    rate = count / manifest.seconds if manifest.seconds > 0 else 0.0
    return f"{count:,.0f} {unit}", f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def machine() -> dict[str, Any]:
    """Where this report was written."""
    return {
        "salad": salad.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        **({"GPU": gpu} if (gpu := gpu_name()) else {}),
    }


def packages() -> dict[str, str]:
    """Versions of what salad depends on, without its extras."""
    try:
        wanted = metadata.requires("salad-speech") or []
    except metadata.PackageNotFoundError:
        return {}
    names = sorted(re.split(r"[^\w.-]", line)[0] for line in wanted if "extra ==" not in line)
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    model = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return model[1] if model else platform.processor() or "unknown"
