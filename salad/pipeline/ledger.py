"""What is spoken next, so that a budget in seconds is met: the queue, the reserves, and what was spent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.02  # of the budget, either way

OVER_BUDGET = "over budget"
NOT_REACHED = "budget met before its turn"

Row = dict[str, Any]


@dataclass
class Order:
    """What to speak: rows in order, replacements by cluster, and the budget in seconds (None: all rows)."""

    rows: list[Row]
    reserve: dict[int, list[Row]] = field(default_factory=dict)
    budget: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One text's fate: its seconds and why it was turned down, if it was."""

    id: str
    cluster: int
    seconds: float
    rejected: str | None


@dataclass
class Ledger:
    """What was spent and what comes next: a function of the order and of the outcomes so far, nothing else."""

    order: Order
    spent: float = 0.0
    by_cluster: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    queue: list[Row] = field(default_factory=list)
    reserve: dict[int, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = list(self.order.rows)
        self.reserve = {c: list(rows) for c, rows in self.order.reserve.items()}
        self.asked: dict[int, float] = defaultdict(float)
        for row in self.order.rows:
            self.asked[row["cluster"]] += row["est_seconds"]

    @property
    def met(self) -> bool:
        return self.order.budget is not None and self.spent >= (1 - TOLERANCE / 2) * self.order.budget

    def fits(self, seconds: float) -> bool:
        return self.order.budget is None or self.spent + seconds <= (1 + TOLERANCE) * self.order.budget

    def next_batch(self, size: int) -> list[Row]:
        """The next texts to speak: the queue, then reserves of the clusters that got least of what they asked."""
        if self.met:
            return []
        if not self.queue and self.order.budget is not None:
            self._top_up()
        limit = None if self.order.budget is None else self.order.budget - self.spent
        batch: list[Row] = []
        while self.queue and len(batch) < size and (limit is None or sum(r["est_seconds"] for r in batch) < limit):
            batch.append(self.queue.pop(0))
        return batch

    def peek(self, batch: list[Row], size: int, count: int = 1) -> list[list[Row]]:
        """What `next_batch` will very likely give, up to so many times, once `batch` is settled; as far as that can be told."""
        found: list[list[Row]] = []
        expected = self.spent + sum(r["est_seconds"] for r in batch)
        for following in (self.queue[i * size : (i + 1) * size] for i in range(count)):
            expected += sum(r["est_seconds"] for r in following)
            room = self.order.budget is None or expected < (1 - TOLERANCE) * self.order.budget
            if len(following) < size or not room:
                break
            found.append(following)
        return found

    def _top_up(self) -> None:
        """Queue reserves whose estimates fit what is missing, first from the clusters that lag most."""
        missing = (self.order.budget or 0.0) - self.spent
        slack = TOLERANCE * (self.order.budget or 0.0)
        expected = dict(self.by_cluster)
        while missing > 0:
            lag = {c: self.asked[c] - expected.get(c, 0.0) for c in self.reserve}
            fitting = (
                (cluster, i)
                for cluster in sorted(lag, key=lambda c: (-lag[c], c))
                for i, row in enumerate(self.reserve[cluster])
                if row["est_seconds"] <= missing + slack
            )
            found = next(fitting, None)
            if found is None:
                return
            cluster, i = found
            row = self.reserve[cluster].pop(i)
            expected[cluster] = expected.get(cluster, 0.0) + row["est_seconds"]
            missing -= row["est_seconds"]
            self.queue.append(row)

    def settle(self, outcome: Outcome) -> None:
        """Book an outcome; a text turned down for its sound is replaced from its own cluster."""
        if outcome.rejected is None:
            self.spent += outcome.seconds
            self.by_cluster[outcome.cluster] += outcome.seconds
        elif outcome.rejected != OVER_BUDGET and self.reserve.get(outcome.cluster):
            self.queue.append(self.reserve[outcome.cluster].pop(0))
