"""Training and measuring as stages: sounds that cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline import distil, metrics, shards
from salad.pipeline.stages import Run
from salad.trainer.data import load_examples


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


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
