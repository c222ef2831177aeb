"""The order of the samples: mixed by weight, every epoch whole, little padding, shares that make up the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from salad.trainer.schedule import make_schedule

STACK = 4


class Text:
    """As much of an example as the schedule looks at."""

    def __init__(self, name: str, length: int) -> None:
        self.id, self._length = name, length

    def positions(self, stack: int) -> int:
        return self._length


def texts(count: int, kind: str = "n", low: int = 20, high: int = 80) -> Any:
    lengths = np.random.default_rng(len(kind) + count).integers(low, high, count)
    return [Text(f"{kind}{i}", int(n)) for i, n in enumerate(lengths)]


def test_mixes_by_weight_and_repeats_epochs() -> None:
    sources, weights = {"natural": texts(43), "synthetic": texts(5, "s")}, {"natural": 1, "synthetic": 1}
    schedule = make_schedule(sources, weights, 100, 4, STACK, 0)
    assert len(schedule) == 400
    ids = [schedule[i].id for i in range(400)]
    synthetic = sum(i.startswith("s") for i in ids)
    assert 160 < synthetic < 240
    counts = np.array([ids.count(e.id) for e in sources["synthetic"]])
    assert counts.max() - counts.min() <= 1, "every epoch shows each text once"
    assert (make_schedule(sources, weights, 100, 4, STACK, 0).order == schedule.order).all()
    assert (make_schedule(sources, weights, 100, 4, STACK, 1).order != schedule.order).any()


def test_a_kind_without_weight_or_texts_is_left_out() -> None:
    sources = {"natural": texts(9), "synthetic": [], "text": texts(7, "t")}
    schedule = make_schedule(sources, {"natural": 1, "synthetic": 1, "text": 0}, 10, 4, STACK, 0)
    assert {schedule[i].id[0] for i in range(len(schedule))} == {"n"}


@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_less_than_three_hundredths_are_padding(batch_size: int) -> None:
    sources = {"natural": texts(1200), "synthetic": texts(300, "ss", 30, 60)}
    schedule = make_schedule(sources, {"natural": 1, "synthetic": 1}, 128, batch_size, STACK, 0)
    lengths = np.array([schedule[i].positions(STACK) for i in range(len(schedule))]).reshape(-1, batch_size)
    assert 1 - lengths.sum() / (lengths.max(1) * batch_size).sum() < 0.03
    steps = np.arange(len(lengths))
    assert abs(np.corrcoef(steps, lengths.mean(1))[0, 1]) < 0.25, "no curriculum from short to long"


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_make_up_the_batch(processes: int) -> None:
    schedule = make_schedule({"natural": texts(50)}, {"natural": 1}, 20, 8, STACK, 0)
    shares = [schedule.batches(i, processes) for i in range(processes)]
    assert {len(s) for s in shares} == {20}
    for b, whole in enumerate(schedule.batches()):
        assert whole == list(range(8 * b, 8 * b + 8))
        assert sorted(i for s in shares for i in s[b]) == whole
        assert {len(s[b]) for s in shares} == {8 // processes}
