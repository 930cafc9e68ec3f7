"""HTTP as programs beside a service speak it (demo, crash tests): JSON over one kept connection, in trio.

An answer that does not come is `Unanswered`: nobody knows whether the service did what was asked. A connection that
broke is opened again by the next request, at the address of that time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson
import trio

_ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
_RECEIVE_BYTES: Final = 64 * 1024


class Answer(NamedTuple):
    """Status and JSON object of an answer."""

    status: int
    body: dict[str, Any]


class Unanswered(Exception):
    """No answer came."""


class HttpClient:
    """One connection to one service, for one task. ``port`` is asked before each connection: 0 means it is not up."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None

    async def get(self, path: str) -> Answer:
        """Raises Unanswered."""
        return await self._ask("GET", path, b"", "")

    async def post(self, path: str, body: object, *, key: str = "") -> Answer:
        """Send JSON, under an idempotency key if there is one. Raises Unanswered."""
        return await self._ask("POST", path, orjson.dumps(body), f"idempotency-key: {key}\r\n" if key else "")

    async def put(self, path: str, body: object) -> Answer:
        """Send JSON. Raises Unanswered."""
        return await self._ask("PUT", path, orjson.dumps(body), "")

    def close(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _ask(self, method: str, path: str, body: bytes, headers: str) -> Answer:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{headers}\r\n"
        )
        is_whole = False
        try:
            stream = self._stream or await self._connect()
            await stream.send_all(head.encode() + body)
            answer = await self._answer(stream)
            is_whole = True
            return answer
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Unanswered(str(error) or type(error).__name__) from error
        finally:
            if not is_whole:  # what comes next on this connection belongs to nobody
                self.close()

    async def _connect(self) -> trio.SocketStream:
        port = self._port()
        if not port:
            raise ConnectionRefusedError("the service is not up")
        self._stream = await trio.open_tcp_stream("127.0.0.1", port)
        return self._stream

    async def _answer(self, stream: trio.SocketStream) -> Answer:
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            await self._receive(stream, received)
        first, *lines = received[:end].decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", "0"))
        while len(received) < end + 4 + length:
            await self._receive(stream, received)
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split()[1]), orjson.loads(bytes(received[end + 4 : end + 4 + length]) or b"{}"))

    @staticmethod
    async def _receive(stream: trio.SocketStream, received: bytearray) -> None:
        data = await stream.receive_some(_RECEIVE_BYTES)
        if not data or len(received) > _ANSWER_BYTES_MAX:
            raise ConnectionResetError("the connection ended before the answer did")
        received += data
