"""An edge's HTTP door as cheaply as a client can be: the load must not be what is measured."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import trio

from common.core.events.batch import EventBatch

_JSON = "content-type: application/json\r\n"


class HttpDoor:
    """One kept connection, for one task."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def append(self, body: bytes) -> None:
        """Post events and wait for the answer; anything but 200 or 201 is an error."""
        await self.ask("POST", "/v1/events", body)

    async def ask(self, method: str, path: str, body: bytes) -> bytes:
        """The body of the answer; anything but 200 or 201 is an error."""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{_JSON}content-length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await self._part()
        head_bytes, _, rest = answer.partition(b"\r\n\r\n")
        first, *fields = head_bytes.split(b"\r\n")
        if first.split()[1] not in (b"200", b"201"):
            raise RuntimeError(f"the edge answered {answer[:500]!r}")
        length = next(int(field.split(b":")[1]) for field in fields if field.lower().startswith(b"content-length:"))
        while len(rest) < length:
            rest += await self._part()
        return rest

    async def _part(self) -> bytes:
        part = bytes(await self._stream.receive_some(65_536))
        if not part:
            raise RuntimeError("the edge hung up")
        return part


@asynccontextmanager
async def open_http_door(port: int) -> AsyncIterator[HttpDoor]:
    """Dial the edge on loopback. Raises OSError while it does not listen."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield HttpDoor(stream)


def http_body(events: EventBatch) -> bytes:
    """The same events as JSON."""
    rows = []
    for name, event_type, payload, time_us in zip(
        events.persistence_id, events.event_type, events.payload, events.event_time_us, strict=True
    ):
        entity_type, _, entity_id = name.partition("|")
        row: dict[str, Any] = {
            "entity_type": entity_type,
            "entity_id": entity_id,
            "event_type": event_type,
            "payload": orjson.Fragment(payload),
        }
        if time_us:
            seconds, us = divmod(time_us, 1_000_000)
            row["event_time"] = f"{_instant(seconds)}.{us:06}Z"
        rows.append(row)
    return orjson.dumps({"events": rows})


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
