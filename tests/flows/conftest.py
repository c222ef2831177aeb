"""One Prefect server for all tests of flows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Env, prefect_server, server_env


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    env = server_env(tmp_path_factory.mktemp("prefect"))
    with prefect_server(env):
        yield env
