"""A benchmark's answers as a table: the toplines, then each student by ear, with their gaps and intervals."""

from __future__ import annotations

from typing import Any

CONDITIONS = {
    "q_text": "Q on text",
    "cascade": "cascade: ASR, then Q on text",
    "p_text": "P on text",
    "p_speech": "P on speech",
    "p_nothing": "P without ears",
}
COLUMNS = ["condition", "accuracy", "95 % interval", "gap", "95 % interval", "unnormalised", "questions"]


def title(name: str, students: dict[str, dict[str, Any]]) -> str:
    """students: `metrics.json` of each by its label."""
    of_all = [m["benchmarks"][name] for m in students.values()]
    out = f", {of_all[0]['left_out']} left out: no sound" if of_all[0]["left_out"] else ""
    ties = sum(c["ties"] for m in of_all for c in m["conditions"].values())
    tied = f", {ties} ties" if ties else ""
    return f"{name}: accuracy (chance {of_all[0]['chance']:.3f}{out}{tied}); gap: Q on text less P on speech"


def rows(name: str, students: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Cells of COLUMNS."""
    answers = {label: m["benchmarks"][name] for label, m in students.items()}
    first = next(iter(answers.values()))
    cells = [_cells(CONDITIONS[c], first, c) for c in ("q_text", "cascade") if c in first["conditions"]]
    for label, of_student in answers.items():
        conditions = of_student["conditions"]
        if conditions["p_text"] != first["conditions"]["q_text"]:  # with a frozen LM it is the teacher
            cells.append(_cells(f"{CONDITIONS['p_text']}, {label}", of_student, "p_text"))
        by_ear = next(c for c in ("p_speech", "p_nothing") if c in conditions)
        gap = [f"{of_student['gap']:+.3f}", interval(of_student, "gap")]
        cells.append(_cells(f"{CONDITIONS[by_ear]}, {label}", of_student, by_ear, gap))
    return cells


def _cells(label: str, of_student: dict[str, Any], condition: str, gap: list[str] | None = None) -> list[str]:
    f = of_student["conditions"][condition]
    shown = [f"{f['accuracy']:.3f}", interval(f, "accuracy")]
    return [label, *shown, *(gap or ["", ""]), f"{f['accuracy_raw']:.3f}", str(of_student["questions"])]


def interval(values: dict[str, Any], key: str) -> str:
    low, high = values[f"{key}_low"], values[f"{key}_high"]
    return "" if low is None else f"[{low:.3f}, {high:.3f}]"
