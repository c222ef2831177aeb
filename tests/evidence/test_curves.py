"""Stage I's curves: seeds that came to the end count, and two losses are compared seed by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evidence.curves import curves, growth
from evidence.results import Results
from evidence.tables import Evidence
from evidence.texts import DOMAINS

STEPS = (20, 40, 80, 160)


@pytest.fixture
def found(tmp_path: Path) -> Evidence:
    """α = 1 with seeds 1 and 2, α = 0 with 2, 3 and a beginning of 4; M of seed 3 is 10 higher, that of α = 0 rises."""
    results = Results(tmp_path)
    domain = [d for d in DOMAINS for _ in range(8)]
    results.add("evaluation", {"ids": list(range(len(domain))), "domain": domain})
    noise = np.random.default_rng(0)
    for alpha, seeds in ((1.0, (1, 2)), (0.0, (2, 3, 4))):
        for seed in seeds:
            for i, steps in enumerate(STEPS[: 1 if seed == 4 else None]):
                m = 2.0 + (0.1 * i if alpha == 0 else 0.0) + 10.0 * (seed == 3) + noise.normal(0, 1e-3, len(domain))
                row = {"alpha": alpha, "seed": seed, "steps": steps}
                results.add("stage-one", row | {"D": m.tolist(), "M": m.tolist(), "F": [0.5] * len(domain)})
    return Evidence(results)


def test_seeds_that_came_to_the_end(found: Evidence) -> None:
    assert [(curve.alpha, curve.seeds, curve.values["M"].shape) for curve in curves(found)] == [
        (1.0, [1, 2], (2, 4, 40)),
        (0.0, [2, 3], (2, 4, 40)),
    ]


def test_growth_and_what_the_loss_is_worth(found: Evidence) -> None:
    head, _, *rows = [line.strip("| ").split(" | ") for line in growth(found).splitlines()]
    assert head[3:] == ["M, 40 to 160 steps", "F, 40 to 160 steps", "M at the end, less that of α = 1"]
    assert [row[:3] for row in rows] == [[alpha, where, "2"] for alpha in "10" for where in ("recipes", "others")]
    grown, less = (np.array([float(row[i].split()[0].replace("–", "nan")) for row in rows]) for i in (3, 5))
    assert grown == pytest.approx([0, 0, 0.2, 0.2], abs=0.01)
    assert less[2:] == pytest.approx([0.3, 0.3], abs=0.01), "of seed 2, which both have: seed 3's 10 stay out of it"
