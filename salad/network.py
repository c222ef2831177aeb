"""Whether another library's error means that something beyond this machine did not answer, by whatever client it asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from salad.errors import NetworkError, SaladError

# Of requests, urllib3, httpx, aiohttp, botocore and fsspec, none of which is imported for this.
CLASSES = {
    "ClientConnectionError", "ClientPayloadError", "ConnectTimeoutError", "ConnectionClosedError", "ConnectionError",
    "EndpointConnectionError", "FSTimeoutError", "HTTPClientError", "MaxRetryError", "ReadTimeoutError", "Timeout",
    "TransportError",
}  # fmt: skip
STATUSES = {408, 425, 429, 500, 502, 503, 504}  # of HTTP, that say "later"
OFFLINE = "OfflineMode"  # the user's own choice, which no waiting changes


def unreachable(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is of the kind that another try may mend."""
    chain = list(_chain(error))
    if any(OFFLINE in type(e).__name__ or OFFLINE in str(e) for e in chain):
        return False
    return any(_of_the_network(e) for e in chain)


def failure_of(error: BaseException, remote: bool = False) -> type[SaladError]:
    """The class for what is told of this error. remote: what was asked for lies at a URL, where `datasets` tells an absent
    file and a silent server alike (FileNotFoundError)."""
    return NetworkError if unreachable(error) or (remote and isinstance(error, FileNotFoundError)) else SaladError


def _of_the_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, NetworkError)):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return status in STATUSES or any(kind.__name__ in CLASSES for kind in type(error).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
