"""Planted faults with the real voice and the real ASR: flagged are these and no unseen domain. Needs the asset packages."""

from __future__ import annotations

import pytest

from bench import flags as bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bench.Found]:
    return {f.plant.kind: f for f in bench.measure(tmp_path_factory.mktemp("planted"), bench.plants())}


def test_flags_are_exactly_those_that_were_planted(found: dict[str, bench.Found]) -> None:
    assert {kind: f.flag for kind, f in found.items()} == {kind: f.plant.flag for kind, f in found.items()}


def test_no_verdict_is_close(found: dict[str, bench.Found]) -> None:
    counted = {kind: f.cer for kind, f in found.items()}
    assert max(counted[kind] for kind, f in found.items() if f.flag == "") < 0.1
    assert min(counted[kind] for kind, f in found.items() if f.flag == "cer") > 0.25


def test_the_plain_checks_alone_would_let_the_broken_voices_pass(found: dict[str, bench.Found]) -> None:
    """Their sounds are loud enough, unclipped and of a common speed: only the ASR can tell."""
    broken = [f for kind, f in found.items() if kind in ("recipes, garbled", "recipes, noisy")]
    assert [f.n_probe for f in broken] == [bench.PROBES] * 2
    assert all(2.5 < f.words_per_second < 4 for f in broken)


def test_a_mean_would_flag_the_cluster_with_one_garbled_probe_first(found: dict[str, bench.Found]) -> None:
    one = found["recipes, 1 garbled"]
    assert one.mean_cer > max(f.mean_cer for f in found.values() if f.flag == "" and f is not one)
    assert one.cer < 0.7 * one.mean_cer
