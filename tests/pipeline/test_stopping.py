"""When rounds are enough, in words; and what is read from a run to tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.artifact import Manifest
from salad.errors import SaladError
from salad.intervals import Interval
from salad.pipeline.stages import Run, open_run
from salad.pipeline.stopping import Limits, Measured, check, measured, why_stop

FALLING = Measured(2, 200.0, 1.5, 0.1, Interval(0.05, 0.15))


@pytest.mark.parametrize(
    ("now", "limits", "said"),
    [
        (FALLING, Limits(10), None),
        (FALLING, Limits(2), "rounds: 2 of at most 2"),
        (FALLING, Limits(10, seconds=300.0), None),
        (FALLING, Limits(10, seconds=295.0), None),  # a round keeps its budget to 2 %, and so does the whole
        (FALLING, Limits(10, seconds=290.0), "budget: 200 of 290 s are spoken, and a round takes 100"),
        (FALLING, Limits(10, divergence=1.5), "target: D is 1.500, which is at most 1.5"),
        (FALLING, Limits(10, divergence=1.49), None),
        (FALLING, Limits(10, least_fall=0.14), None),  # it may still fall by 0.15
        (FALLING, Limits(10, least_fall=0.2), "plateau: the fall of D in the last round, 0.100 [0.050, 0.150], is less than 0.2"),
        (FALLING, Limits(10, least_fall=None), None),
    ],
)
def test_why_stop(now: Measured, limits: Limits, said: str | None) -> None:
    assert why_stop(now, limits, 100.0) == said


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.21), (0.0, 0.2), (-0.3, -0.1)])
def test_a_fall_that_may_be_nothing_is_a_plateau(low: float, high: float) -> None:
    now = Measured(2, 200.0, 1.5, (low + high) / 2, Interval(low, high))
    assert str(why_stop(now, Limits(10), 100.0)).endswith("may be nothing")
    assert why_stop(now, Limits(10, least_fall=None), 100.0) is None


def test_without_an_interval_there_is_no_plateau() -> None:
    assert why_stop(Measured(1, 100.0, 1.5, None, None), Limits(10), 100.0) is None


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(1, 50))
def test_rounds_never_spend_more_than_the_total_and_two_percent(total: float, a_round: float, most: int) -> None:
    limits = Limits(most, seconds=total, least_fall=None)
    try:
        check(limits, a_round)
    except SaladError:
        assert a_round > total
        return
    rounds, reason = 0, None
    while reason is None:
        rounds += 1
        reason = why_stop(Measured(rounds, rounds * a_round, 1.0, None, None), limits, a_round)
    assert rounds == most or total < (rounds + 1) * a_round
    assert rounds * a_round <= 1.02 * total * (1 + 1e-9)


def test_a_total_below_one_round_is_refused() -> None:
    with pytest.raises(SaladError, match="50 s of speech in all are less than one round's 100: raise the total"):
        check(Limits(1, seconds=50.0), 100.0)


def publish(run: Run, name: str, seconds: float | None = None, divergence: np.ndarray | None = None) -> None:
    def build(out: Path) -> dict[str, float]:
        if divergence is None:
            return {"seconds": float(seconds or 0)}
        finite = divergence[np.isfinite(divergence)]
        (out / "metrics.json").write_text(json.dumps({"all": {"D": float(finite.mean())}}))
        ids = [f"t{i}" for i in range(len(divergence))]
        pq.write_table(pa.table({"id": ids, "divergence": divergence}), out / "heldout.parquet")
        return {}

    run.store.publish(name, Manifest(name, "key", {}, {}, "1", 0, 0.0), build)


def test_a_round_is_compared_with_the_one_before_text_by_text(fake_config_path: Path) -> None:
    """Texts differ by far more than a round changes them: paired, a small sure fall is seen."""
    run = open_run(fake_config_path, {})
    base = np.linspace(0.0, 10.0, 40)
    d = {"stage-one": base, "round-000": base - 0.1, "round-001": base - 0.1 + np.tile([0.05, -0.05], 20)}
    for name, values in d.items():
        publish(run, f"{name}/metrics", divergence=np.append(values, np.nan))
    publish(run, "round-000/speech", seconds=99.0)
    publish(run, "round-001/speech", seconds=101.0)

    first, second = measured(run, 1), measured(run, 2)
    assert (first.seconds, second.seconds) == (99.0, 200.0)
    assert first.divergence == pytest.approx(4.9)
    assert first.fall == pytest.approx(0.1)
    assert why_stop(first, Limits(10), 100.0) is None
    assert second.interval is not None
    assert second.interval.low < 0 < second.interval.high
    assert str(why_stop(second, Limits(10), 100.0)).startswith("plateau")
    assert measured(run, 2) == second
