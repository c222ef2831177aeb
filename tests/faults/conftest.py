"""One undisturbed run for all tests of faults, and the table of what was survived, printed at the end."""

from __future__ import annotations

import pytest

from tests.faults.rig import Calm, Table, undisturbed

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash.setdefault(TABLE, Table())


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, fake_models: dict[str, str]) -> Calm:
    """One round, undisturbed."""
    return undisturbed(tmp_path_factory.mktemp("calm"), fake_models, rounds=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(TABLE, None)
    if found is None or not found.injected:
        return
    width = max(map(len, found.injected))
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':<{width}}  injected  survived")
    for fault, injected in found.injected.items():
        terminalreporter.write_line(f"{fault:<{width}}  {injected:8d}  {found.survived[fault]:8d}")
    total, survived = found.injected.total(), found.survived.total()
    terminalreporter.write_line(f"{'all':<{width}}  {total:8d}  {survived:8d}")
