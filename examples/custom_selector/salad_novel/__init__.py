"""Draw what the student has heard least of: texts far from all that it was trained on, where it still disagrees."""

from __future__ import annotations

import numpy as np

from salad.selectors.base import Budget, PoolView, Selection
from salad.selectors.tools import draw, first_within

CHUNK = 65_536  # rows of the memory-mapped embeddings that are read at once


class Novel:
    """Weights texts by predicted D, times their distance to the mean of the trained texts to a `power`; draws by weight.

    Cost O(N · d), memory O(N).
    """

    name = "novel"

    def __init__(self, power: float = 4.0) -> None:
        self.power = power  # set in the configuration: select.options: {power: 2}

    def select(self, pool: PoolView, budget: Budget, rng: np.random.Generator) -> Selection:
        heard = np.asarray(pool.embeddings[np.flatnonzero(pool.trained)], np.float32)
        centre = heard.mean(axis=0) if len(heard) else np.zeros(pool.embeddings.shape[1], np.float32)
        distance = np.concatenate(
            [
                np.linalg.norm(np.asarray(pool.embeddings[i : i + CHUNK], np.float32) - centre, axis=1)
                for i in range(0, len(pool.ids), CHUNK)
            ]
        )
        weight = pool.content_divergence * np.maximum(distance, 1e-3) ** self.power  # never 0: the suite tries equal texts
        free = pool.free
        keys = draw(weight, pool, rng)[free]
        chosen = first_within(keys, free, pool.est_seconds, budget.seconds)
        probability = weight[chosen] / weight[free].sum()
        reasons = [
            f"{d:.2f} from what was heard so far, predicted D {pool.content_divergence[i]:.2f}"
            for i, d in zip(chosen, distance[chosen], strict=True)
        ]
        return Selection(chosen, probability, reasons)
