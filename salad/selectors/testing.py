"""The contract that every strategy keeps, as a suite that any author can run.

    from salad.selectors.testing import check_selector

    def test_my_selector() -> None:
        check_selector(MySelector)

Each check is also a function of its own in `CHECKS`, for pytest's parametrize. They need no model and no file, and take
about a second a strategy. The strategy runs as the pipeline runs it: through `choose`, which checks what it returns.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from salad.errors import SaladError
from salad.selectors.base import Budget, ClusterTable, PastRound, PoolView, Selection, Selector
from salad.selectors.choose import choose

Make = Callable[[], Selector]
MEMORY_TEXTS = 8_000
MEMORY = 48  # MiB for that many texts: what grows with N² (256 MB at 4 bytes) is found out


def example_pool(
    n: int = 600, k: int = 6, d: int = 16, seed: int = 0, taken: float = 0.2, seconds: tuple[float, float] = (2.0, 8.0)
) -> PoolView:
    """n texts in k clusters of the unit sphere, with all that a strategy may look at: scores, a history, a target.

    taken: share that may not be chosen, of which half is trained on. seconds: each text costs uniform draws between these.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d))
    cluster = rng.integers(0, k, n).astype(np.int32)
    vectors = _unit(_unit(centres)[cluster] + rng.normal(size=(n, d)) / np.sqrt(d))
    p_web = np.bincount(cluster, minlength=k) / max(n, 1)
    divergence = np.linspace(0.5, 2.0, k)
    own = divergence[cluster] * np.exp(0.3 * rng.normal(size=n))
    target = p_web * divergence**5
    away = rng.random(n) < taken
    past = PastRound(100 * target / max(target.sum(), 1e-12), rng.normal(-0.1, 0.02, k), np.full(k, 0.02))
    return PoolView(
        ids=np.array([f"text-{i}" for i in range(n)], dtype=object),
        embeddings=vectors.astype(np.float16),
        cluster=cluster,
        predicted_divergence=(own * rng.uniform(0.8, 1.2, n)).astype(np.float32),
        predicted_se=np.full(n, 0.1, np.float32),
        content_divergence=own.astype(np.float32),
        est_seconds=rng.uniform(*seconds, n).astype(np.float32),
        taken=away,
        trained=away & (rng.random(n) < 0.5),
        clusters=ClusterTable(
            p_web, target / max(target.sum(), 1e-12), divergence, np.full(k, 0.1), _unit(centres).astype(np.float32)
        ),
        history=(past,),
        target=_unit(_unit(centres)[: max(k // 2, 1)] + 0.1 * rng.normal(size=(max(k // 2, 1), d))).astype(np.float32),
    )


def reorder(pool: PoolView, order: np.ndarray) -> PoolView:
    """The same texts with rows in another order, or some of them."""
    names = ("ids", "embeddings", "cluster", "predicted_divergence", "predicted_se", "content_divergence", "est_seconds")
    return replace(pool, **{name: getattr(pool, name)[order] for name in (*names, "taken", "trained")})


def check_selector(make: Make) -> None:
    """Run every check on the strategies that `make` (the class, or a function without arguments) gives.

    AssertionError, with the check's name, for the first contract that is broken.
    """
    for name, check in CHECKS.items():
        try:
            check(make)
        except Exception as e:
            raise AssertionError(f"{name}: {e}") from e


def spends_no_more_than_the_budget(make: Make) -> None:
    pool = example_pool()
    for seconds in (1.0, 3.0, 30.0, 300.0):
        chosen = _choose(make, pool, seconds)
        spent = float(pool.est_seconds[chosen.indices].sum(dtype=np.float64))
        assert spent <= seconds + 1e-6, f"{spent} s of a budget of {seconds} s"
        if seconds >= 30:
            assert len(chosen.indices) > 0, f"nothing for {seconds} s, though every text costs less than 8 s"


def chooses_only_free_texts_and_none_twice(make: Make) -> None:
    pool = example_pool(taken=0.6)
    chosen = _choose(make, pool, 200.0)
    assert len(set(chosen.indices.tolist())) == len(chosen.indices), "a text was chosen twice"
    assert not pool.taken[chosen.indices].any(), "a text that is taken was chosen"


def leaves_the_pool_as_it_was(make: Make) -> None:
    pool, untouched = example_pool(), example_pool()
    _choose(make, pool, 100.0)
    for name in ("embeddings", "taken", "trained", "est_seconds", "predicted_divergence"):
        assert np.array_equal(getattr(pool, name), getattr(untouched, name)), f"{name} was changed"


def gives_the_same_for_the_same_seed(make: Make) -> None:
    pool = example_pool()
    first, again = _choose(make, pool, 100.0), _choose(make, pool, 100.0)
    assert first.indices.tolist() == again.indices.tolist(), "the same seed gave another choice: take randomness from rng alone"


def does_not_depend_on_the_order_of_the_pool(make: Make) -> None:
    pool = example_pool()
    order = np.random.default_rng(1).permutation(len(pool.ids))
    mixed = reorder(pool, order)
    ids, other = set(pool.ids[_choose(make, pool, 100.0).indices]), set(mixed.ids[_choose(make, mixed, 100.0).indices])
    assert ids == other, f"{len(ids - other)} of {len(ids)} texts differ: draw with pool.uniform(rng), which goes by id"


def takes_an_empty_pool(make: Make) -> None:
    assert len(_choose(make, example_pool(n=0), 10.0).indices) == 0, "something was chosen of nothing"
    assert len(_choose(make, example_pool(n=20, taken=1.1), 10.0).indices) == 0, "every text was taken"


def takes_one_text(make: Make) -> None:
    pool = example_pool(n=1, k=1, taken=0.0)
    assert len(_choose(make, pool, 1.0).indices) == 0, "it costs 2 s at least"
    assert _choose(make, pool, 10.0).indices.tolist() == [0], "the one text fits and was not chosen"


def takes_one_cluster(make: Make) -> None:
    assert len(_choose(make, example_pool(n=100, k=1), 50.0).indices) > 0, "nothing was chosen"


def takes_an_empty_cluster(make: Make) -> None:
    pool = example_pool(n=200)
    kept = reorder(pool, np.flatnonzero(pool.cluster != 2))
    exhausted = replace(pool, taken=pool.taken | (pool.cluster == 2))
    for view in (kept, exhausted):
        assert len(_choose(make, view, 50.0).indices) > 0, "nothing was chosen"


def takes_scores_that_are_all_equal(make: Make) -> None:
    pool = example_pool(n=200)
    even, k = np.ones(200, np.float32), len(pool.clusters.p_web)
    table = replace(pool.clusters, p_target=pool.clusters.p_web, divergence=np.ones(k))
    same = replace(pool, predicted_divergence=even, content_divergence=even, est_seconds=4 * even, clusters=table)
    twins = replace(same, embeddings=np.repeat(pool.embeddings[:1], 200, axis=0))
    for view in (same, twins):
        n = len(_choose(make, view, 60.0).indices)
        assert 0 < n <= 15, f"{n} texts of 4 s for 60 s, where all texts score alike"


def takes_a_first_round(make: Make) -> None:
    assert len(_choose(make, replace(example_pool(n=200), history=()), 50.0).indices) > 0, "nothing was chosen"


def refuses_scores_that_are_not_numbers(make: Make) -> None:
    pool = example_pool(n=100)
    for name in ("predicted_divergence", "content_divergence", "est_seconds"):
        values = getattr(pool, name).copy()
        values[7] = np.nan
        said = _refusal(make, replace(pool, **{name: values}))
        assert "text-7" in said, f"NaN in {name} was not refused by name, but: {said or 'chosen from'}"


def takes_a_budget_above_the_pool(make: Make) -> None:
    pool = example_pool(n=120)
    chosen = _choose(make, pool, 1e6)
    assert 0 < len(chosen.indices) <= len(pool.free), "nothing was chosen"


def explains_every_text(make: Make) -> None:
    chosen = _choose(make, example_pool(), 100.0)
    assert all(isinstance(r, str) and r.strip() for r in chosen.reasons), "a text has no reason"
    assert ((chosen.probabilities >= 0) & (chosen.probabilities <= 1)).all(), "a probability is not one"


def keeps_memory_bounded(make: Make) -> None:
    pool = example_pool(n=MEMORY_TEXTS, d=64)
    _ = pool.keys
    _choose(make, example_pool(n=50), 10.0)  # what is imported is not counted
    tracemalloc.start()
    try:
        _choose(make, pool, 400.0)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak:.0f} MiB for {MEMORY_TEXTS} texts of 64 dimensions: no array may grow with the square"


CHECKS: dict[str, Callable[[Make], None]] = {
    check.__name__: check
    for check in (
        spends_no_more_than_the_budget, chooses_only_free_texts_and_none_twice, leaves_the_pool_as_it_was,
        gives_the_same_for_the_same_seed, does_not_depend_on_the_order_of_the_pool, takes_an_empty_pool, takes_one_text,
        takes_one_cluster, takes_an_empty_cluster, takes_scores_that_are_all_equal, takes_a_first_round,
        refuses_scores_that_are_not_numbers, takes_a_budget_above_the_pool, explains_every_text, keeps_memory_bounded,
    )
}  # fmt: skip


def _choose(make: Make, pool: PoolView, seconds: float) -> Selection:
    return choose(make(), pool, Budget(seconds), np.random.default_rng(0))


def _refusal(make: Make, pool: PoolView) -> str:
    try:
        _choose(make, pool, 50.0)
    except SaladError as e:
        return str(e)
    return ""


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
