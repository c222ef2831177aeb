"""The run at a glance: speech spent, D, the gap, and the difference to the control, each with its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from salad.pipeline import summary
from salad.pipeline.report.figures import CONTROL, NO_SPEECH

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

Z = 1.96  # standard errors on each side


@dataclass(frozen=True)
class Tile:
    title: str
    value: str
    note: str


def tiles(run: Run) -> list[Tile]:
    """What is known already; a tile that cannot be given says why."""
    names = [name for _, name, _ in summary.students(run) if name not in (NO_SPEECH, CONTROL)]
    measured = {name: summary.metrics(run, name) for name in names}
    return [_spent(run), _divergence(run, measured), _gap(measured), _against_control(run)]


def _spent(run: Run) -> Tile:
    rounds = [r for r in range(run.config.rounds) if summary.published(run, f"round-{r:03d}/speech")]
    metas = [run.store.manifest(f"round-{r:03d}/speech").meta for r in rounds]
    seconds, asked = sum(m["seconds"] for m in metas), run.config.rounds * run.config.select.budget
    texts = sum(m["rows"] for m in metas)
    note = f"of {asked:,.0f} s to spend; {texts:,} texts in {len(rounds)} of {run.config.rounds} rounds"
    return Tile("Speech synthesised", f"{seconds:,.0f} s", note)


def _divergence(run: Run, measured: dict[str, dict[str, Any]]) -> Tile:
    title = "D, on held-out texts"
    if not measured:
        return Tile(title, "–", "no student is measured yet")
    first, last = next(iter(measured.values()))["all"], list(measured.values())[-1]["all"]
    value = f"{first['D']:.2f} → {last['D']:.2f}" if len(measured) > 1 else f"{last['D']:.2f}"
    labels = {name: label for label, name, _ in summary.students(run)}
    ends = [labels[name] for name in (next(iter(measured)), list(measured)[-1])]
    told = " to ".join(dict.fromkeys(ends))
    return Tile(title, value, f"nats, {told}{_interval(last, 'D')}; {last['texts']:,} texts")


def _gap(measured: dict[str, dict[str, Any]]) -> Tile:
    title = "Gap, text to speech"
    asked = [m["benchmarks"] for m in measured.values() if m.get("benchmarks")]
    if not asked:
        return Tile(title, "–", "no benchmark was asked")
    name = next(iter(asked[-1]))
    gaps = [a[name] for a in asked if name in a]
    first, last = 100 * gaps[0]["gap"], 100 * gaps[-1]["gap"]
    value = f"{first:.1f} → {last:.1f}" if len(gaps) > 1 else f"{last:.1f}"
    return Tile(
        title, value, f"points of accuracy on {name}{_interval(gaps[-1], 'gap', 100, 1)}; {gaps[-1]['questions']:,} questions"
    )


def _against_control(run: Run) -> Tile:
    title = "D, against the control"
    last = f"round-{run.config.rounds - 1:03d}/metrics"
    both = {name for _, name, _ in summary.students(run)} >= {last, CONTROL}
    found = summary.paired_difference(run, last, CONTROL) if both else None
    if found is None:
        return Tile(title, "–", "the control is not measured" if run.config.control else "no control was asked for")
    mean, error = found
    low, high = mean - Z * error, mean + Z * error
    clear = "" if low > 0 or high < 0 else ": no difference"
    value, interval = f"{mean:+.3f}", f"[{low:+.3f}, {high:+.3f}]"
    return Tile(title, value.replace("-", "−"), f"{interval.replace('-', '−')}{clear}; Stage I data alone, for as many steps")


def _interval(values: dict[str, Any], name: str, scale: float = 1.0, digits: int = 2) -> str:
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "" if low is None or high is None else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
