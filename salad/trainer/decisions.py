"""What the training loop decides on its way, kept with every checkpoint so that a resumed run goes the same way.

The file is written last into a Trainer checkpoint: it is also the mark of one that is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

MARK = "_complete.json"


@dataclass
class Decisions:
    decay_from: int  # the step after which the rate falls: what the recipe says, or earlier
    halved: bool = False  # memory ran out: every batch is done in two halves
    measured: list[tuple[int, float]] = field(default_factory=list)  # (step, D on the probes)

    def write(self, checkpoint: Path) -> None:
        """Durably, after everything else in the checkpoint."""
        partial = checkpoint / (MARK + ".tmp")
        with partial.open("w", encoding="utf-8") as f:
            json.dump(asdict(self), f)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(checkpoint / MARK)

    def read(self, checkpoint: Path) -> None:
        """Take over what a whole checkpoint says."""
        kept = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
        self.decay_from, self.halved = int(kept["decay_from"]), bool(kept["halved"])
        self.measured = [(int(step), float(value)) for step, value in kept["measured"]]


def last_whole(work: Path) -> Path | None:
    """The newest checkpoint of the Trainer's folder that was written to its end."""
    whole = [mark.parent for mark in work.glob(f"checkpoint-*/{MARK}")]
    return max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)


def remove_broken(work: Path) -> None:
    """Checkpoints that a killed process left unfinished: they would push whole ones out of the few that are kept."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / MARK).exists():
            shutil.rmtree(folder)
