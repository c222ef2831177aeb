"""An S3 server on loopback (moto, in a process of its own) and a proxy before it that misbehaves when it is told to."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, create_connection

SECRET = "a-secret-that-nobody-may-see"
STORAGE = {"key": "${TEST_S3_KEY}", "secret": "${TEST_S3_SECRET}"}
ENVIRONMENT = {"TEST_S3_KEY": "an-access-key-id", "TEST_S3_SECRET": SECRET}
EMPTY = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
HOP = {"connection", "transfer-encoding", "keep-alive"}


@contextmanager
def moto_server(port: int) -> Iterator[str]:
    """Its URL, once it answers."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"moto ended with status {process.returncode}")
            try:
                create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass
class Mischief:
    """What the proxy does to the requests that come: `drop`, so many are cut off in the middle of their body."""

    drop: int = 0
    dead: bool = False  # every connection is closed without an answer
    stale_listings: bool = False  # listings know nothing of what is there
    seen: list[tuple[str, str]] = field(default_factory=list)  # method, path with query
    lock: threading.Lock = field(default_factory=threading.Lock)

    def drops(self) -> bool:
        with self.lock:
            self.drop -= 1
            return self.drop >= 0


@contextmanager
def proxy(server: str) -> Iterator[tuple[str, Mischief]]:
    """(URL, what it shall do)."""
    mischief = Mischief()
    host = server.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            mischief.seen.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if mischief.dead:
                self.hang_up()
                return
            there = http.client.HTTPConnection(host, timeout=60)
            if self.command in ("PUT", "POST") and body and mischief.drops():
                self.hang_up()  # the client has sent it all, or thinks so; the server never saw it
                return
            there.request(self.command, self.path, body, dict(self.headers))
            answer = there.getresponse()
            data = answer.read()
            if mischief.stale_listings and self.command == "GET" and "list-type=" in self.path:
                data = EMPTY
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP | {"content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command == "GET" and len(data) > 100 and mischief.drops():
                self.wfile.write(data[: len(data) // 2])
                self.hang_up()
                return
            if self.command != "HEAD":
                self.wfile.write(data)

        def hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", mischief
        finally:
            listening.shutdown()
