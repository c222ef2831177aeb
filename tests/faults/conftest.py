"""One undisturbed run for all tests of faults."""

from __future__ import annotations

import pytest

from tests.faults.rig import Calm, undisturbed


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Calm:
    """One round, undisturbed."""
    return undisturbed(tmp_path_factory.mktemp("calm"), fake_models, rounds=1)
