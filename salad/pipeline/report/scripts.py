"""Data that a page loads as scripts: a page opened from disk may load a script from beside it, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# JSON is JavaScript. Escaped all the same is what would mean something in HTML, should the file ever be read as that.
INERT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_script(path: Path, call: str, data: Any) -> None:
    """A script that calls a function of the page with `data`; NaN and infinities, which JSON does not know, are refused."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(INERT)
    path.write_text(f"{call}({text});\n", encoding="utf-8")


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number for a page, which is also smaller this way; None for what is not known."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
