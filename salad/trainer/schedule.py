"""The order in which training sees its samples: mixed by weight, grouped by length, the same at every start.

The whole order is fixed before the first step, so a resumed run skips to its place and reads nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset

from salad.seeds import derive, generator
from salad.trainer.data import Example

WINDOW = 64  # batches whose samples are sorted by length together: 16 pad 4 to 6 % of the positions, 64 less than 2 %


class Schedule(Dataset):  # type: ignore[type-arg]
    """Examples in training order, so many a batch."""

    def __init__(self, examples: Sequence[Example], order: np.ndarray, batch_size: int) -> None:
        self.examples, self.order, self.batch_size = examples, order, batch_size

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Example:
        return self.examples[self.order[i]]

    def batches(self, process: int = 0, processes: int = 1) -> list[list[int]]:
        """The places of every batch, or of one process's share in it: every so many-th, so that shares are as long."""
        n = self.batch_size
        return [list(range(i + process, i + n, processes)) for i in range(0, len(self), n)]


def make_schedule(
    sources: Mapping[str, Sequence[Example]],
    weights: dict[str, float],
    batches: int,
    batch_size: int,
    stack: int,
    seed: int,
) -> Schedule:
    """Draw from each source in proportion to its weight, every epoch of a source in a new order."""
    n = batches * batch_size
    kinds = [k for k in sources if len(sources[k]) and weights.get(k, 0) > 0]
    examples = [e for k in kinds for e in sources[k]]
    mixed = _mix({k: len(sources[k]) for k in kinds}, weights, n, seed)
    lengths = np.array([e.positions(stack) for e in examples])
    order = _group_by_length(mixed, lengths, batch_size, seed)
    return Schedule(examples, order, batch_size)


def _mix(sizes: dict[str, int], weights: dict[str, float], n: int, seed: int) -> np.ndarray:
    """(n,) indices into the concatenated sources."""
    import datasets

    offset, parts = 0, []
    for kind, size in sizes.items():
        rng = generator(seed, "epochs", kind)
        epochs = -(-n // size)
        rows = np.concatenate([rng.permutation(size) for _ in range(epochs)])[:n]
        parts.append(datasets.Dataset.from_dict({"row": rows + offset}))
        offset += size
    if len(parts) == 1:
        return np.array(parts[0]["row"][:n])
    total = sum(weights[k] for k in sizes)
    mixed = datasets.interleave_datasets(
        parts,
        probabilities=[weights[k] / total for k in sizes],
        seed=derive(seed, "interleave-datasets") % 2**32,
        stopping_strategy="first_exhausted",  # each part has n rows, so the mixture has at least n
    )
    return np.array(mixed["row"][:n])


def _group_by_length(order: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
    """Within windows, sort by length, cut into batches, shuffle the batches: little padding, no curriculum."""
    rng = generator(seed, "group-by-length")
    grouped = []
    step = WINDOW * batch_size
    for i in range(0, len(order), step):
        window = order[i : i + step]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches = [window[j : j + batch_size] for j in range(0, len(window), batch_size)]
        grouped += [batches[j] for j in rng.permutation(len(batches))]
    return np.concatenate(grouped)
