"""Which clusters leave for their sound: the rule on made-up error rates. `test_flags_planted.py` has real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.config import Flags
from salad.pipeline.flags import cer_limit, cluster_cer, flag_clusters

RULE = Flags()
CLEAN = [0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.05, 0.1]
ANY_CER = st.floats(0, 5) | st.just(float("nan"))


def flags(*clusters: list[float], rule: Flags = RULE) -> list[str]:
    """Flags of clusters given by the error rates of their probes."""
    cer = np.array([x for c in clusters for x in c], dtype=np.float64)
    cluster = np.repeat(np.arange(len(clusters)), [len(c) for c in clusters])
    return flag_clusters(cer, cluster, len(clusters), rule).tolist()


def test_a_cluster_that_is_not_understood_is_flagged() -> None:
    assert flags(CLEAN, CLEAN, [0.4, 0.5, 0.6, 0.4, 0.5, 0.6, 0.4, 0.9], CLEAN) == ["", "", "cer", ""]


@pytest.mark.parametrize("garbled", [0.9, 1.0, 50.0])
@pytest.mark.parametrize("n", [2, 3, 8, 40])
def test_one_garbled_probe_flags_nothing(garbled: float, n: int) -> None:
    assert flags([0.02] * (n - 1) + [garbled], CLEAN) == ["", ""]


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_few_probes_are_enough(n: int) -> None:
    assert flags([0.5] * n, CLEAN) == ["cer", ""]


def test_half_of_a_cluster_is_enough() -> None:
    assert flags([0.0] * 4 + [0.8] * 4, CLEAN) == ["cer", ""]


@pytest.mark.parametrize("n", [2, 10])
def test_half_of_all_clusters_cannot_hide(n: int) -> None:
    assert flags(*[[0.02] * 8] * n, *[[0.6] * 8] * n) == [""] * n + ["cer"] * n
    assert flags(*[[0.6] * 8] * n) == ["cer"] * n, "all of them"


def test_very_clean_company_does_not_flag_a_common_error_rate() -> None:
    assert flags(*[[0.0] * 8] * 20, [0.05] * 8) == [""] * 21
    assert flags(*[[0.0] * 8] * 20, [0.05] * 8, rule=Flags(least=0.01))[-1] == "cer"


def test_the_limit_follows_the_clusters() -> None:
    of_clusters = np.array([0.10, 0.12, 0.14, 0.16, 0.18, np.nan])
    assert cer_limit(of_clusters, Flags(max_cer=0.9)) == pytest.approx(0.14 + 5 * 1.4826 * 0.02)
    assert cer_limit(of_clusters, Flags(max_cer=0.2)) == 0.2
    assert cer_limit(of_clusters / 100, RULE) == RULE.least
    assert cer_limit(of_clusters, Flags(max_cer=0.1)) == 0.1, "what the user wants wins over `least`"
    assert cer_limit(np.full(3, np.nan), RULE) == RULE.max_cer


def test_what_was_not_checked_does_not_count() -> None:
    nan = float("nan")
    assert flags([nan] * 8, [0.5, 0.5, nan, nan], [0.0, nan], CLEAN) == ["", "cer", "", ""]
    found = cluster_cer(np.array([nan, 0.5, 0.1, nan]), np.array([0, 1, 1, 1]), 3)
    np.testing.assert_allclose(found, [nan, 0.1, nan])


def test_an_empty_cluster_has_no_probe() -> None:
    assert flags([], CLEAN, []) == ["no probe", "", "no probe"]
    assert flags([], []) == ["no probe", "no probe"]


def test_the_worst_eighth_is_left_out() -> None:
    cer = np.arange(16) / 100
    assert cluster_cer(cer, np.zeros(16, int), 1)[0] == pytest.approx(cer[:14].mean())
    assert cluster_cer(cer[:9], np.zeros(9, int), 1)[0] == pytest.approx(cer[:7].mean())


@given(st.lists(st.lists(ANY_CER, max_size=9), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_probes_does_not_matter(clusters: list[list[float]], random: object) -> None:
    shuffled = [list(c) for c in clusters]
    for c in shuffled:
        random.shuffle(c)  # type: ignore[attr-defined]
    assert flags(*shuffled) == flags(*clusters)


@given(st.lists(st.lists(ANY_CER, max_size=9), min_size=1, max_size=6), st.permutations(range(6)))
def test_nor_do_the_numbers_of_clusters(clusters: list[list[float]], order: list[int]) -> None:
    order = [i for i in order if i < len(clusters)]
    found = flags(*clusters)
    assert flags(*(clusters[i] for i in order)) == [found[i] for i in order]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(1, 40))
def test_equal_clusters_are_flagged_together(probes: list[float], k: int) -> None:
    assert len(set(flags(*[probes] * k))) == 1


@given(st.lists(st.lists(st.floats(0, 0.149), min_size=1, max_size=9), min_size=1, max_size=6), st.data())
def test_nothing_below_the_least_is_flagged_whatever_becomes_of_one_probe(
    clusters: list[list[float]], data: st.DataObject
) -> None:
    assert set(flags(*clusters)) == {""}
    c = data.draw(st.integers(0, len(clusters) - 1))
    if len(clusters[c]) > 1:
        clusters[c][0] = data.draw(st.floats(0, 100))
        assert set(flags(*clusters)) == {""}


@given(st.lists(st.lists(ANY_CER, max_size=9), min_size=1, max_size=6))
def test_above_the_highest_limit_all_are_flagged(clusters: list[list[float]]) -> None:
    cer = np.array([x for c in clusters for x in c], dtype=np.float64)
    cluster = np.repeat(np.arange(len(clusters)), [len(c) for c in clusters])
    found = cluster_cer(cer, cluster, len(clusters))
    flagged = np.array(flags(*clusters)) == "cer"
    assert flagged[found > RULE.max_cer].all()
    assert not flagged[np.isnan(found)].any()
