"""Training and measuring as stages: sounds that cannot be decoded, divergences that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline import distil, metrics, shards, summary
from salad.pipeline.stages import Run
from salad.trainer.data import load_examples
from salad.trainer.evaluate import Divergences


@pytest.fixture
def spoken(fake_config_path: Path) -> Run:
    """A run with its held-out texts spoken and prepared."""
    run = Run(load_config(fake_config_path))
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "prepared/heldout":
            return run
    raise AssertionError


def with_broken_sounds(run: Run, out: Path, broken: list[int]) -> tuple[Path, list[str]]:
    """A copy of the held-out speech in which some sounds are no sounds; the ids of those."""
    rows = pq.read_table(run.store.path("heldout") / "data").to_pylist()
    for i, junk in zip(broken, (b"not a sound", b"", None) * 3, strict=False):
        rows[i]["audio"] = {"bytes": junk, "path": "x.flac"}
    (out / "data").mkdir(parents=True)
    shards.write_speech(rows, out / "data/train-00000-of-00001.parquet")
    return out, [rows[i]["id"] for i in broken]


def test_a_sound_that_cannot_be_decoded_is_left_out_and_named(spoken: Run, tmp_path: Path) -> None:
    speech, broken = with_broken_sounds(spoken, tmp_path / "speech", [1, 4, 6])
    meta = distil.build_prepared(tmp_path / "prepared", spoken.config, spoken.models, speech, lambda n: None)
    assert meta["undecodable"] == broken
    assert meta["examples"] == 9 - 3
    ids = [e.id for e in load_examples(tmp_path / "prepared")]
    assert not set(ids) & set(broken)
    measured = metrics.build_metrics(
        _folder(tmp_path / "metrics"), spoken.config, spoken.models, None, speech, tmp_path / "prepared", "speech", lambda n: None
    )
    assert measured["texts"] == 6
    assert measured["unmeasured"] == []


def test_no_sound_at_all_is_an_error(spoken: Run, tmp_path: Path) -> None:
    speech, _ = with_broken_sounds(spoken, tmp_path / "speech", list(range(9)))
    with pytest.raises(SaladError, match="none of the 9 sounds"):
        distil.build_prepared(tmp_path / "prepared", spoken.config, spoken.models, speech, lambda n: None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_held_out_text_without_a_finite_divergence_is_named_and_left_out(
    spoken: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    real = metrics.measure
    values = np.zeros(9)

    def broken(*args: Any, **kwargs: Any) -> Divergences:
        found = real(*args, **kwargs)
        found.divergence[2] = bad
        values[:] = found.divergence
        return found

    monkeypatch.setattr(metrics, "measure", broken)
    given = (spoken.config, spoken.models, None, spoken.store.path("heldout"), spoken.store.path("prepared/heldout"))
    meta = metrics.build_metrics(_folder(tmp_path / "a"), *given, "speech", lambda n: None)
    table = pq.read_table(tmp_path / "a/heldout.parquet")
    assert meta["unmeasured"] == [table["id"].to_pylist()[2]]
    assert meta["texts"] == 8
    assert meta["D"] == pytest.approx(np.delete(values, 2).mean(), rel=1e-6)
    assert pq.read_table(tmp_path / "a/alignment.parquet").num_rows == 3
    assert np.isfinite(summary._standard_error(table["divergence"].to_numpy()))

    monkeypatch.setattr(metrics, "measure", lambda *a, **k: Divergences(*(np.full(9, bad) for _ in range(6))))
    with pytest.raises(SaladError, match="none of the 9 held-out texts"):
        metrics.build_metrics(_folder(tmp_path / "b"), *given, "speech", lambda n: None)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
