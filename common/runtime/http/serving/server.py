"""Serves an ASGI application over HTTP/1.1 on trio.

`serve_http` listens while its block runs; leaving the block stops accepting, lets requests that are begun
finish within a deadline, and cuts the rest. One broken or slow client costs its own connection only: whatever
a connection raises ends in one log line, writes have a timeout, and the number of connections is bounded.
Plain HTTP/1.1 on purpose: no upgrade to HTTP/2 or WebSocket reaches the application.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import orjson
import trio
from starlette.types import ASGIApp

from common import unix_sockets
from common.core.errors import BackhaulError, ConfigurationError, reason_of
from common.runtime.http.promptly import AnswersPromptly
from common.runtime.http.serving.connection import HttpConnection
from common.runtime.http.serving.plain_requests import KnownHeads, known_heads
from common.runtime.logs.fields import leaf_errors
from common.runtime.logs.setup import get_logger

log = get_logger()

_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


@asynccontextmanager
async def serve_http(
    app: ASGIApp, host: str, port: int, *, connections_max: int = 256, drain_s: float = 3.0
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the bound port (`port` 0 takes a free one).

    Raises `ConfigurationError` when the address cannot be listened on.
    """
    listeners = await _listen(host, port)
    async with _serving(listeners, _Server(app, connections_max), drain_s):
        yield listeners[0].socket.getsockname()[1]


@asynccontextmanager
async def serve_http_socket(
    app: ASGIApp,
    path: Path,
    *,
    mode: int,
    uids: frozenset[int],
    connections_max: int = 256,
    drain_s: float = 3.0,
) -> AsyncIterator[None]:
    """As `serve_http`, on a Unix socket of this file mode; with `uids`, only processes of these users are answered.

    A socket that a process left behind is replaced; one that is listened on, and any other file, is not.
    """
    listener = await _listen_on(path, mode)
    try:
        async with _serving([listener], _Server(app, connections_max, uids), drain_s):
            yield
    finally:
        os.unlink(path)


@asynccontextmanager
async def _serving(listeners: list[trio.SocketListener], server: _Server, drain_s: float) -> AsyncIterator[None]:
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, server.handle, listeners, handler_nursery=connections))
            yield
            accepting.cancel_scope.cancel()
        server.drain()
        connections.cancel_scope.deadline = trio.current_time() + drain_s


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ConfigurationError(
            "http.cannot_listen",
            f"cannot listen on {host}:{port}: {reason_of(error)}",
            "is another process using the port? set http_host and http_port",
        ) from error
    if port == 0:  # a name with two addresses would get two different ports: keep the first
        for spare in listeners[1:]:
            await spare.aclose()
        del listeners[1:]
    return listeners


async def _listen_on(path: Path, mode: int) -> trio.SocketListener:
    try:
        return await unix_sockets.listen_on(path, mode)
    except OSError as error:
        raise ConfigurationError(
            "http.cannot_listen",
            f"cannot listen on {path}: {reason_of(error)}",
            "does another process listen there? the folder must exist, and the path have at most 100 characters",
        ) from error


class _Server:
    """What the connections of one listener share. `uids`: the users that a Unix socket answers; empty for all."""

    def __init__(self, app: ASGIApp, connections_max: int, uids: frozenset[int] = frozenset()) -> None:
        self._app = app
        self._connections_max = connections_max
        self._uids = uids
        self._open: set[HttpConnection] = set()
        self._known = _heads_known_to(app)

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Never raises for what a client or a handler did."""
        if len(self._open) >= self._connections_max:
            log.warning("http.connection_refused", connections_max=self._connections_max, repeat_key="")
            return
        client = None
        if stream.socket.family == trio.socket.AF_UNIX:
            uid = unix_sockets.uid_of(stream.socket)
            client = (unix_sockets.name_of(uid), 0)
            if not unix_sockets.is_answered(uid, self._uids):
                return
        try:
            connection = HttpConnection(self._app, stream, _refuse, client, self._known)
        except OSError:
            return  # gone before it was accepted
        self._open.add(connection)
        try:
            await connection.run()
        except Exception as error:
            if not all(isinstance(leaf, _GONE) for leaf in leaf_errors(error)):
                log.error("http.connection_failed", exc_info=error)
        finally:
            self._open.discard(connection)

    def drain(self) -> None:
        """Close idle connections now and busy ones after their answer."""
        for connection in self._open:
            connection.end_when_idle()


def _heads_known_to(app: object) -> KnownHeads | None:
    return known_heads(app) if isinstance(app, AnswersPromptly) else None


def _refuse(peer: str, status: int, is_two_lengths: bool) -> bytes:
    """The body of the answer to what is no request, and a line about it."""
    error = (
        BackhaulError(
            "http.two_lengths",
            "the request has both Transfer-Encoding and Content-Length",
            "send one of them; look for a proxy in between that adds the other",
        )
        if is_two_lengths
        else BackhaulError("http.malformed_request", "this is not an HTTP/1.1 request", "speak HTTP/1.1")
    )
    log.warning("http.malformed", peer=peer, status=status, code=error.code, repeat_key=peer)
    return orjson.dumps({"error": error.as_dict()})
