"""The serving end: accepts connections within bounds, runs one trio task per call, and stops within a deadline.

A peer can only hurt itself: what never says HTTP/2 is dropped after `settle_timeout_s`, garbage drops its own
connection, a handler's unknown error is answered as INTERNAL and logged once. Lines that a stranger can
provoke name a `repeat_key`, by which the log keeps them rare.
"""

from __future__ import annotations

import contextvars
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from common import border, unix_sockets
from common.core.errors import ConfigurationError, reason_of
from common.core.policy.identity import IdentityRule
from common.transport.grpc import tcp
from common.transport.grpc.calls import CallService, ConnectionCalls
from common.transport.grpc.prompt_methods import PromptMethods
from common.transport.grpc.protocol import WireProtocol
from common.transport.grpc.tls import ServerContext, TlsFiles, handshake_reason
from common.transport.grpc.wire import WireLimits
from common.transport.stream import Methods, PeerGone

log = structlog.get_logger()

_STREAMS_MAX = 100  # calls at a time on one connection
_NO_MORE_SOCKETS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@asynccontextmanager
async def serve_grpc(
    methods: Methods,
    *,
    host: str,
    port: int,
    tls: TlsFiles | None,
    message_max_bytes: int,
    connections_max: int,
    window_bytes: int = 1024 * 1024,
    user_timeout_s: float = 30.0,
    settle_timeout_s: float = 10.0,
    close_timeout_s: float = 2.0,
) -> AsyncIterator[int]:
    """Serve `methods` (by path, `/package.Service/Method`) and yield the port; port 0 takes a free one.

    With `tls` the peer must show a certificate of the given CA. `window_bytes` is what a peer may send ahead
    of a handler's reading; a connection that has not spoken HTTP/2 after `settle_timeout_s` is dropped.
    Leaving stops accepting, cancels what handlers still run (their peers get `link.stopping`), and
    aborts whatever has not ended after `close_timeout_s`. Draining comes before that and is the
    application's. Raises ConfigurationError: `listen.failed`, `tls.files_unreadable`.
    """
    context = ServerContext(tls, _log_reload) if tls else None
    listeners = await _listen(host, port)
    limits = WireLimits(message_max_bytes, window_bytes, _STREAMS_MAX, user_timeout_s)
    bounds = _Bounds(limits, connections_max, settle_timeout_s, close_timeout_s)
    async with _serving(listeners, methods, bounds, tls=context, identity=tls.identity if tls else IdentityRule()):
        yield listeners[0].socket.getsockname()[1]


