"""Predicted against measured in the report, from artefacts written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from salad.pipeline.report import write_report
from salad.pipeline.report.calibration import GROUPS, LEAST, Calibration, calibration
from salad.pipeline.schema import POOL
from salad.pipeline.stages import Run
from tests.pipeline import test_report as small

N, HELDOUT = 200, 80
TITLE = "Can D be predicted before speaking?"
rng = np.random.default_rng(3)
PREDICTED = np.exp(rng.normal(0.5, 0.5, N))
ROWS = rng.permutation(N)[:HELDOUT]  # of the pool, in no order
MEASURED = PREDICTED[ROWS] * np.exp(rng.normal(0, 0.3, HELDOUT)) * 1.5  # a common factor: off the diagonal, and no less sure
FORGETTING = rng.uniform(0, 0.25, HELDOUT)


def publish(
    folder: Path,
    measured: np.ndarray = MEASURED,
    predicted: np.ndarray = PREDICTED,
    signal: str = "divergence",
    until: str = "round-000/scores",
) -> Run:
    """A run of a pool of `N` texts, published up to the stage `until`; the first held-out texts are measured."""
    ids = [f"{i:032x}" for i in range(N)]

    def build(out: Path, name: str) -> dict[str, Any]:
        meta = small.build(out, name)
        if name == "pool":
            rows = [{"id": i, "text": "plain words", "domain": "kitchen", "n_words": 2, "est_seconds": 1.0} for i in ids]
            pq.write_table(pa.Table.from_pylist(rows, POOL), out / "part-00000.parquet")
        elif name == "clusters":
            np.save(out / "assignment.npy", np.arange(N, dtype=np.int32) % 3)
        elif name == "stage-one/metrics":
            shown = ROWS[: len(measured)]
            columns = {"divergence": measured, "misalignment": measured / 2, "forgetting": FORGETTING[: len(measured)]}
            pq.write_table(pa.table({"id": [ids[i] for i in shown], **columns}), out / "heldout.parquet")
        elif name == "round-000/scores":
            np.save(out / "predicted.npy", np.stack([predicted, predicted / 4], axis=1).astype(np.float32))
            meta |= {"signal": signal}
        return meta

    return small.publish_with(small.CONFIG | {"runs_dir": str(folder)}, build, until)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(publish(tmp_path_factory.mktemp("runs")))


def found(run: Run) -> Calibration:
    result = calibration(run)
    assert result is not None
    return result


def test_the_page_shows_each_text_and_the_means_of_groups(index: Path) -> None:
    texts, means = small.figures_of(small.map_of(index))["calibration"]["data"]
    np.testing.assert_allclose(texts["x"], PREDICTED[ROWS], rtol=1e-6)
    np.testing.assert_allclose(texts["y"], MEASURED)
    order = np.argsort(PREDICTED[ROWS])[:10]  # the first of eight groups
    assert len(means["x"]) == GROUPS == 8
    assert means["x"][0] == pytest.approx(PREDICTED[ROWS][order].mean())
    assert means["y"][0] == pytest.approx(MEASURED[order].mean())
    assert means["error_y"]["array"][0] == pytest.approx(MEASURED[order].std(ddof=1) / 10**0.5)
    assert means["x"] == sorted(means["x"])
    layout = small.figures_of(small.map_of(index))["calibration"]["layout"]
    diagonal = layout["shapes"][0]
    assert (diagonal["x0"], diagonal["x1"]) == (diagonal["y0"], diagonal["y1"])
    assert layout["xaxis"]["range"] == layout["yaxis"]["range"]


def test_one_line_says_how_well_it_did(index: Path) -> None:
    page = small.Page(small.map_of(index))
    words = " ".join(page.text.split())
    rank = spearmanr(PREDICTED[ROWS], MEASURED).statistic
    explained = 1 - np.var(np.log(MEASURED / PREDICTED[ROWS])) / np.var(np.log(MEASURED))
    assert f"{TITLE} Before round 0, D of every text was predicted from 9 probes." in words
    assert "Nothing is ever fitted to held-out texts." in words
    assert f"Rank correlation {rank:.2f}; {explained:.0%} of the variance of log D explained; 80 texts." in words
    assert [a for _, a in page.elements if a.get("id") == "calibration"]


def test_equal_values_share_a_rank(tmp_path: Path) -> None:
    coarse, measured = np.round(PREDICTED), np.round(MEASURED, 1)
    result = found(publish(tmp_path, measured, coarse))
    assert result.rank_correlation == pytest.approx(spearmanr(coarse[ROWS], measured).statistic)


def test_what_is_predicted_is_what_is_measured(tmp_path: Path) -> None:
    of = {s: found(publish(tmp_path / s, signal=s)) for s in ("misalignment", "excess")}
    assert of["misalignment"].symbol == "M"
    np.testing.assert_allclose(of["misalignment"].figure["data"][0]["y"], MEASURED / 2)
    assert of["excess"].symbol == "D − F"
    np.testing.assert_allclose(of["excess"].figure["data"][0]["y"], np.maximum(MEASURED - FORGETTING, 0.01))
    assert "D − F measured (nats)" in str(of["excess"].figure["layout"])


def test_a_text_without_a_measure_does_not_count(tmp_path: Path) -> None:
    measured = MEASURED.copy()
    measured[3] = np.nan
    result = found(publish(tmp_path, measured))
    assert result.texts == HELDOUT - 1
    rank = spearmanr(np.delete(PREDICTED[ROWS], 3), np.delete(measured, 3)).statistic
    assert result.rank_correlation == pytest.approx(rank)


def test_a_signal_below_zero_can_be_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    measured = MEASURED.copy()
    measured[:3] = [-1.0, 0.0, 1e-9]
    figure = found(publish(tmp_path, measured)).figure
    assert min(figure["data"][0]["y"]) > 0
    assert np.isfinite(figure["layout"]["xaxis"]["range"]).all()
    write_report(publish(tmp_path, measured))  # JSON takes no NaN


@pytest.mark.parametrize(
    ("measured", "predicted"),
    [
        (MEASURED[: LEAST - 1], PREDICTED),
        (MEASURED, np.ones(N)),
        (np.ones(HELDOUT), PREDICTED),
        (-MEASURED, PREDICTED),
        (np.full(HELDOUT, np.nan), PREDICTED),
    ],
    ids=["too few texts", "one prediction for all", "all measured alike", "nothing above 0", "none measured"],
)
def test_where_nothing_can_be_said_nothing_is(tmp_path: Path, measured: np.ndarray, predicted: np.ndarray) -> None:
    run = publish(tmp_path, measured, predicted)
    assert calibration(run) is None
    index = write_report(run)
    assert "calibration" not in small.figures_of(small.map_of(index))
    assert "be predicted before speaking" not in small.Page(small.map_of(index)).text


def test_the_least_number_of_texts_makes_pairs(tmp_path: Path) -> None:
    result = found(publish(tmp_path, MEASURED[:LEAST]))
    assert len(result.figure["data"][1]["x"]) == GROUPS
    assert np.isfinite(result.figure["data"][1]["error_y"]["array"]).all()


@pytest.mark.parametrize("until", ["pool", "stage-one/metrics"])
def test_before_both_are_published_there_is_no_figure(tmp_path: Path, until: str) -> None:
    assert calibration(publish(tmp_path, until=until)) is None


@pytest.mark.slow
def test_a_browser_draws_it(index: Path, tab: Any) -> None:
    tab.goto(small.map_of(index).as_uri())
    tab.wait_for_selector("#calibration .main-svg .points path")
