"""Answers without end: ``text/event-stream``, as browsers and any HTTP client read it.

A stream ends when its reader leaves, when it takes nothing for as long as the server allows a write, or when the service
stops; a reader comes back with ``Last-Event-ID``. While there is nothing to tell, a comment line keeps it open. How many
may be open at a time is bounded, because each keeps a connection.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.core.errors import BackhaulError

_LINES: Final = re.compile(rb"\r\n|\r|\n")
HEARTBEAT: Final = b": nothing new\n\n"


def as_event(event_id: int, data: bytes) -> bytes:
    """One event of a stream. A line break in JSON is only ever space between its parts: the reader joins the lines."""
    lines = b"".join(b"data: " + line + b"\n" for line in _LINES.split(data))
    return b"id: %d\n%b\n" % (event_id, lines)


class EventStreams:
    """The open streams of one service: at most ``streams_max`` of them."""

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self.open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for one stream.

        Raises:
            BackhaulError: ``http.too_many_streams``.
        """
        if self.open >= self._streams_max:
            raise BackhaulError(
                "http.too_many_streams",
                f"{self.open} live answers are open, as many as are allowed",
                "close one, or ask again and again with wait_s",
                retry_after_s=5.0,
            )
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class EventStreamResponse(Response):
    """Sends what ``pieces`` gives until that ends or the reader leaves; each piece is whole events or comments."""

    media_type = "text/event-stream"

    def __init__(
        self, streams: EventStreams, pieces: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One nursery: this task writes, a child waits for the reader to leave, which cancels the writing."""

        async def write(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        with self._streams.one():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await self._pieces(write)
                nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
