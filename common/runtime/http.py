"""Serves an ASGI application over HTTP/1.1 on trio, with hypercorn's protocol and our own lifetimes.

`serve_http` listens while its block runs; leaving the block stops accepting, lets requests that are begun
finish within a deadline, and cuts the rest. One broken or slow client costs its own connection only: whatever
a connection raises ends in one log line, writes have a timeout, and the number of connections is bounded.
Plain HTTP/1.1 on purpose: no upgrade to HTTP/2 or WebSocket reaches the application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import h11
import orjson
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from common.core.errors import BackhaulError, ConfigurationError
from common.runtime.log import get_logger
from common.runtime.log_fields import leaf_errors

log = get_logger()

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
            accepting.start_soon(
                partial(trio.serve_listeners, server.handle, listeners, handler_nursery=connections)
            )
            yield listeners[0].socket.getsockname()[1]
            accepting.cancel_scope.cancel()
        await server.context.terminated.set()  # idle connections close at once, busy ones after their answer
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
        self.context = WorkerContext(None)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # hypercorn types ASGI messages one by one
        self._connections_max = connections_max
        self._open = 0
        self._config = Config()
        self._config.logger_class = _HypercornLog  # type: ignore[assignment]  # it needs these two methods
        self._config.include_server_header = False
        self._config.keep_alive_timeout = _KEEP_ALIVE_S
        self._config.keep_alive_max_requests = 2**62
        self._config.h11_max_incomplete_size = _HEADERS_MAX_BYTES

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Never raises for what a client or a handler did."""
        if self._open >= self._connections_max:
            log.warning("http.connection_refused", connections_max=self._connections_max, repeat_key="")
            return
        self._open += 1
        try:
            await _Connection(
                self._app,
                self._config,
                self.context,
                ConnectionState({}),
                stream,  # type: ignore[arg-type]  # declared as TLS; hypercorn itself asks which it is
            ).run()
        except Exception as error:
            if not all(isinstance(leaf, _GONE) for leaf in leaf_errors(error)):
                log.error("http.connection_failed", exc_info=error)
        finally:
            self._open -= 1


class _Connection(TCPServer):
    """hypercorn's connection without TLS and HTTP/2, with a bound on how long a write may take."""

    async def run(self) -> None:
        socket = self.stream.socket
        client, server = socket.getpeername()[:2], socket.getsockname()[:2]
        async with TaskGroup() as task_group:
            self._task_group = task_group
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
            await self.idle_task.restart(task_group, self._idle_timeout)
            await self._read_data()
        await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Like the original, but neither shielded nor without end: a peer that stops reading is cut."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                with trio.fail_after(_SEND_TIMEOUT_S):
                    await self.stream.send_all(event.data)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(self.stream)  # half an answer may be out: nothing can follow it
        await self.protocol.handle(Closed())


class _Protocol(H11Protocol):
    """hypercorn's HTTP/1.1 that keeps to HTTP/1.1 and answers garbage in JSON."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore every wish to speak another protocol."""

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
