"""The selection as the pipeline writes it: who may be chosen, who never is, and what the rounds before have taught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salad.config import load_config
from salad.errors import SaladError
from salad.pipeline.embed import load_embeddings
from salad.pipeline.pool import read_pool
from salad.pipeline.schema import PROBE_SCORES
from salad.pipeline.select import Inputs, past_rounds, pool_view, reserve_for, taken_ids
from salad.pipeline.stages import Run
from salad.selectors.base import Budget
from salad.selectors.choose import ROUNDING, choose
from salad.selectors.testing import example_pool
from salad.selectors.uniform import Uniform
from tests.fakes import WORDS

OUT_OF_POOL = [" ".join(words.split()[:8]) for words in WORDS.values()]


def until(run: Run, last: str) -> Run:
    for stage in run.stages:
        run.execute(stage)
        if stage.name == last:
            break
    return run


@pytest.fixture
def run(fake_config_path: Path) -> Run:
    """A run up to its first selection, uniform over the pool."""
    changes = {"control": False, "select.selector": "uniform"}
    return until(Run(load_config(fake_config_path, changes)), "round-000/selection")


def inputs_of(run: Run, **more: Path) -> Inputs:
    at = run.store.path
    aside = [at(n) for n in ("probe", "heldout", *run.waves)]
    return Inputs(at("pool"), at("embeddings"), at("clusters"), [at("round-000/scores")], aside, [at("natural")], **more)


def test_only_what_was_set_aside_is_taken(run: Run) -> None:
    at = run.store.path
    names = ("probe", "heldout", "natural", *run.waves)
    taken = taken_ids([at(n) for n in names])
    aside = sum(pq.read_table(at(n) / "data").num_rows for n in names)
    tried = sum(sum(run.store.manifest(n).meta["rejected"].values()) for n in names)
    assert len(taken) == aside + tried
    view = pool_view(inputs_of(run), run.config)
    assert len(view.free) == len(view.ids) - len(taken)
    assert set(view.ids[view.trained]) == taken_ids([at("natural")])


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


def test_what_is_near_a_text_that_measures_is_never_chosen(run: Run) -> None:
    """The fake texts are alike, so a cosine that half of them have is looked for first."""
    x = np.asarray(load_embeddings(run.store.path("embeddings")), np.float32)
    bare = pool_view(inputs_of(run), run.config)
    measuring = x[bare.taken & ~bare.trained]
    cosine = (x @ measuring.T).max(1)
    near = float(np.median(cosine[bare.free]))
    select = run.config.select.model_copy(update={"near": near + ROUNDING})
    view = pool_view(inputs_of(run), run.config.model_copy(update={"select": select}))
    assert 0 < len(view.free) < len(bare.free)
    assert cosine[view.free].max() < near
    assert (cosine[np.setdiff1d(bare.free, view.free)] >= near).all()


def test_what_is_near_a_test_set_of_the_users_is_never_chosen(fake_config_path: Path, tmp_path: Path) -> None:
    """A test set that holds pool texts: whole ones are recognised, and embedded in passages like the pool's."""
    config = load_config(fake_config_path)
    bare = until(Run(config.model_copy(update={"name": "bare"})), "round-000/selection")
    chosen = pq.read_table(bare.store.path("round-000/selection") / "selection.parquet")["text"].to_pylist()
    tests = tmp_path / "tests.jsonl"
    tests.write_text("".join(json.dumps({"question": text}) + "\n" for text in chosen[:3]))
    source = [{"dataset": str(tests), "text_column": "question"}]
    run = until(Run(load_config(fake_config_path, {"select.evaluation": source, "select.near": 1.0})), "round-000/selection")
    assert run.store.manifest("evaluation").meta["rows"] == 3
    again = pq.read_table(run.store.path("round-000/selection") / "selection.parquet")["text"].to_pylist()
    reserve = pq.read_table(run.store.path("round-000/selection") / "reserve.parquet")["text"].to_pylist()
    assert not set(chosen[:3]) & set(again + reserve)


