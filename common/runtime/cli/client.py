"""How a command asks the running service: JSON over HTTP on the address the service's own settings name.

Synchronous and light, so that `healthcheck` costs little more than starting Python. An error the service answers with
comes out as the same `BackhaulError`; a service that cannot be connected to is `cli.service_unreachable` (nothing was
asked), one that goes away with a request `cli.no_answer` (whether it was done is not known), and something else on the
port `cli.unexpected_answer`.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from common.core.addresses import Address, SocketPath
from common.core.errors import CODE_PATTERN, BackhaulError, ErrorKind, reason_of
from common.core.events import json_text
from common.core.policy.rights import Right, right_for

# Where to find a service that listens on every address.
# Payloads are printed as they came: big numbers, long decimals and repeated keys included.
_ANSWER_VISITS: Final = json_text.Visits(raw="payload", within=frozenset({"events", "event"}))
_ANSWER_LEVELS_MAX: Final = 1_000
_KIND_OF_STATUS: Final = {503: ErrorKind.UNAVAILABLE, 507: ErrorKind.FULL}
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON object of an answer, and its HTTP status."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WayIn:
    """Where requests of one right are asked: the door, and the token's text if there is one."""

    door: Address | SocketPath
    token: str = ""


class ServiceClient:
    """A service as a command asks it: each request at the door of its right, with that right's token.

    One connection a door, opened when it is needed, and again when the service has closed it.
    """

    def __init__(
        self, host: str, port: int, timeout_s: float, ways: Callable[[Right], WayIn | None] = lambda _: None
    ) -> None:
        """`ways` says where a right is asked for if it is not at the HTTP port alone without a token."""
        self._http = Address(host, port)
        self._ways = ways
        self._timeout_s = timeout_s
        self._connections: dict[Address | SocketPath, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            connection.close()

    def _open(self, door: Address | SocketPath) -> http.client.HTTPConnection:
        if isinstance(door, SocketPath):
            return _SocketConnection(door.path, self._timeout_s)
        if door.port == 0:
            raise BackhaulError(
                "cli.port_unknown",
                "http_port is 0, so the service took a free port",
                "name it with --http-port; the service's log line service.ready has it",
            )
        return http.client.HTTPConnection(_LOOPBACK_OF.get(door.host, door.host), door.port, timeout=self._timeout_s)

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """The answer's JSON object; query parameters that are None are left out. Raises what the service refused with."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._accepted("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, body: object) -> dict[str, Any]:
        """As `get`, with a value to send as JSON."""
        return self.post_bytes(path, json.dumps(body).encode())

    def put(self, path: str, body: object) -> dict[str, Any]:
        """As `post`, with PUT."""
        return self._accepted("PUT", path, json.dumps(body).encode())

    def delete(self, path: str, **query: str | int) -> dict[str, Any]:
        """As `get`, with DELETE."""
        return self._accepted("DELETE", f"{path}?{urlencode(query)}")

    def post_bytes(self, path: str, body: bytes) -> dict[str, Any]:
        """As `get`, with JSON that is written already."""
        return self._accepted("POST", path, body)

    def _accepted(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        answer = self.ask(method, path, body)
        if answer.status < 400:
            return answer.body
        raise self._refusal(answer)

    def text(self, path: str) -> str:
        """A page that is no JSON. Raises as `ask`, and `cli.unexpected_answer` for another status than 200."""
        where, status, content = self._exchange("GET", path, None)
        if status != 200:
            raise _unexpected(where, f"HTTP status {status} for {path}")
        return content.decode(errors="replace")

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Any answer in JSON, errors included."""
        where, status, content = self._exchange(method, path, body)
        try:
            parsed = json_text.read_keeping(content, _ANSWER_VISITS, _ANSWER_LEVELS_MAX)
        except json_text.UnfitJson:
            parsed = None
        if not isinstance(parsed, dict):
            raise _unexpected(where, f"HTTP status {status} without a JSON object")
        return Answer(status, parsed)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[str, int, bytes]:
        """Where it was asked, the answer's status, and its body."""
        way = self._ways(right_for(path.partition("?")[0])) or WayIn(self._http)
        where = str(way.door)
        connection = self._connections.get(way.door) or self._open(way.door)
        self._connections[way.door] = connection
        _leave_closed(connection)
        headers = {"content-type": "application/json"} if body is not None else {}
        if way.token:
            headers["authorization"] = f"Bearer {way.token}"
        if connection.sock is None:
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                raise _unreachable(where, error) from error
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            connection.close()
            if isinstance(error, ConnectionError | http.client.IncompleteRead):
                raise _unanswered(where, error) from error
            raise _unexpected(where, type(error).__name__) from error
        except OSError as error:
            connection.close()
            raise _unanswered(where, error) from error
        return where, response.status, content

    def _refusal(self, answer: Answer) -> BackhaulError:
        error = answer.body.get("error")
        if not isinstance(error, Mapping) or not CODE_PATTERN.fullmatch(str(error.get("code"))):
            return _unexpected(str(self._http), f"HTTP status {answer.status} without an error code")
        details, retry_after_s = error.get("details"), error.get("retry_after_s")
        return BackhaulError(
            str(error["code"]),
            str(error.get("message", "")),
            str(error.get("hint", "")),
            kind=_KIND_OF_STATUS.get(answer.status),
            details=details if isinstance(details, Mapping) else None,
            retry_after_s=retry_after_s if isinstance(retry_after_s, int | float) else None,
        )


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        self.sock = sock


def _leave_closed(connection: http.client.HTTPConnection) -> None:
    """A kept connection has nothing to read, unless the service closed it while it was idle."""
    sock = connection.sock
    if sock is not None and select.select([sock], [], [], 0)[0]:
        connection.close()


def _unreachable(where: str, error: OSError) -> BackhaulError:
    return BackhaulError(
        "cli.service_unreachable",
        f"no service answers on {where}: {reason_of(error)}",
        "is it running? this command asks it at http_host and http_port, or at the door of its right",
        kind=ErrorKind.UNAVAILABLE,
    )


def _unanswered(where: str, error: Exception) -> BackhaulError:
    return BackhaulError(
        "cli.no_answer",
        f"{where} took the request and did not answer: {getattr(error, 'strerror', None) or error}",
        "whether it was done is not known: look before asking again",
        kind=ErrorKind.UNAVAILABLE,
    )


def _unexpected(where: str, what: str) -> BackhaulError:
    return BackhaulError(
        "cli.unexpected_answer",
        f"what answers on {where} is not this service: {what}",
        "look at http_host and http_port, and at what else uses the port",
    )


def path_segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")