@asynccontextmanager
async def serve_grpc_socket(
    methods: Methods,
    *,
    path: Path,
    mode: int,
    uids: frozenset[int],
    message_max_bytes: int,
    connections_max: int,
    window_bytes: int = 1024 * 1024,
    settle_timeout_s: float = 10.0,
    close_timeout_s: float = 2.0,
) -> AsyncIterator[None]:
    """As `serve_grpc`, on a Unix socket of this file mode; with `uids`, only processes of these users are answered."""
    try:
        listener = await unix_sockets.listen_on(path, mode)
    except OSError as error:
        raise ConfigurationError(
            "listen.failed",
            f"cannot listen on {path}: {reason_of(error)}",
            "does another process listen there? the folder must exist, and the path have at most 100 characters",
        ) from error
    limits = WireLimits(message_max_bytes, window_bytes, _STREAMS_MAX, user_timeout_s=0)
    bounds = _Bounds(limits, connections_max, settle_timeout_s, close_timeout_s)
    try:
        async with _serving([listener], methods, bounds, tls=None, identity=IdentityRule(), uids=uids):
            yield
    finally:
        os.unlink(path)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a server holds its connections to."""

    limits: WireLimits
    connections_max: int
    settle_timeout_s: float
    close_timeout_s: float


@asynccontextmanager
async def _serving(
    listeners: list[trio.SocketListener],
    methods: Methods,
    bounds: _Bounds,
    *,
    tls: ServerContext | None,
    identity: IdentityRule,
    uids: frozenset[int] = frozenset(),
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        server = _Server(methods, bounds, tls=tls, identity=identity, uids=uids, start_soon=nursery.start_soon)
        try:
            for listener in listeners:
                nursery.start_soon(server.accept, listener)
            yield
        finally:
            for listener in listeners:
                listener.socket.close()
            with trio.CancelScope(shield=True):
                await server.close(bounds.close_timeout_s)
            nursery.cancel_scope.cancel()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            "listen.failed",
            f"cannot listen on {host}:{port}: {reason_of(error)}",
            "is another process on this port, or the address not of this machine?",
        ) from error
    if port == 0:  # each address of a name would get a port of its own
        for surplus in listeners[1:]:
            surplus.socket.close()
        del listeners[1:]
    return listeners


class _Server:
    """What the connections of one server share. The nursery stays with `serve_grpc`, which lends `start_soon`."""

    def __init__(
        self,
        methods: Methods,
        bounds: _Bounds,
        *,
        tls: ServerContext | None,
        identity: IdentityRule,
        uids: frozenset[int],
        start_soon: Callable[..., None],
    ) -> None:
        self._limits = limits = bounds.limits
        self._tls = tls
        self._identity = identity
        self._uids = uids
        self._connections_max = bounds.connections_max
        self._settle_timeout_s = bounds.settle_timeout_s
        self._start_soon = start_soon
        # Handlers start from connections' callbacks; their log context is the server's, not the callback's.
        self._context = contextvars.copy_context()
        prompt_methods = PromptMethods(methods, limits.message_max_bytes)
        self._service = CallService(methods, prompt_methods, limits.streams_max, self._start_call)
        self._connecting = 0
        self._connections: dict[ConnectionCalls, WireProtocol] = {}

    def _start_call(self, run: Callable[..., object], *args: object) -> None:
        self._context.copy().run(self._start_soon, run, *args)

    async def accept(self, listener: trio.SocketListener) -> None:
        """Accept connections until cancelled; beyond the bound, or without sockets to spare, refuse and say so."""
        while True:
            try:
                accepted, name = await listener.socket.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno in _NO_MORE_SOCKETS:
                    log.warning("grpc.accept_failed", reason=error.strerror, repeat_key=str(error.errno))
                    await trio.sleep(0.1)
                continue  # else the peer was gone before we looked
            sock = socket.socket(fileno=accepted.detach())
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX and not unix_sockets.is_answered(unix_sockets.uid_of(sock), self._uids):
                sock.close()
                continue
            peer = tcp.peer_of(sock, name)
            if len(self._connections) + self._connecting >= self._connections_max:
                log.warning(
                    "grpc.connection_refused",
                    peer=peer,
                    connections_max=self._connections_max,
                    repeat_key="connection",
                )
                tcp.reset_on_close(sock)
                sock.close()
                continue
            self._connecting += 1
            self._start_soon(self._settle, sock, peer)

    async def _settle(self, sock: socket.socket, address: str) -> None:
        """Bring one connection to the point where it has shown to speak HTTP/2, or drop it."""
        calls = ConnectionCalls(self._service)
        protocol = WireProtocol(
            calls,
            self._limits,
            is_client=False,
            identity=self._identity,
            whole=calls,
            on_read=calls.begin,
            on_lost=lambda: self._forget(calls),
        )
        try:
            try:
                tcp.set_options(sock, user_timeout_s=self._limits.user_timeout_s)
                context = self._tls.current() if self._tls else None
                await border.adopt_socket(
                    lambda: protocol,
                    sock,
                    tls=context,
                    server_hostname=None,
                    handshake_timeout_s=self._settle_timeout_s,
                )
            finally:
                self._connecting -= 1
        except OSError as error:
            reason = handshake_reason(error) if isinstance(error, ssl.SSLError) else reason_of(error)
            kind = getattr(error, "verify_code", error.errno)  # the reason itself may have a clock in it
            log.warning("grpc.handshake_failed", peer=address, reason=reason, repeat_key=f"{_host(address)} {kind}")
            return
        if not protocol.lost.is_set():
            self._connections[calls] = protocol
            with trio.move_on_after(self._settle_timeout_s):
                await protocol.settled.wait()
        if not protocol.is_settled:
            self._drop_stranger(protocol, address)

    def _drop_stranger(self, protocol: WireProtocol, address: str) -> None:
        fault = protocol.connection.fault
        if fault is None:
            fault = PeerGone("link.garbage", f"no HTTP/2 within {self._settle_timeout_s} s")
            protocol.connection.abort(fault)
        if fault.code == "link.garbage":
            log.warning("grpc.garbage", peer=address, reason=fault.message, repeat_key=_host(address))

    def _forget(self, calls: ConnectionCalls) -> None:
        protocol = self._connections.pop(calls, None)
        if protocol is not None and protocol.is_settled:
            fault = protocol.connection.fault
            if fault is not None and fault.code == "link.garbage":
                address = protocol.connection.peer.address
                log.warning("grpc.garbage", peer=address, reason=fault.message, repeat_key=_host(address))

    async def close(self, timeout_s: float) -> None:
        """Cancel all calls, wait for them and for what they wrote, then abort what is left. Call it shielded."""
        self._service.is_closing = True
        deadline = trio.current_time() + timeout_s
        left = list(self._connections.items())
        for calls, _ in left:
            calls.cancel_all()
        with trio.move_on_at(deadline):
            for calls, _ in left:
                await calls.ended.wait()
        async with trio.open_nursery() as nursery:
            for _, protocol in left:
                nursery.start_soon(protocol.close, max(0.0, deadline - trio.current_time()))


def _log_reload(error: ConfigurationError | None) -> None:
    if error is None:
        log.info("grpc.certificates_reloaded")
    else:
        log.error("grpc.certificates_unreadable", code=error.code, reason=error.message)


def _host(address: str) -> str:
    """The host of `host:port`: a stranger that comes back has another port."""
    return address.rpartition(":")[0]
