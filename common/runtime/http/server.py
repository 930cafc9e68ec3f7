"""Serves an ASGI application over HTTP/1.1 on trio, with hypercorn's protocol and our own lifetimes.

`serve_http` listens while its block runs; leaving the block stops accepting, lets requests that are begun
finish within a deadline, and cuts the rest. One broken or slow client costs its own connection only: whatever
a connection raises ends in one log line, writes have a timeout, and the number of connections is bounded.
Plain HTTP/1.1 on purpose: no upgrade to HTTP/2 or WebSocket reaches the application.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import h11
import orjson
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from common.core.errors import BackhaulError, ConfigurationError
from common.runtime.logs.fields import leaf_errors
from common.runtime.logs.setup import get_logger

log = get_logger()

H11Sendable = h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage

_KEEP_ALIVE_S: Final = 60.0
_SEND_TIMEOUT_S: Final = 20.0
_HEADERS_MAX_BYTES: Final = 16 * 1024
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


@asynccontextmanager
async def serve_http(
    app: ASGIApp, host: str, port: int, *, connections_max: int = 256, drain_s: float = 3.0
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the bound port (`port` 0 takes a free one).

    Raises `ConfigurationError` when the address cannot be listened on.
    """
    listeners = await _listen(host, port)
    server = _Server(app, connections_max)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, server.handle, listeners, handler_nursery=connections))
            yield listeners[0].socket.getsockname()[1]
            accepting.cancel_scope.cancel()
        await server.drain()
        connections.cancel_scope.deadline = trio.current_time() + drain_s


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ConfigurationError(
            "http.cannot_listen",
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            "is another process using the port? set http_host and http_port",
        ) from error
    if port == 0:  # a name with two addresses would get two different ports: keep the first
        for spare in listeners[1:]:
            await spare.aclose()
        del listeners[1:]
    return listeners


class _Server:
    """What the connections of one listener share."""

    def __init__(self, app: ASGIApp, connections_max: int) -> None:
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # hypercorn types ASGI messages one by one
        self._connections_max = connections_max
        self._open: set[_Connection] = set()
        self._config = Config()
        self._config.logger_class = _HypercornLog  # type: ignore[assignment]  # it needs these two methods
        self._config.include_server_header = False
        self._config.keep_alive_max_requests = 2**62
        self._config.h11_max_incomplete_size = _HEADERS_MAX_BYTES

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Never raises for what a client or a handler did."""
        if len(self._open) >= self._connections_max:
            log.warning("http.connection_refused", connections_max=self._connections_max, repeat_key="")
            return
        connection = _Connection(
            self._app,
            self._config,
            self._context,
            ConnectionState({}),
            stream,  # type: ignore[arg-type]  # declared as TLS; hypercorn itself asks which it is
        )
        self._open.add(connection)
        try:
            await connection.run()
        except Exception as error:
            if not all(isinstance(leaf, _GONE) for leaf in leaf_errors(error)):
                log.error("http.connection_failed", exc_info=error)
        finally:
            self._open.discard(connection)

    async def drain(self) -> None:
        """Close idle connections now and busy ones after their answer."""
        await self._context.terminated.set()
        for connection in self._open:
            connection.end_when_idle()


class _Connection(TCPServer):
    """hypercorn's connection without TLS and HTTP/2.

    Idle time is a deadline on the read instead of a task that is restarted with each request, which costs
    as much as the rest of it; and a write that takes too long cuts the connection.
    """

    _reading = trio.CancelScope()

    async def run(self) -> None:
        socket = self.stream.socket
        client, server = socket.getpeername()[:2], socket.getsockname()[:2]
        self._reading = trio.CancelScope(deadline=trio.current_time() + _KEEP_ALIVE_S)
        self._is_idle = True
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
                self._reading.deadline = trio.current_time() + _KEEP_ALIVE_S if idle else math.inf
            case Closed():
                await self._close()
                await self.protocol.handle(event)

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                with trio.fail_after(_SEND_TIMEOUT_S):
                    await self.stream.send_all(data)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(self.stream)  # half an answer may be out: nothing can follow it
        await self.protocol.handle(Closed())


class _Protocol(H11Protocol):
    """hypercorn's HTTP/1.1 that keeps to HTTP/1.1, answers garbage in JSON, and answers in one write."""

    _held_head = b""

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
        peer = self.client[0] if self.client else ""
        log.warning("http.malformed", peer=peer, status=status_code, repeat_key=peer)
        error = BackhaulError("http.malformed_request", "this is not an HTTP/1.1 request", "speak HTTP/1.1")
        body = orjson.dumps({"error": error.as_dict()})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _HypercornLog:
    """What hypercorn wants to log: nothing of each request, everything that went wrong."""

    def __init__(self, _config: Config) -> None:
        pass

    async def access(self, *_: object) -> None:
        """Requests are not logged one by one."""

    async def exception(self, message: str, *_: object) -> None:
        """Called inside the `except` block of what failed."""
        log.exception("http.connection_failed", reason=message)
