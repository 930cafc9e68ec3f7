"""One HTTP/1.1 connection of an ASGI application, with h11 for the wire: a request at a time, each in the connection's task.

    IDLE ── head of a request ──> BUSY ── whole answer, whole body read ──> IDLE
    IDLE ── end, reset, silence, ending ──> CLOSED
    BUSY ── answer while ending, or with part of the body unread ──> CLOSED
    any ── what is no request ──> refused ──> CLOSED

A task for each request, and queues between it and its connection, cost as much as the rest of a small request. So the
application reads its body from the socket and writes its answer to it; requests that are sent ahead wait in the kernel.

What is between requests is read by `PlainRequests`, which serves those that need neither h11 nor ASGI, as if they had not
been there; the bytes of any other are h11's, from the first on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message, Scope

from common.runtime.http.serving.plain_requests import KEEP_ALIVE_S, READ_BYTES, KnownHeads, PlainRequests, http_date

Refuse: TypeAlias = Callable[[str, int, bool], bytes]
"""The JSON body of a refusal, from the peer's host, the status, and whether two headers contradict each other on the length."""

SEND_TIMEOUT_S: Final = 20.0
_HEAD_MAX_BYTES: Final = 16 * 1024
_LENGTHS: Final = {b"transfer-encoding", b"content-length"}
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_DISCONNECT: Final[Message] = {"type": "http.disconnect"}
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class HttpConnection:
    """``run`` is its task. ``client`` is who is at the other end of a Unix socket, which has no address; ``known`` has the
    heads of requests that need no ASGI."""

    def __init__(
        self,
        app: ASGIApp,
        stream: trio.SocketStream,
        refuse: Refuse,
        client: tuple[str, int] | None = None,
        known: KnownHeads | None = None,
    ) -> None:
        """Raises OSError if the peer is gone already."""
        self._app = app
        self._stream = stream
        self._refuse = refuse
        self._client = client or stream.socket.getpeername()[:2]
        self._server = stream.socket.getsockname()[:2]
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX_BYTES)
        self._plain = PlainRequests(stream, known, self.write)
        self._waiting = trio.CancelScope()
        self._is_idle = True
        self.is_ending = False
        """No request is taken after the one under way."""

    async def run(self) -> None:
        """Serve requests until either end has enough. Raises what the application raises."""
        try:
            while (request := await self._next_request()) is not None:
                exchange = _Exchange(self, self._http, request)
                await exchange.run(self._app, self._scope(request))
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        finally:
            await trio.aclose_forcefully(self._stream)

    def end_when_idle(self) -> None:
        """Close: at once between requests, else after the answer."""
        self.is_ending = True
        self._plain.end_when_idle()
        if self._is_idle:
            self._waiting.cancel()

    async def write(self, data: bytes) -> bool:
        """Send it; False when the peer is gone or takes nothing: the connection is closed then, half an answer may be out."""
        try:
            with trio.fail_after(SEND_TIMEOUT_S):
                await self._stream.send_all(data)
        except (*_GONE, trio.TooSlowError):
            await trio.aclose_forcefully(self._stream)
            return False
        return True

    async def read(self) -> bool:
        """Hand the next bytes, or the end, to h11; False when the connection is gone."""
        try:
            self._http.receive_data(await self._stream.receive_some(READ_BYTES))
        except _GONE:
            return False
        return True

    async def _next_request(self) -> h11.Request | None:
        self._is_idle = True
        if self.is_ending:
            return None
        if self._http.trailing_data[0]:
            self._plain.idle_since_s = trio.current_time()  # what was sent ahead passes `until_other` by
        else:
            data = await self._plain.until_other()
            if data is None:
                return None
            self._http.receive_data(data)
        request, status, is_two_lengths = None, 0, False
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
        else:
            request = event if isinstance(event, h11.Request) else None
        self._is_idle = False
        if request is not None and {name for name, _ in request.headers} >= _LENGTHS:
            # h11 believes one of the two, a proxy in between maybe the other.
            request, status, is_two_lengths = None, 400, True
        if status:
            await self.refuse(status, is_two_lengths=is_two_lengths)
        return request

    async def _next_event(self) -> object:
        """The next of h11's events, between requests; None after too long a silence, or when the connection is gone or ends."""
        event = self._http.next_event()
        if event is not h11.NEED_DATA:
            return event
        with trio.CancelScope(deadline=self._plain.idle_since_s + KEEP_ALIVE_S) as self._waiting:
            while event is h11.NEED_DATA and await self.read():
                event = self._http.next_event()
        return event

    async def refuse(self, status: int, *, is_two_lengths: bool = False) -> None:
        """Answer what is no request, or no longer one, and close."""
        await self.answer(status, self._refuse(self._client[0], status, is_two_lengths))

    async def answer(self, status: int, body: bytes) -> None:
        """An answer of the connection's own, in JSON, after which it is closed."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"date", http_date()),
        ]
        parts = h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
        await self.write(b"".join(self._http.send(part) or b"" for part in parts))

    def _scope(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._client,
            "server": self._server,
        }


class _Exchange:
    """One request and its answer: the ``receive`` and ``send`` of the application."""

    def __init__(self, connection: HttpConnection, http: h11.Connection, request: h11.Request) -> None:
        self._connection = connection
        self._http = http
        self._has_body = request.method != b"HEAD"
        self._head: h11.Response | None = None
        self._is_read = self._is_gone = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have it answered. What the application raises goes on, after an answer 500 if it had not begun one."""
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            if not self._is_gone:
                await self._connection.answer(500, b"")
            raise
        with suppress(h11.RemoteProtocolError):
            # What has come of a body that was not asked for; a body of no bytes has an end too.
            while self._http.their_state is h11.SEND_BODY and isinstance(self._http.next_event(), h11.Data):
                pass

    async def _receive(self) -> Message:
        if self._is_read:
            await self._until_gone()
        if self._is_gone:
            return _DISCONNECT
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._connection.write(self._http.send(go_on) or b"")
        parts: list[bytes] = []
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._is_read = True
                    return {"type": "http.request", "body": b"".join(parts), "more_body": False}
                elif parts:
                    return {"type": "http.request", "body": b"".join(parts), "more_body": True}
                elif event is not h11.NEED_DATA or not await self._connection.read():
                    break
        except h11.RemoteProtocolError as error:
            if not self._http.trailing_data[1]:  # it has not left in the middle, its chunks are none
                await self._connection.refuse(error.error_status_hint)
        self._is_gone = True
        return _DISCONNECT

    async def _until_gone(self) -> None:
        """Until the client leaves. Of what it sends ahead one read is taken: the rest waits in the kernel."""
        if not self._is_gone and await self._connection.read() and not self._http.trailing_data[1]:
            await trio.sleep_forever()
        self._is_gone = True

    async def _send(self, message: Message) -> None:
        """Write it, with the head held back until the body begins; nothing when the client is gone."""
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", http_date())]
            if self._connection.is_ending:
                headers.append((b"connection", b"close"))
            self._head = h11.Response(status_code=message["status"], headers=headers)
            return
        parts: list[h11.Event] = [] if self._head is None else [self._head]
        self._head = None
        if self._has_body and (body := message.get("body")):
            parts.append(h11.Data(data=body))
        if not message.get("more_body", False):
            parts.append(h11.EndOfMessage())
        if self._is_gone:
            return
        data = b"".join([self._http.send(part) or b"" for part in parts])
        self._is_gone = bool(data) and not await self._connection.write(data)
