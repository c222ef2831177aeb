"""What was paid for what: seconds of speech and wall time of the rounds, for each 0.1 nats that D fell by since Stage I."""

from __future__ import annotations

from dataclasses import dataclass

from salad.pipeline.comparison.differences import Difference, difference
from salad.pipeline.comparison.facts import Side

POINT = 0.1  # nats
KINDS = {"synthesis": ("speech",), "selection": ("scores", "selection"), "training": ("prepared", "checkpoint")}


@dataclass(frozen=True)
class Cost:
    """change, beyond: D after the last round less Stage I's, and less the control's; None where there is none to compare."""

    speech: float  # seconds of synthetic speech in all rounds that are measured
    wall: dict[str, float]  # seconds by kind, as the manifests say
    change: Difference | None
    beyond: Difference | None

    @property
    def gained(self) -> bool:
        """Whether D has clearly fallen."""
        return self.change is not None and self.change.verdict == "better"

    def each(self, paid: float) -> float | None:
        """What was paid for every `POINT` nats gained; None where nothing was."""
        return paid * POINT / -self.change.mean if self.gained and self.change else None

    @property
    def verdict(self) -> str:
        if self.change is None:
            return "no round yet"
        return {"better": "gained", "worse": "D rose", "no difference": "nothing gained"}.get(
            self.change.verdict, self.change.verdict
        )


def cost(side: Side) -> Cost:
    """Of the rounds that are measured. Wall time is that of the attempt which published each artefact."""
    rounds = range(side.rounds)
    wall = {kind: sum(_seconds(side, name, r) for name in names for r in rounds) for kind, names in KINDS.items()}
    if not rounds:
        return Cost(0.0, wall, None, None)
    last = side.students[-1]
    change = difference(last, side.students[0], side.label)
    finished = side.rounds == side.config.rounds
    beyond = difference(last, side.control, side.label) if side.control and finished else None
    return Cost(last.seconds, wall, change, beyond)


def _seconds(side: Side, kind: str, round_: int) -> float:
    here = f"round-{round_:03d}"
    found = side.manifest(f"prepared/{here}" if kind == "prepared" else f"{here}/{kind}")
    return found.seconds if found else 0.0
