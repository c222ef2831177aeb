"""The selection as the pipeline writes it: who may be chosen, who never is."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from salad.config import load_config
from salad.pipeline.pool import read_pool
from salad.pipeline.select import pool_view, taken_ids
from salad.pipeline.stages import Run


@pytest.fixture
def run(fake_config_path: Path) -> Run:
    """A run up to its first selection, uniform over the pool."""
    run = Run(load_config(fake_config_path, {"control": False, "select.selector": "uniform"}))
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "round-000/selection":
            break
    return run


def test_only_what_was_set_aside_is_taken(run: Run) -> None:
    at = run.store.path
    taken = taken_ids([at(n) for n in ("probe", "heldout", "natural")])
    aside = sum(pq.read_table(at(n) / "data").num_rows for n in ("probe", "heldout", "natural"))
    tried = sum(sum(run.store.manifest(n).meta["rejected"].values()) for n in ("probe", "heldout", "natural"))
    assert len(taken) == aside + tried
    view = pool_view(at("pool"), at("embeddings"), at("clusters"), at("round-000/scores"), taken)
    assert len(view.free) == len(view.ids) - len(taken)


def test_the_domain_of_stage_one_may_still_be_chosen(run: Run) -> None:
    free = read_pool(run.store.path("pool"), ["domain"])["domain"].to_pylist()
    chosen = pq.read_table(run.store.path("round-000/selection") / "selection.parquet").to_pylist()
    assert set(free) == {"kitchen", "court", "clinic"}
    assert {r["domain"] for r in chosen} == set(free)


def test_rows_are_ranked_explained_and_within_the_budget(run: Run) -> None:
    folder = run.store.path("round-000/selection")
    chosen, reserve = (pq.read_table(folder / f"{n}.parquet").to_pylist() for n in ("selection", "reserve"))
    assert [r["rank"] for r in chosen + reserve] == list(range(len(chosen) + len(reserve)))
    assert sum(r["est_seconds"] for r in chosen) <= run.config.select.budget
    assert all(r["reason"] and r["selector"] == "uniform" and r["round"] == 0 for r in chosen)
    assert {r["cluster"] for r in reserve} <= {r["cluster"] for r in chosen}
    assert not {r["id"] for r in reserve} & {r["id"] for r in chosen}
