"""The simulation: it has the run's spread and response, compares fairly, says no when it should, and needs no model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salad.artifact import Manifest, publish
from salad.errors import SaladError
from salad.pipeline.schema import PROBE_SCORES
from salad.pipeline.simulation import compare, experiment, plot, rounds, truth
from salad.pipeline.simulation.experiment import Settings, simulate
from salad.pipeline.simulation.response import Cells, fit, make_cells
from salad.pipeline.simulation.source import Source, read_source

N, K, D = 1_500, 3, 24
BETA, LOCAL, REACH = 0.5, 0.8, 0.2
STAGE_ONE = 300.0  # seconds, all about cluster 1
BETWEEN, WITHIN_NOISE = np.array([1.0, 0.0, 0.0]), 0.3
SMALL = Settings(("uniform", "importance"), texts=3_000, rounds=2, budget=200.0, seeds=3)

HIGHEST = """
import numpy as np
from salad.selectors.base import Selection
from salad.selectors.tools import first_within


class Highest:
    \"\"\"Only the cluster of the highest estimated D.\"\"\"

    name = "highest"

    def select(self, pool, budget, rng):
        rows = pool.free[pool.cluster[pool.free] == pool.clusters.divergence.argmax()]
        chosen = first_within(pool.uniform(rng)[rows], rows, pool.est_seconds, budget.seconds)
        return Selection(chosen, np.ones(len(chosen)), ["highest"] * len(chosen))
