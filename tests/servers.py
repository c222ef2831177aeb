"""Real Prefect servers, runners and workers for tests: started, asked, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

ROOT = Path(__file__).parents[1]
NAMES = ("salad-round", "salad", "salad-stage-one")
Env = dict[str, str]


@contextmanager
def started(command: list[str], env: Env, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that Ctrl+C reaches; it and its group are ended with the block."""
    with log.open("a") as out:
        process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    try:
        yield process
    finally:
        family = [*descendants(process.pid)]
        for sign in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        for child in family:
            if child.is_running():
                child.kill()


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def words_of(process: psutil.Process) -> str:
    """Its words; none of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return ""


def wait_for(what: Callable[[], object], log: Path, seconds: float = 90) -> float:
    """Seconds until it is true."""
    start = time.monotonic()
    while not what():
        assert time.monotonic() < start + seconds, log.read_text()[-8000:]
        time.sleep(0.1)
    return time.monotonic() - start


def server_env(home: Path) -> Env:
    """The environment of a user who did `prefect server start` and `export PREFECT_API_URL=...`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]  # engines of the tests import one another
    return env | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def prefect_server(env: Env) -> Iterator[subprocess.Popen[bytes]]:
    """`prefect server start`, answering; on the same port and database each time for one `env`."""
    port = env["PREFECT_API_URL"].rpartition(":")[2].split("/")[0]
    log = Path(env["PREFECT_HOME"]) / "server.log"
    with started(["prefect", "server", "start", "--port", port], env, log) as process:
        with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
            wait_for(lambda: client.api_healthcheck() is None, log)
        yield process


@contextmanager
def salad_serve(env: Env, log: Path, limit: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """`salad serve`, its deployments known to the server."""
    with started(["salad", "serve", "--limit", str(limit)], env, log) as process:
        wait_for(lambda: all(is_deployed(env, name) for name in NAMES), log)
        yield process


def is_deployed(env: Env, name: str) -> bool:
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        try:
            return client.read_deployment_by_name(f"{name}/{name}") is not None
        except ObjectNotFound:
            return False


def prefect(command: str, env: Env) -> subprocess.CompletedProcess[str]:
    words = ["prefect", *command.split()]
    return subprocess.run(
        words,
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def ask_for(env: Env, deployment: str, /, **parameters: object) -> FlowRun:
    """What `prefect deployment run` does, without the seconds that its process takes to start."""
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        found = client.read_deployment_by_name(f"{deployment}/{deployment}")
        return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def read(env: Env, flow_run: FlowRun) -> FlowRun:
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        return client.read_flow_run(flow_run.id)


def state_of(env: Env, flow_run: FlowRun) -> str:
    """The state's name."""
    found = read(env, flow_run).state
    assert found is not None
    return found.name or ""


def history(env: Env, flow_run: FlowRun) -> list[str]:
    """Names of all states that it had."""
    with SyncPrefectClient(api=env["PREFECT_API_URL"]) as client:
        states = client.read_flow_run_states(flow_run.id)
    return [s.name or "" for s in sorted(states, key=lambda s: s.timestamp)]
