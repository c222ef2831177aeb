"""From measured probes to tables: quarantine, flags, signals, estimates by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salad.config import Config, load_config
from salad.errors import SaladError
from salad.pipeline import score, surrogate
from salad.pipeline.estimate import signal_of
from salad.pipeline.schema import PROBE_SCORES
from salad.pipeline.stages import Run
from salad.trainer.evaluate import Divergences

K = 16


def world(seed: int = 0, n: int = 1600) -> tuple[surrogate.Features, np.ndarray]:
    """(features, true D) of a pool whose log D depends on layout, place and cluster, with noise."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(n) % K
    centres = rng.normal(size=(K, 8))
    vectors = centres[cluster] + 0.5 * rng.normal(size=(n, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    heard = rng.integers(5, 20, n)
    layout = surrogate.layout_features(heard + rng.integers(1, 40, n), heard)
    log_d = 0.3 * vectors @ rng.normal(size=8) - 0.35 * layout[:, 1] + 0.3 * rng.normal(size=n) + 0.5
    return surrogate.Features(layout, vectors, cluster), np.exp(log_d)


@pytest.mark.parametrize("how", ["plain", "shrunk", "surrogate"])
def test_every_estimate_is_near_the_truth_and_says_how_near(how: str) -> None:
    texts, d = world()
    rows = np.random.default_rng(1).permutation(len(d))[:400]
    found, predicted, _ = surrogate.estimate(texts, rows, d[rows], how, K, seed=0)
    truth = np.bincount(texts.cluster, weights=d) / np.bincount(texts.cluster)
    off = np.log(found.shrunk / truth)
    assert np.abs(off).max() < 0.35
    assert np.sqrt(np.mean((off / found.shrunk_log_sd) ** 2)) < 2
    assert predicted.shape == (len(d), 2)
    assert (predicted > 0).all()
    np.testing.assert_allclose(found.mean, np.bincount(texts.cluster[rows], weights=d[rows]) / found.n)


def test_the_better_the_estimate_the_nearer() -> None:
    errors: dict[str, list[float]] = {"plain": [], "shrunk": [], "surrogate": []}
    for seed in range(12):
        texts, d = world(seed)
        rows = np.random.default_rng(seed).permutation(len(d))[: 5 * K]
        truth = np.log(np.bincount(texts.cluster, weights=d) / np.bincount(texts.cluster))
        for how, of in errors.items():
            off = np.log(surrogate.estimate(texts, rows, d[rows], how, K, seed=0)[0].shrunk) - truth
            of.append(float(np.mean((off - off.mean()) ** 2)))
    plain, shrunk, best = (np.mean(e) for e in errors.values())
    assert best < shrunk < plain


def found(**changes: Any) -> Divergences:
    four = {
        "divergence": np.array([1.0, 2.0, 3.0]),
        "misalignment": np.array([1.0, 2.0, 3.0]),
        "forgetting": np.array([0.1, 0.2, 0.3]),
        "teacher_entropy": np.ones(3),
        "teacher_nll": np.ones(3),
        "n_positions": np.array([4, 5, 6]),
    }
    return Divergences(**{**four, **changes})


def facts(n: int = 4) -> pa.Table:
    one = pa.array([0.5] * n, pa.float32())
    columns = {"id": list("abcdefgh"[:n]), "cluster": pa.array(range(n), pa.int32())}
    return pa.table({**columns, "cer": one, "words_per_second": one, "seconds": one})


def test_a_probe_whose_sound_could_not_be_decoded_is_named() -> None:
    rows = score.probe_rows(facts(), ["a", "b", "d"], found())
    assert rows.schema == PROBE_SCORES
    assert rows["quarantined"].to_pylist() == [None, None, "sound cannot be decoded", None]
    assert rows["divergence"].to_pylist()[3] == 3.0
    assert score.probe_rows(facts(1), [], found(**{k: np.zeros(0) for k in vars(found())}))["quarantined"].to_pylist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["divergence", "forgetting"])
def test_a_probe_without_a_finite_divergence_is_named(bad: float, column: str) -> None:
    rows = score.probe_rows(facts(3), list("abc"), found(**{column: np.array([1.0, bad, 1.0])}))
    assert rows["quarantined"].to_pylist() == [None, "divergence is not finite", None]


def test_a_probe_without_a_text_position_is_named() -> None:
    empty = found(divergence=np.array([np.nan, 1, 1]), n_positions=np.array([0, 5, 6]))
    assert score.probe_rows(facts(3), list("abc"), empty)["quarantined"].to_pylist() == ["no text position", None, None]


# -- through the pipeline, with fakes -------------------------------------------------------------------------


@pytest.fixture
def scored(fake_config_path: Path) -> Run:
    """A run up to the first wave of probes, two of which are broken before they are scored."""
    run = Run(load_config(fake_config_path))
    for stage in run.stages:
        if stage.name == "probe-1/scores":
            return run
        run.execute(stage)
    raise AssertionError


def build(run: Run, out: Path, **config: Any) -> dict[str, Any]:
    data = run.config.model_dump(mode="json")
    for key, value in config.items():
        data[key] = {**data[key], **value}
    at = run.store.path
    out.mkdir()
    return score.build_scores(
        out, Config.model_validate(data), run.models, at("pool"), at("embeddings"), at("clusters"),
        [score.ProbeSet(at("probe"), at("prepared/probe"))], at("stage-one/checkpoint") / "final", None, lambda n: None,
    )  # fmt: skip


def test_a_probe_of_infinite_divergence_counts_nowhere_and_is_counted(
    scored: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from salad.trainer import evaluate

    plain = build(scored, tmp_path / "plain")
    real = evaluate.measure

    def broken(*args: Any, **kwargs: Any) -> Divergences:
        measured = real(*args, **kwargs)
        measured.divergence[2] = np.inf
        return measured

    monkeypatch.setattr(evaluate, "measure", broken)
    meta = build(scored, tmp_path / "broken")
    assert meta["quarantined"] == 1
    assert meta["probes"] == plain["probes"] - 1
    rows = pq.read_table(tmp_path / "broken/probes.parquet").to_pylist()
    assert [r["quarantined"] for r in rows].count("divergence is not finite") == 1
    table = pq.read_table(tmp_path / "broken/clusters.parquet")
    assert np.isfinite(table["p_target"].to_numpy()).all()
    assert sum(table["n_probe"].to_pylist()) == meta["probes"]

    def nothing(*args: Any, **kwargs: Any) -> Divergences:
        measured = real(*args, **kwargs)
        measured.divergence[:] = np.nan
        return measured

    monkeypatch.setattr(evaluate, "measure", nothing)
    with pytest.raises(SaladError, match="divergence is not finite"):
        build(scored, tmp_path / "nothing")


def test_signals_are_what_their_names_say(scored: Run, tmp_path: Path) -> None:
    by_signal = {}
    for name in ("divergence", "misalignment", "excess"):
        meta = build(scored, tmp_path / name, score={"signal": name})
        assert meta["signal"] == name
        by_signal[name] = pq.read_table(tmp_path / name / "clusters.parquet")
    for table in by_signal.values():  # D is D whatever chooses
        assert table["divergence"].equals(by_signal["divergence"]["divergence"])
    # The fake's LM is frozen: F = 0 and M = D, so all signals agree
    assert by_signal["excess"]["p_target"].to_pylist() == pytest.approx(by_signal["divergence"]["p_target"].to_pylist())


def test_excess_is_the_divergence_less_the_forgetting() -> None:
    table = score.probe_rows(facts(3), list("abc"), found())
    np.testing.assert_allclose(signal_of(table, "excess"), [0.9, 1.8, 2.7], rtol=1e-6)
    np.testing.assert_allclose(signal_of(table, "misalignment"), [1, 2, 3])


def test_target_ess_takes_the_place_of_gamma(scored: Run, tmp_path: Path) -> None:
    meta = build(scored, tmp_path / "ess", select={"target_ess": 3.0})
    p = pq.read_table(tmp_path / "ess/clusters.parquet")["p_target"].to_numpy()
    assert 1 / (p**2).sum() == pytest.approx(meta["effective_clusters"])
    assert meta["gamma"] >= 0
    if 0 < meta["gamma"] < 100:
        assert meta["effective_clusters"] == pytest.approx(3.0, rel=1e-3)


def test_flagged_and_unspeakable_clusters_leave_the_target(scored: Run, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    (probe / "data").mkdir(parents=True)
    source = scored.store.path("probe")
    rows = pq.read_table(source / "data").to_pylist()
    for row in rows:
        row["cer"] = 0.9 if row["cluster"] == 1 else 0.01
    kept = [row for row in rows if row["cluster"] != 2]
    from salad.pipeline import shards

    shards.write_speech(kept, probe / "data/train-00000-of-00001.parquet")
    shards.write_rejected([{**rows[0], "cluster": 2, "rejected": "silent"}], probe / "rejected.parquet")
    at = scored.store.path
    (tmp_path / "out").mkdir()
    meta = score.build_scores(
        tmp_path / "out", scored.config, scored.models, at("pool"), at("embeddings"), at("clusters"),
        [score.ProbeSet(probe, at("prepared/probe"))], at("stage-one/checkpoint") / "final", None, lambda n: None,
    )  # fmt: skip
    table = pq.read_table(tmp_path / "out/clusters.parquet")
    assert table["flag"].to_pylist() == ["", "cer", "unspeakable", ""]
    assert table["p_target"].to_pylist()[1:3] == [0, 0]
    assert table["divergence"].to_pylist()[2] is None
    assert table["divergence"].to_pylist()[1] > 0, "what was measured is shown"
    assert meta["flagged"] == 2


def test_waves_spend_the_probe_budget_and_repeat_no_text(fake_config_path: Path) -> None:
    run = Run(load_config(fake_config_path))
    for stage in run.stages:
        run.execute(stage)
        if stage.name == "round-000/scores":
            break
    waves = ["probe", "probe-1/speech", "probe-2/speech"]
    spent = sum(run.store.manifest(name).meta["seconds"] for name in waves)
    assert spent == pytest.approx(100, rel=0.03)
    rows = pq.read_table(run.store.path("round-000/scores") / "probes.parquet")
    assert len(set(rows["id"].to_pylist())) == rows.num_rows == sum(run.store.manifest(n).meta["rows"] for n in waves)
    before = pq.read_table(run.store.path("probe-2/scores") / "probes.parquet")
    assert rows.slice(0, before.num_rows).equals(before), "the same student measured the same probe twice"


def test_a_probe_budget_that_the_first_pass_used_up_is_refused(fake_config_path: Path) -> None:
    run = Run(load_config(fake_config_path, {"probe.budget": 5}))
    names = [stage.name for stage in run.stages]
    first = names.index("probe-1/speech")
    for stage in run.stages[:first]:
        run.execute(stage)
    with pytest.raises(SaladError, match=r"probe.budget is 5 s but 3 probes a cluster already took .*raise probe.budget"):
        run.execute(run.stages[first])


def test_a_wave_that_can_afford_no_text_speaks_none(fake_config_path: Path) -> None:
    run = Run(load_config(fake_config_path))
    names = [stage.name for stage in run.stages]
    for stage in run.stages[: names.index("probe") + 1]:
        run.execute(stage)
    just = run.store.manifest("probe").meta["seconds"] + 0.5
    run = Run(load_config(fake_config_path, {"probe.budget": just, "name": "other"}))
    for stage in run.stages[: names.index("round-000/scores") + 1]:
        run.execute(stage)
    assert [run.store.manifest(f"probe-{w}/speech").meta["rows"] for w in (1, 2)] == [0, 0]
    assert run.store.manifest("round-000/scores").meta["probes"] == run.store.manifest("probe").meta["rows"]
