"""How a command asks the running service: JSON over HTTP on the address the service's own settings name.

Synchronous and light, so that `healthcheck` costs little more than starting Python. An error the service answers with
comes out as the same `BackhaulError`; a service that cannot be reached is `cli.service_unreachable`, and something
else on the port `cli.unexpected_answer`.
"""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from common.core.errors import CODE_PATTERN, BackhaulError, ErrorKind
from common.core.events import json_text

# Where to find a service that listens on every address.
# Payloads are printed as they came: big numbers, long decimals and repeated keys included.
_ANSWER_VISITS: Final = json_text.Visits(raw="payload", within=frozenset({"events", "event"}))
_ANSWER_LEVELS_MAX: Final = 1_000
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON object of an answer, and its HTTP status."""

    status: int
    body: dict[str, Any]


class ServiceClient:
    """One connection to one service, opened again when the service has closed it."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        if port == 0:
            raise BackhaulError(
                "cli.port_unknown",
                "http_port is 0, so the service took a free port",
                "name it with --http-port; the service's log line service.ready has it",
            )
        self._where = f"{host}:{port}"
        self._connection = http.client.HTTPConnection(_LOOPBACK_OF.get(host, host), port, timeout=timeout_s)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

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

    def post_bytes(self, path: str, body: bytes) -> dict[str, Any]:
        """As `get`, with JSON that is written already."""
        return self._accepted("POST", path, body)

    def _accepted(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        answer = self.ask(method, path, body)
        if answer.status < 400:
            return answer.body
        raise self._told(answer)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Any answer in JSON, errors included."""
        self._leave_closed_connection()
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            self._connection.close()
            if isinstance(error, ConnectionError):  # closed without an answer
                raise self._unreachable(error) from error
            raise self._unexpected(type(error).__name__) from error
        except OSError as error:
            self._connection.close()
            raise self._unreachable(error) from error
        try:
            parsed = json_text.keep_raw(content, json_text.read(content, _ANSWER_LEVELS_MAX), _ANSWER_VISITS)
        except json_text.UnfitJson:
            parsed = None
        if not isinstance(parsed, dict):
            raise self._unexpected(f"HTTP status {response.status} without a JSON object")
        return Answer(response.status, parsed)

    def _leave_closed_connection(self) -> None:
        """A kept connection has nothing to read, unless the service closed it while it was idle."""
        socket = self._connection.sock
        if socket is not None and select.select([socket], [], [], 0)[0]:
            self._connection.close()

    def _told(self, answer: Answer) -> BackhaulError:
        error = answer.body.get("error")
        if not isinstance(error, Mapping) or not CODE_PATTERN.fullmatch(str(error.get("code"))):
            return self._unexpected(f"HTTP status {answer.status} without an error code")
        details = error.get("details")
        return BackhaulError(
            str(error["code"]),
            str(error.get("message", "")),
            str(error.get("hint", "")),
            details=details if isinstance(details, Mapping) else None,
        )

    def _unreachable(self, error: OSError) -> BackhaulError:
        return BackhaulError(
            "cli.service_unreachable",
            f"no service answers on {self._where}: {error.strerror or error}",
            "is it running? this command asks it at http_host and http_port",
            kind=ErrorKind.UNAVAILABLE,
        )

    def _unexpected(self, what: str) -> BackhaulError:
        return BackhaulError(
            "cli.unexpected_answer",
            f"what answers on {self._where} is not this service: {what}",
            "look at http_host and http_port, and at what else uses the port",
        )


def path_segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")