def test_crisp_through_the_pipeline(fake_config_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.txt"
    target.write_text("\n\n".join(OUT_OF_POOL[:1] * 5))
    overrides = {"select.selector": "crisp", "select.target": [{"dataset": str(target)}], "select.budget": 20, "cluster.k": 3}
    run = until(Run(load_config(fake_config_path, overrides)), "round-000/selection")
    rows = pq.read_table(run.store.path("round-000/selection") / "selection.parquet").to_pylist()
    assert {r["selector"] for r in rows} == {"crisp"}
    assert all("100.0% of the target's texts" in r["reason"] for r in rows)
    assert len({r["cluster"] for r in rows}) == 1


def test_a_source_without_text_is_a_clear_error(fake_config_path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": null}\n')
    run = Run(load_config(fake_config_path, {"select.near": 0.9, "select.evaluation": [{"dataset": str(empty)}]}))
    with pytest.raises(SaladError, match=r"no text in .*empty\.jsonl"):
        until(run, "evaluation")


def test_the_reserve_is_near_neither_the_chosen_nor_itself() -> None:
    pool = example_pool(60, k=2, taken=0)
    pool = replace(pool, embeddings=np.repeat(pool.embeddings[::4], 4, axis=0))  # every text stands there four times
    chosen = choose(Uniform(), pool, Budget(25.0), np.random.default_rng(0), near=0.99)
    reserve = reserve_for(chosen, pool, np.random.default_rng(0), near=0.99)
    used = np.concatenate([chosen.indices, reserve.indices]) // 4
    assert len(reserve.indices) > 4
    assert len(set(used.tolist())) == len(used)
    assert len(reserve_for(chosen, pool, np.random.default_rng(0)).indices) >= len(reserve.indices)


def test_past_rounds_compare_the_same_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from salad.pipeline import shards

    def scores(name: str, ids: list[str], cluster: list[int], divergence: list[float]) -> Path:
        (tmp_path / name).mkdir()
        empty = {f.name: pa.nulls(len(ids), f.type) for f in PROBE_SCORES}
        columns = {**empty, "id": ids, "cluster": cluster, "divergence": divergence, "misalignment": divergence}
        columns["forgetting"] = [0.0] * len(ids)
        pq.write_table(pa.table(columns).cast(PROBE_SCORES), tmp_path / name / "probes.parquet")
        return tmp_path / name

    first = scores("first", ["a", "b", "c", "gone"], [0, 0, 1, 2], [2.0, 4.0, 1.0, 1.0])
    then = scores("then", ["new", "c", "b", "a"], [2, 1, 0, 0], [9.0, 1.0, 1.0, 1.0])
    fed = pa.table({"cluster": pa.array([0, 0, 2], pa.int32()), "seconds": pa.array([3.0, 4.0, 5.0], pa.float32())})
    monkeypatch.setattr(shards, "read_columns", lambda folder, columns: fed)
    (past,) = past_rounds([first, then], [tmp_path / "natural", tmp_path / "round-0"], "divergence", 4)
    assert past.seconds.tolist() == [7, 0, 5, 0]
    np.testing.assert_allclose(past.change, [-1.5 * np.log(2), 0.0, np.nan, np.nan], atol=1e-6)
    pooled = np.sqrt(2 * (0.5 * np.log(2)) ** 2 / 1)
    np.testing.assert_allclose(past.change_se[:2], [pooled / np.sqrt(2), pooled], rtol=1e-5)


def test_the_second_round_knows_the_first(fake_config_path: Path) -> None:
    run = until(Run(load_config(fake_config_path, {"control": False, "select.selector": "bandit"})), "round-001/selection")
    rows = pq.read_table(run.store.path("round-001/selection") / "selection.parquet").to_pylist()
    assert all("yield" in r["reason"] for r in rows)
    assert "round-000/scores" in run.store.manifest("round-001/selection").inputs
    at = run.store.path
    scores = [at("round-000/scores"), at("round-001/scores")]
    trained = [at("natural"), at("round-000/speech")]
    inputs = Inputs(at("pool"), at("embeddings"), at("clusters"), scores, [at("probe"), at("heldout")], trained)
    view = pool_view(inputs, run.config)
    assert len(view.history) == 1
    assert view.history[0].seconds.sum() == pytest.approx(run.store.manifest("round-000/speech").meta["seconds"], rel=1e-5)
    assert np.isfinite(view.history[0].change).any()
