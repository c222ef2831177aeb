"""The rate over a stage against the library's, and when D has stalled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_wsd_schedule

from salad.trainer.rates import EarlyStop, rate


@given(warmup=st.integers(0, 9), stable=st.integers(0, 20), decay=st.integers(1, 12))
def test_it_is_the_librarys_warmup_stable_decay(warmup: int, stable: int, decay: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_wsd_schedule(
        optimizer, num_warmup_steps=warmup, num_decay_steps=decay, num_stable_steps=stable, decay_type="linear", min_lr_ratio=0.0
    )
    for step in range(warmup + stable + decay + 2):
        assert theirs.get_last_lr()[0] == rate(step, warmup, warmup + stable, decay)
        optimizer.step()
        theirs.step()


def test_where_the_decay_begins_the_rate_is_still_full() -> None:
    assert rate(7, 2, 7, 5) == rate(7, 2, 100, 5) == 1.0
    assert rate(8, 2, 7, 5) == pytest.approx(0.8)
    assert rate(12, 2, 7, 5) == 0


@pytest.mark.parametrize(
    ("values", "stalled"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([1.0, 0.995, 0.991], True),  # slow falls that never amount to a hundredth
        ([1.0, 0.995, 0.98], False),  # … and ones that do, against the best and not the last
        ([3.0, 2.0, 2.5, 1.9], False),
        ([3.0, 2.0, 2.5, 2.4], True),
    ],
)
def test_two_measurements_without_a_fall_of_a_hundredth(values: list[float], stalled: bool) -> None:
    assert EarlyStop(every=1, patience=2, least=0.01).has_stalled(values) == stalled


def test_what_is_due() -> None:
    stop = EarlyStop(every=5, patience=1, least=0)
    assert [step for step in range(31) if stop.is_due(step, warmup=10)] == [15, 20, 25, 30]
