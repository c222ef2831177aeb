"""Where a run is, in a few lines of Markdown: what was spent, what it brought, what is wrong, what comes next.

Everything that is not our own word is inert. A pure function of what is published; artifacts.py hands it to Prefect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from salad.pipeline import stopping, summary
from salad.pipeline.card import printable
from salad.pipeline.report import common_domains, figures

if TYPE_CHECKING:
    from salad.pipeline.stages import Run

MOST = 5  # clusters, and reasons, that are named

# What CommonMark or its GitHub dialect would act on, inside a line (also links that need no brackets) and at its start.
INLINE = re.compile(r"[\\`*\[\]<~|&@]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)
BLOCK = re.compile(r"^(\d*)(>|[-+#.)](?=[-#\s]|$))")


def inert(text: str) -> str:
    """The text as Markdown that shows it as it is, on one line: Prefect renders table cells as Markdown too."""
    return BLOCK.sub(r"\1\\\2", INLINE.sub(r"\\\g<0>", " ".join(text.split())))


def name_of(value: object) -> str:
    """A name from the data: inert, without control characters, cut short."""
    return inert(printable(value))


def rounds_done(run: Run) -> int | None:
    """Rounds that are measured; None before Stage I's student is."""
    if not run.store.published("stage-one/metrics"):
        return None
    done = 0
    while run.store.published(f"round-{done:03d}/metrics"):
        done += 1
    return done


def where(rounds: int) -> str:
    return f"after round {rounds - 1}" if rounds else "after Stage I"


def headline(run: Run, rounds: int) -> str:
    """On one line, for lists of artefacts."""
    name = f"round-{rounds - 1:03d}" if rounds else "stage-one"
    return f"Run {name_of(run.config.name)}, {where(rounds)}: D {summary.metrics(run, f'{name}/metrics')['all']['D']:.3f} nats"


def summary_text(run: Run, rounds: int, ended: str | None = None) -> str:
    """After so many rounds (0: after Stage I). ended: what the flow run did, or why it made no more, in words."""
    lines = [_spent(run, rounds), *_change(run, rounds), *_clusters(run), *_turned_down(run, rounds)]
    if ended:
        lines.append(f"This flow run: {inert(ended)}.")
    lines.append(f"Next: {following(run, rounds)}.")
    head = f"Run **{name_of(run.config.name)}**, {where(rounds)}"
    return "\n".join([head, "", *(f"- {line}" for line in lines), "", *_table(run, rounds), ""])


def _spent(run: Run, rounds: int) -> str:
    """Seconds of speech of the round, or of Stage I, and in all."""
    if not rounds:
        natural = run.store.published("natural")
        return f"Spent: {natural.meta['seconds']:,.0f} s of natural speech." if natural else "Spent: no synthetic speech yet."
    names = [f"round-{r:03d}" for r in range(rounds)]
    speech = [run.store.manifest(f"{name}/speech").meta for name in names]
    here = names[-1]
    stages = [
        found
        for kind in ("scores", "selection", "speech", "checkpoint", "metrics")
        if (found := run.store.published(f"{here}/{kind}"))
    ]
    wall = sum(stage.seconds for stage in stages)
    last = speech[-1]
    return (
        f"Spent: {last['seconds']:,.0f} s of speech on {last['rows']:,} texts, of {last['budget']:,.0f} s asked; "
        f"{sum(meta['seconds'] for meta in speech):,.0f} s in all rounds. The round took {wall:,.0f} s. "
        f"Chosen by {name_of(run.config.select.selector)}."
    )


def _change(run: Run, rounds: int) -> Iterator[str]:
    """What became of D in the last round, text by text, and against the control where there is one."""
    if rounds:
        now = stopping.measured(run, rounds)
        if now.fall is not None and now.interval is not None:
            low, high = now.interval
            clear = "no clear change" if low <= 0 <= high else "better" if low > 0 else "worse"
            moved = "fell" if now.fall >= 0 else "rose"
            low, high = (low, high) if now.fall >= 0 else (-high, -low)
            width = f"\\[{low:.3f}, {high:.3f}\\]"
            yield f"D {moved} by {abs(now.fall):.3f} {width} nats since {where(rounds - 1)[6:]}, text by text: {clear}."
    if rounds == run.config.rounds and (verdict := summary.against_control(run)):
        yield f"Against the control (Stage I’s data for as many steps): {verdict}"
    elif rounds and run.config.control and not run.store.published("control/metrics"):
        yield "Against the control: it is trained when the rounds have ended."


def _clusters(run: Run) -> Iterator[str]:
    """Which clusters get the most, and which are flagged, by the last scores."""
    scored = figures.scored_rounds(run)
    if not scored or not (run.store.has("pool") and run.store.has("clusters")):
        return
    rows, mostly = figures.cluster_rows(run, scored[-1]), common_domains(run)
    most = [
        f"{row['cluster']} ({name_of(mostly[row['cluster']])}; {row['p_web']:.0%} of the pool) {row['p_target']:.0%}"
        for row in rows[:MOST]
        if row["p_target"] > 0
    ]
    yield f"Clusters that get the most in round {scored[-1]}: {'; '.join(most)}."
    flagged = [f"{row['cluster']} ({name_of(row['flag'])})" for row in rows if row["flag"]]
    shown = ", ".join(flagged[: 2 * MOST]) + (f" and {len(flagged) - 2 * MOST} more" if len(flagged) > 2 * MOST else "")
    yield f"Flagged, and given nothing: {shown or 'no cluster'}."


def _turned_down(run: Run, rounds: int) -> Iterator[str]:
    """Texts that were tried and not used, by reason."""
    if rounds:
        reasons: dict[str, int] = run.store.manifest(f"round-{rounds - 1:03d}/speech").meta["rejected"]
        common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count:,} {name_of(reason)}" for reason, count in common[: 2 * MOST] if count]
        yield f"Turned down: {', '.join(named) or 'no text'}."


def following(run: Run, rounds: int) -> str:
    """What comes next, in words."""
    if rounds < run.config.rounds:
        return f"round {rounds}"
    if run.config.control and not run.store.published("control/metrics"):
        return "the control, if the flow has not ended"
    return "nothing; the rounds that were asked for are done"


def _table(run: Run, rounds: int) -> list[str]:
    """D, M, F and gaps of the student before and of the one now, with 95 % intervals."""
    names = ["before/untrained", "stage-one/metrics", *(f"round-{r:03d}/metrics" for r in range(rounds))][-2:]
    labels = [*(["untrained"] if rounds == 0 else [where(rounds - 1)]), where(rounds)]
    known = [(label, summary.metrics(run, name)) for label, name in zip(labels, names, strict=True) if run.store.has(name)]
    rows = [[measure, *(_value(m["all"], measure) for _, m in known)] for measure in ("D", "M", "F")]
    for name in dict.fromkeys(name for _, m in known for name in m.get("benchmarks", {})):
        cells = [_value(m.get("benchmarks", {}).get(name, {}), "gap") for _, m in known]
        rows.append([f"gap on {name_of(name)}", *cells])
    heads = ["held-out texts (nats)", *(label for label, _ in known)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _value(values: dict[str, Any], name: str) -> str:
    value, low, high = (values.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} \\[{low:.3f}, {high:.3f}\\]"
