"""hypercorn's connection and HTTP/1.1 protocol on trio, with our own lifetimes; neither is a documented interface.

Touched: `TCPServer.run` (replaced), `_read_data`, `_close`, `send_lock`, `protocol`; `H11Protocol._create_stream`,
`_check_protocol`, `_send_h11_event`, `_send_error_response` (overridden). Guard tests: tests/component/runtime/http,
tests/component/private/test_surface.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

from common.private.surface import require, require_used

__all__ = ["ASGIWrapper", "HttpConnection", "WorkerContext"]

require("hypercorn", TCPServer, "_read_data", "_close")
require_used("hypercorn", TCPServer.__init__, "send_lock", "stream", "state")
require_used("hypercorn", TCPServer._read_data, "protocol", "handle")
require("hypercorn", H11Protocol, "_check_protocol", "_create_stream", "_send_h11_event", "_send_error_response")
require_used("hypercorn", H11Protocol._handle_events, "_check_protocol", "_create_stream", "_send_error_response")
require_used("hypercorn", H11Protocol.__init__, "connection", "stream", "client", "send")

H11Sendable = h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
Refuse: TypeAlias = Callable[[str, int, bool], bytes]
"""The JSON body of a refusal, from the peer's host, the status, and whether two headers contradict each other on the length."""

KEEP_ALIVE_S: Final = 60.0
SEND_TIMEOUT_S: Final = 20.0


class HttpConnection(TCPServer):
    """hypercorn's connection without TLS and HTTP/2.

    Idle time is a deadline on the read instead of a task that is restarted with each request, which costs
    as much as the rest of it; and a write that takes too long cuts the connection.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        refuse: Refuse,
        client: tuple[str, int] | None = None,
    ) -> None:
        """`client` is who is at the other end of a Unix socket, which has no address."""
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]  # without TLS
        self._refuse = refuse
        self.client = client
        self._reading = trio.CancelScope()
        self._is_idle = True

    async def run(self) -> None:
        socket = self.stream.socket
        client, server = self.client or socket.getpeername()[:2], socket.getsockname()[:2]
        self._reading = trio.CancelScope(deadline=trio.current_time() + KEEP_ALIVE_S)
        async with TaskGroup() as task_group:
            self.protocol = _Protocol(  # type: ignore[assignment]  # no wrapper: there is one protocol
                self.app,
                self.config,
                self.context,
                task_group,
                ConnectionState(self.state),
                ssl=False,
                client=client,
                server=server,
                send=self.protocol_send,
                refuse=self._refuse,
            )
            with self._reading:
                await self._read_data()
            if self._reading.cancelled_caught:
                await self.protocol.handle(Closed())
        await self._close()

    def end_when_idle(self) -> None:
        """Stop: at once between requests, else after the answer (hypercorn looks at `context.terminated`)."""
        if self._is_idle:
            self._reading.cancel()

    async def protocol_send(self, event: Event) -> None:
        """What the protocol wants done: bytes to send, idle or not, or the end."""
        match event:
            case RawData(data):
                await self._send(data)
            case Updated(idle):
                self._is_idle = idle
                self._reading.deadline = trio.current_time() + KEEP_ALIVE_S if idle else math.inf
            case Closed():
                await self._close()
                await self.protocol.handle(event)

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                with trio.fail_after(SEND_TIMEOUT_S):
                    await self.stream.send_all(data)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(self.stream)  # half an answer may be out: nothing can follow it
        await self.protocol.handle(Closed())


class _Protocol(H11Protocol):
    """hypercorn's HTTP/1.1 that keeps to HTTP/1.1, answers garbage as `refuse` says, and answers in one write."""

    _held_head = b""

    def __init__(self, *args: Any, refuse: Refuse, **kwargs: Any) -> None:  # noqa: ANN401  as hypercorn's
        super().__init__(*args, **kwargs)
        self._refusal = refuse

    async def _create_stream(self, request: h11.Request) -> None:
        """Refuse and close where two headers each say how long the body is: h11 believes one, a proxy maybe the other."""
        if {name.lower() for name, _ in request.headers} >= {b"transfer-encoding", b"content-length"}:
            await self._refuse(400, is_two_lengths=True)
            await self.send(Closed())
        else:
            await super()._create_stream(request)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore every wish to speak another protocol."""

    async def _send_h11_event(self, event: H11Sendable) -> None:
        """Hold the head of an answer back until its body, and write nothing for an end that has no bytes."""
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        data, self._held_head = self._held_head + (data or b""), b""
        if isinstance(event, h11.Response):
            self._held_head = data
        elif data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        await self._refuse(status_code, is_two_lengths=False)

    async def _refuse(self, status: int, *, is_two_lengths: bool) -> None:
        body = self._refusal(self.client[0] if self.client else "", status, is_two_lengths)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
