"""What was survived: counts faults by name, prints the table at the end; with xdist the sum over its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Table:
    """Faults by their name: how many were made, and after how many everything was as it must be."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()

    @contextmanager
    def survived_all(self, fault: str) -> Iterator[Callable[[], None]]:
        """Call what it gives for each fault; they count as survived once the block has ended well."""
        before = self.injected[fault]

        def count() -> None:
            self.injected[fault] += 1

        yield count
        self.survived[fault] += self.injected[fault] - before

    def add(self, injected: dict[str, int], survived: dict[str, int]) -> None:
        self.injected.update(injected)
        self.survived.update(survived)


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash[TABLE]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        found = session.config.stash[TABLE]
        output["faults"] = [dict(found.injected), dict(found.survived)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[TABLE].add(*getattr(node, "workeroutput", {}).get("faults", [{}, {}]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[TABLE]
    if not found.injected:
        return
    width = max(map(len, found.injected))
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':<{width}}  injected  survived")
    for fault, injected in found.injected.items():
        terminalreporter.write_line(f"{fault:<{width}}  {injected:8d}  {found.survived[fault]:8d}")
    total, survived = found.injected.total(), found.survived.total()
    terminalreporter.write_line(f"{'all':<{width}}  {total:8d}  {survived:8d}")