"""


def artefact(run: Path, name: str, write: Callable[[Path], None]) -> None:
    def build(out: Path) -> dict[str, object]:
        write(out)
        return {}

    (run / name).parent.mkdir(parents=True, exist_ok=True)
    publish(run / name, Manifest(name, "key", {}, {}, "", 0, 0.0), build)


def config(folder: Path) -> dict[str, object]:
    return {
        "name": "planted", "seed": 3, "rounds": 1, "runs_dir": str(folder),
        "models": {"lm": "a", "encoder": "b", "embedder": "c"},
        "pool": {"sources": [{"dataset": "texts.jsonl"}]},
        "natural": {"domains": ["one"], "seconds": STAGE_ONE},
        "cluster": {"k": K}, "select": {"budget": 150.0},
        "train": {"stage_one_steps": 1, "round_steps": 1, "decay_steps": 1},
    }  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round whose D and whose response are known."""
    folder = tmp_path_factory.mktemp("runs")
    run, rng = folder / "planted", np.random.default_rng(0)
    run.mkdir()
    cluster = np.repeat(np.arange(K), N // K).astype(np.int32)
    centres = np.eye(D)[:K]
    vectors = centres[cluster] + rng.normal(size=(N, D)) / np.sqrt(D)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    ids = [f"{i:04d}" for i in range(N)]
    heard, words = rng.integers(5, 12, N), rng.integers(14, 40, N)
    seconds = (0.4 * heard).astype(np.float32)
    layout = -0.3 * (np.log1p(words - heard) - np.log1p(words - heard).mean()) / np.log1p(words - heard).std()
    log_d = 0.3 + BETWEEN[cluster] + layout + WITHIN_NOISE * rng.normal(size=N)

    order = rng.permutation(N)
    of = [order[cluster[order] == c] for c in range(K)]
    probes = np.concatenate([m[:40] for m in of])
    heldout = np.concatenate([m[40:140] for m in of])
    first = of[1][140:][: int(STAGE_ONE / seconds.mean())]
    spoken = np.concatenate([m[300:330] for m in of])

    x = vectors.astype(np.float64)
    kernel = np.exp((np.minimum(x @ x.T, 1) - 1) / REACH)
    kernel /= kernel.mean()
    before, after = kernel[:, first] @ seconds[first], kernel[:, spoken] @ seconds[spoken]
    total = float(seconds[first].sum())
    n0 = (1 - LOCAL) * total + LOCAL * before
    n1 = n0 + (1 - LOCAL) * float(seconds[spoken].sum()) + LOCAL * after
    fall = np.log(n1 / n0) * BETA

    def table(rows: np.ndarray, d: np.ndarray) -> pa.Table:
        columns = {name: np.zeros(len(rows)) for name in PROBE_SCORES.names}
        columns |= {"id": [ids[i] for i in rows], "cluster": cluster[rows], "quarantined": pa.nulls(len(rows), pa.string())}
        values = np.exp(d[rows] + 0.05 * rng.normal(size=len(rows)))
        return pa.table(columns | {"divergence": values, "misalignment": values, "seconds": seconds[rows]}).cast(PROBE_SCORES)

    def scores(out: Path, d: np.ndarray) -> None:
        pq.write_table(table(probes, d), out / "probes.parquet")
        pq.write_table(pa.table({"cluster": np.arange(K), "flag": [""] * K}), out / "clusters.parquet")

    def speech(out: Path, rows: np.ndarray) -> None:
        (out / "data").mkdir()
        columns = {"id": [ids[i] for i in rows], "cluster": cluster[rows], "seconds": seconds[rows]}
        pq.write_table(pa.table(columns), out / "data/train-00000-of-00001.parquet")

    pool = {"id": ids, "n_words": words.astype(np.int32), "n_heard": heard.astype(np.int32), "est_seconds": seconds}
    artefact(run, "pool", lambda out: pq.write_table(pa.table(pool), out / "part-00000.parquet"))
    artefact(run, "embeddings", lambda out: np.save(out / "embeddings.npy", vectors))
    artefact(run, "clusters", lambda out: np.save(out / "assignment.npy", cluster))
    artefact(run, "natural", lambda out: speech(out, first))
    artefact(run, "round-000/speech", lambda out: speech(out, spoken))
    for name, d in (("round-000/scores", log_d), ("round-001/scores", log_d - fall)):
        artefact(run, name, lambda out, d=d: scores(out, d))
    for name, d in (("stage-one/metrics", log_d), ("round-000/metrics", log_d - fall)):
        artefact(run, name, lambda out, d=d: pq.write_table(table(heldout, d), out / "heldout.parquet"))
    (run / "_run.json").write_text(json.dumps({"config": config(folder)}))
    return run


@pytest.fixture(scope="session")
def source(run: Path) -> Source:
    return read_source(run)


@pytest.fixture(scope="session")
def cells(source: Source) -> Cells:
    return make_cells(source.texts.vectors, 0)


@pytest.fixture
def highest(tmp_path: Path) -> str:
    (tmp_path / "highest.py").write_text(HIGHEST)
    return f"{tmp_path / 'highest.py'}:Highest"


def last(rows: list[rounds.Row], strategy: str) -> rounds.Row:
    return next(r for r in reversed(compare.compared(rows)) if r["strategy"] == strategy)


# -- what is taken from the run -------------------------------------------------------------------------------


def test_the_response_is_found_again(source: Source, cells: Cells) -> None:
    found = fit(source.changes, source.natural, cells, 0.0, None)
    assert found.texts == 3 * 40 + 300
    assert found.rounds == 1
    assert abs(found.beta - BETA) < 0.1
    assert abs(found.local - LOCAL) < 0.15
    assert found.local_se < 0.2
    assert 0.05**2 < found.noise < 2 * 0.05**2  # and what the cells blur


def test_a_response_of_no_place_is_not_called_local(source: Source, cells: Cells) -> None:
    rng = np.random.default_rng(1)
    even = [replace(c, change=-0.1 + 0.1 * rng.normal(size=len(c.change))) for c in source.changes]
    found = fit(even, source.natural, cells, 0.0, None)
    assert found.local < 3 * max(found.local_se, 0.03)
    assert found.beta > 0.1


def test_without_a_measured_round_it_is_assumed_and_said(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "once")
    for name in ("round-001", "round-000/metrics"):
        shutil.rmtree(tmp_path / "once" / name)
    outcome = simulate(tmp_path / "once", replace(SMALL, seeds=1))
    assert "assumed" in outcome.response.sentence()
    assert outcome.rows


def test_speech_of_no_known_text_counts_as_evenly_spread(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "own")
    path = tmp_path / "own/natural/data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "id", pa.array([f"my-{i}" for i in range(table.num_rows)])), path)
    natural = read_source(tmp_path / "own").natural
    assert natural.vectors is None
    assert natural.seconds.sum() == pytest.approx(STAGE_ONE, rel=0.1)


def test_probes_of_the_simulation_vary_as_the_run_s_do(run: Path) -> None:
    check = simulate(run, replace(SMALL, rounds=1, seeds=4)).check
    for name, (real, mean, low, high) in check.items():
        assert low - 0.05 <= real <= high + 0.05, name
        assert mean == pytest.approx(real, rel=0.25), name


def test_spread_moves_clusters_apart_and_leaves_them_as_wide(source: Source, cells: Cells) -> None:
    world = truth.make_world(source, cells, 4_000, K, 0, lambda: None)
    belief = truth.believe(source, 0.01)
    one, three = (truth.draw_truth(belief, source, world, spread, 7, lambda: None) for spread in (1.0, 3.0))
    between, within = truth.components(one, world.texts.cluster)
    wider, as_before = truth.components(three, world.texts.cluster)
    assert wider == pytest.approx(3 * between, rel=0.02)
    assert as_before == pytest.approx(within, rel=0.01)


def test_simulated_texts_lie_where_the_run_s_do(source: Source, cells: Cells) -> None:
    world = truth.make_world(source, cells, 6_000, K, 0, lambda: None)
    x, old = np.asarray(world.texts.vectors, np.float32), source.texts.vectors
    nearest = (x[:500] @ old.T).argmax(1)
    assert (source.texts.cluster[nearest] == world.texts.cluster[:500]).mean() > 0.95
    assert np.linalg.norm(x, axis=1) == pytest.approx(1, abs=1e-2)
    assert len(np.unique(x, axis=0)) == len(x)
    assert np.bincount(world.texts.cluster, minlength=K) / 6_000 == pytest.approx(1 / K, abs=0.01)


def test_many_texts_lie_in_a_file_and_are_the_same(source: Source, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    def vectors() -> np.ndarray:
        return truth.make_world(source, cells, 3_000, K, 0, lambda: None).texts.vectors

    held = vectors()
    monkeypatch.setattr(truth, "IN_MEMORY", 0)
    filed = vectors()
    assert isinstance(filed, np.memmap)
    assert np.array_equal(held, filed)


def test_another_number_of_clusters(run: Path) -> None:
    rows = simulate(run, replace(SMALL, clusters=7, seeds=1, rounds=1)).rows
    assert all(np.isfinite(row["divergence"]) for row in rows)


# -- strategies -----------------------------------------------------------------------------------------------


def test_feeding_the_worst_region_wins_where_speech_helps_nearby(run: Path, highest: str) -> None:
    rows = simulate(run, replace(SMALL, strategies=(highest,), rounds=1, local=1.0)).rows
    found = last(rows, highest)
    assert compare.verdict(found) == "lower"
    assert found["high"] < -0.02
    assert found["uniform_needs"] is None or found["uniform_needs"] > 1.2 * found["seconds"]


def test_and_gains_nothing_where_speech_helps_every_text_alike(run: Path, highest: str) -> None:
    found = last(simulate(run, replace(SMALL, strategies=(highest,), rounds=1, local=0.0)).rows, highest)
    assert compare.verdict(found) == "no difference"
    assert abs(found["difference"]) < 0.003


def test_every_strategy_meets_the_same_draws(run: Path) -> None:
    rows = simulate(run, SMALL).rows
    start = {(r["strategy"], r["seed"]): r["divergence"] for r in rows if r["round"] == -1}
    for seed in range(SMALL.seeds):
        assert start["uniform", seed] == start["importance", seed]
    assert len({start["uniform", s] for s in range(SMALL.seeds)}) == SMALL.seeds
    difference = last(rows, "importance")
    assert difference["difference_se"] < difference["divergence_se"] / 2


def test_more_speech_lowers_d_and_never_below_the_floor(run: Path) -> None:
    rows = simulate(run, replace(SMALL, strategies=("uniform",), seeds=1, floor=0.5)).rows
    d = [r["divergence"] for r in rows]
    assert d == sorted(d, reverse=True)
    assert d[-1] > 0.2 * d[0]
    assert [r["round"] for r in rows] == [-1, 0, 1, 2, 3]  # uniform goes on, as the yardstick
    assert max(r["round"] for r in compare.compared(rows)) <= 3


def test_the_same_seed_gives_the_same_rows(run: Path) -> None:
    asked = replace(SMALL, strategies=("importance-diverse", "bandit"), seeds=2)

    def figures(asked: Settings) -> list[dict[str, object]]:
        return [{k: repr(v) for k, v in r.items() if k != "select_seconds"} for r in simulate(run, asked).rows]

    once = figures(asked)
    assert once == figures(asked)
    assert once != figures(replace(asked, seed=1))


def test_a_strategy_sees_what_the_pipeline_shows(run: Path, tmp_path: Path) -> None:
    """All columns of the view, and the history of rounds: asserted inside a strategy."""
    (tmp_path / "nosy.py").write_text(
        HIGHEST.replace("Highest", "Nosy").replace(
            "        rows = pool.free[",
            "        n, k = len(pool.ids), len(pool.clusters.p_web)\n"
            "        assert pool.embeddings.shape[0] == len(pool.keys) == n == len(set(pool.ids.tolist()))\n"
            "        assert pool.predicted_divergence.shape == pool.content_divergence.shape == (n,)\n"
            "        assert all(h.seconds.shape == h.change.shape == (k,) and h.seconds.sum() > 100 for h in pool.history)\n"
            "        assert len(pool.history) == bool(pool.trained.any())\n"
            "        rows = pool.free[",
        )
    )
    rows = simulate(run, replace(SMALL, strategies=(f"{tmp_path / 'nosy.py'}:Nosy",), seeds=1)).rows
    assert sum(r["seconds"] > 0 for r in rows if "nosy" in r["strategy"]) == 2


# -- what is said and written ---------------------------------------------------------------------------------


def row(strategy: str, seed: int, r: int, seconds: float, d: float) -> rounds.Row:
    return {"strategy": strategy, "seed": seed, "round": r, "seconds": seconds, "divergence": d, "select_seconds": 0.1}


def test_what_uniform_would_need_and_whether_it_differs() -> None:
    rows = []
    for seed, level in enumerate((0.0, 0.5, 1.0)):
        rows += [row("uniform", seed, r, 100.0 * (r + 1), 2 + level - 0.1 * (r + 1)) for r in range(-1, 4)]
        rows += [row("mine", seed, r, 100.0 * (r + 1), 2 + level - 0.15 * (r + 1) - 0.001 * seed) for r in range(-1, 2)]
        rows += [row("luck", seed, r, 100.0 * (r + 1), 2 + level - 0.1 * (r + 1) + 0.05 * (seed - 1)) for r in range(-1, 2)]
    mine, luck = last(rows, "mine"), last(rows, "luck")
    assert mine["uniform_needs"] == pytest.approx(301, abs=1)
    assert mine["difference"] == pytest.approx(-0.101)
    assert mine["difference_se"] == pytest.approx(0.001 / np.sqrt(3))
    assert mine["high"] - mine["difference"] == pytest.approx(4.303 * 0.001 / np.sqrt(3), rel=1e-3)
    assert [compare.verdict(r) for r in (mine, luck)] == ["lower", "no difference"]
    assert mine["divergence_se"] > 0.2


def test_the_page_stands_alone_and_the_folder_is_replaced(run: Path, tmp_path: Path) -> None:
    outcome = simulate(run, replace(SMALL, rounds=1, seeds=2))
    for _ in range(2):
        experiment.write(tmp_path / "out", outcome)
    html = (tmp_path / "out/simulation.html").read_text()
    assert "<script src" not in html
    assert "prefers-color-scheme" in html
    assert plot.figures(outcome.rows)["residual"]["data"][-1]["name"] == "importance"
    rows = pq.read_table(tmp_path / "out/simulation.parquet").to_pylist()
    assert len(rows) == len(outcome.rows)
    assert json.loads((tmp_path / "out/_manifest.json").read_text())["meta"]["response"]["beta"] == outcome.response.beta


def test_no_folder_of_anything_else_is_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    for folder in (tmp_path, run, run / "pool", tmp_path / "letters"):
        with pytest.raises(SaladError, match="--out"):
            experiment.check_out(folder)
    assert (run / "pool/part-00000.parquet").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strategies": ("importence",)}, "did you mean 'importance'"),
        ({"strategies": ("nowhere.py:Mine",)}, "no file nowhere.py"),
        ({"texts": 20}, "too few"),
        ({"texts": 0}, "--texts"),
        ({"clusters": 100_000}, "too few"),
        ({"rounds": 0}, "--rounds"),
        ({"local": 1.5}, "--local"),
        ({"budget": 1e6}, "lower --budget"),
        ({"budget": float("nan")}, "--budget"),
        ({"probes": 1}, "--probes"),
    ],
)
def test_nonsense_is_refused_in_one_line(run: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(SaladError, match=said) as e:
        simulate(run, replace(SMALL, **wrong))  # type: ignore[arg-type]
    assert "\n" not in str(e.value)


def test_a_folder_that_cannot_serve_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SaladError, match="is not a run"):
        simulate(tmp_path / "none", SMALL)
    shutil.copytree(run, tmp_path / "early")
    shutil.rmtree(tmp_path / "early/round-000")
    with pytest.raises(SaladError, match="no valid 'round-000/scores'"):
        simulate(tmp_path / "early", SMALL)
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken/embeddings/embeddings.npy").write_bytes(b"\x00")
    with pytest.raises(SaladError, match="cannot be simulated from"):
        simulate(tmp_path / "broken", SMALL)


def test_the_command_from_start_to_end_without_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from salad.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch was imported'"
    )
    arguments = ["simulate", str(run), "--texts", "3000", "--rounds", "2", "--seeds", "2", "--budget", "200", "--clusters", "5"]
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--strategies", "importance, bandit", "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("uniform", "importance", "bandit", "Learning response fitted", str(out / "simulation.html")):
        assert said in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["_manifest.json", "simulation.html", "simulation.parquet"]


def test_the_command_fails_in_one_line(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "salad", "simulate", str(run), "--strategies", "unifrom"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown selector 'unifrom'; did you mean 'uniform'?")
