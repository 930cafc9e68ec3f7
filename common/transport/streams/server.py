"""The serving end: accepts connections within bounds, runs one trio task per call, and stops within a deadline.

A peer can only hurt itself: what never says HTTP/2 is dropped after `settle_timeout_s`, garbage drops its own
connection, a handler's unknown error is answered as INTERNAL and logged once. Lines that a stranger can
provoke are throttled, with a count of what was left out.
"""

from __future__ import annotations

import contextvars
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio
from grpclib.metadata import decode_timeout
from grpclib.protocol import AbstractHandler
from h2.errors import ErrorCodes

from common import border
from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.transport.outcome import outcome_of, stopping
from common.transport.stream import (
    Methods,
    PeerClosed,
    PeerGone,
    StreamMethod,
)
from common.transport.streams import tcp
from common.transport.streams.protocol import WireProtocol
from common.transport.streams.status import Headers, trailers_of
from common.transport.streams.tls import ServerContext, TlsFiles
from common.transport.streams.wire import CONTENT_TYPE, WireLimits, WireStream

log = structlog.get_logger()

# At most one line of a kind that strangers can provoke, in this time.
_THROTTLE_S = 10.0
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
    Leaving stops accepting, cancels what handlers still run (their peers are told `link.stopping`), and
    aborts whatever has not ended after `close_timeout_s`. Draining comes before that and is the
    application's. Raises ConfigurationError: `listen.failed`, `tls.files_unreadable`.
    """
    limits = WireLimits(message_max_bytes, window_bytes, 100, user_timeout_s)
    context = ServerContext(tls, _log_reload) if tls else None
    listeners = await _listen(host, port)
    async with trio.open_nursery() as nursery:
        server = _Server(
            methods,
            limits,
            tls=context,
            connections_max=connections_max,
            settle_timeout_s=settle_timeout_s,
            start_soon=nursery.start_soon,
        )
        try:
            for listener in listeners:
                nursery.start_soon(server.accept, listener)
            yield listeners[0].socket.getsockname()[1]
        finally:
            for listener in listeners:
                listener.socket.close()
            with trio.CancelScope(shield=True):
                await server.close(close_timeout_s)
            nursery.cancel_scope.cancel()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            "listen.failed",
            f"cannot listen on {host}:{port}: {error.strerror or error}",
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
        limits: WireLimits,
        *,
        tls: ServerContext | None,
        connections_max: int,
        settle_timeout_s: float,
        start_soon: Callable[..., None],
    ) -> None:
        self.methods = methods
        self.limits = limits
        self.throttle = _Throttle()
        self.is_closing = False
        self._tls = tls
        self._connections_max = connections_max
        self._settle_timeout_s = settle_timeout_s
        self._start_soon = start_soon
        # Handlers start from connections' callbacks; their log context is the server's, not the callback's.
        self._context = contextvars.copy_context()
        self._connecting = 0
        self._connections: dict[_Calls, WireProtocol] = {}

    def start_call(self, run: Callable[..., object], *args: object) -> None:
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
                    self.throttle.warning("grpc.accept_failed", reason=error.strerror)
                    await trio.sleep(0.1)
                continue  # else the peer was gone before we looked
            sock = socket.socket(fileno=accepted.detach())
            sock.setblocking(False)
            if len(self._connections) + self._connecting >= self._connections_max:
                self.throttle.warning(
                    "grpc.connection_refused",
                    peer=tcp.address_of(name),
                    connections_max=self._connections_max,
                )
                tcp.reset_on_close(sock)
                sock.close()
                continue
            self._connecting += 1
            self._start_soon(self._settle, sock, tcp.address_of(name))

    async def _settle(self, sock: socket.socket, address: str) -> None:
        """Bring one connection to the point where it has shown to speak HTTP/2, or drop it."""
        calls = _Calls(self)
        protocol = WireProtocol(
            calls,
            self.limits,
            is_client=False,
            stream_type=ServedStream,
            on_lost=lambda: self._forget(calls),
        )
        try:
            try:
                tcp.set_options(sock, user_timeout_s=self.limits.user_timeout_s)
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
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            self.throttle.warning("grpc.handshake_failed", peer=address, reason=str(reason or error))
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
            self.throttle.warning("grpc.garbage", peer=address, reason=fault.message)

    def _forget(self, calls: _Calls) -> None:
        protocol = self._connections.pop(calls, None)
        if protocol is not None and protocol.is_settled:
            fault = protocol.connection.fault
            if fault is not None and fault.code == "link.garbage":
                self.throttle.warning("grpc.garbage", peer=protocol.connection.peer.address, reason=fault.message)

    async def close(self, timeout_s: float) -> None:
        """Cancel all calls, wait for them and for what they wrote, then abort what is left. Call it shielded."""
        self.is_closing = True
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


class _Calls(AbstractHandler):
    """The calls running on one connection, each with the scope that cancels it. grpclib calls the three methods."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._scopes: dict[ServedStream, trio.CancelScope] = {}
        self.ended = trio.Event()

    def accept(self, stream: object, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, ServedStream)
        if len(self._scopes) >= self._server.limits.streams_max or self._server.is_closing:
            stream.reset_if_open(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        scope = self._scopes[stream] = trio.CancelScope()
        self._server.start_call(self._run, stream, headers, release_stream, scope)

    def cancel(self, stream: object) -> None:
        assert isinstance(stream, ServedStream)
        if stream in self._scopes:
            self._scopes[stream].cancel()

    def close(self) -> None:
        self.cancel_all()

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()
        if not self._scopes:
            self.ended.set()

    async def _run(
        self, stream: ServedStream, headers: Headers, release: Callable[[], None], scope: trio.CancelScope
    ) -> None:
        """Run one call to its trailers, whatever comes out of its handler."""
        outcome: BackhaulError | None = stopping()
        try:
            with scope:
                outcome = await self._answer(stream, dict(headers), scope)
            if scope.cancelled_caught and not self._server.is_closing:
                outcome = PeerGone("link.deadline_exceeded", "the deadline that the caller set has passed")
        finally:
            stream.finish(outcome)
            release()
            del self._scopes[stream]
            if not self._scopes and self._server.is_closing:
                self.ended.set()

    async def _answer(
        self, stream: ServedStream, headers: dict[str, str], scope: trio.CancelScope
    ) -> BackhaulError | None:
        path = headers.get(":path", "")
        try:
            self._check_request(headers)
            if "grpc-timeout" in headers:
                scope.deadline = trio.current_time() + decode_timeout(headers["grpc-timeout"])
            await self._handle(stream, path)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  a handler hurts only its call
            return self._outcome_of(error, stream, path)
        return None

    async def _handle(self, stream: ServedStream, path: str) -> None:
        method = self._server.methods.get(path)
        if method is None:
            raise BackhaulError("link.unknown_method", f"no method {path[:200]}", kind=ErrorKind.NOT_FOUND)
        if isinstance(method, StreamMethod):
            await method.handler(stream)
        else:
            request = await stream.receive()
            await stream.send(await method.handler(request, stream.peer))

    def _check_request(self, headers: dict[str, str]) -> None:
        content_type = headers.get("content-type", "")
        if headers.get(":method") != "POST" or not content_type.startswith("application/grpc"):
            raise BackhaulError("link.not_grpc", f"a gRPC call is a POST of {CONTENT_TYPE}, not {content_type[:80]}")

    def _outcome_of(self, error: BaseException, stream: ServedStream, path: str) -> BackhaulError | None:
        if stream.fault is not None:
            return None  # nobody is left to be told
        warn = self._server.throttle.warning
        return outcome_of(error, peer=stream.peer.address, path=path, warn=warn)


class ServedStream(WireStream):
    """The end of a call that serves it: sends response headers with its first message, trailers at its end."""

    _has_sent_headers = False

    async def send_message(self, message: bytes, *, end: bool = False) -> None:
        if not self._has_sent_headers:
            self._has_sent_headers = True
            self.send_headers_now(_RESPONSE_HEADERS)
        await super().send_message(message, end=end)

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal; a caller that still sends is told to stop."""
        if self.fault is None:
            trailers = trailers_of(outcome)
            self.send_headers_now(trailers if self._has_sent_headers else _RESPONSE_HEADERS + trailers, end=True)
            self.reset_if_open(ErrorCodes.NO_ERROR)

    def _raise_if_over(self) -> None:
        if self.fault is not None:
            raise self.fault
        if self._inbound.is_ended:
            raise PeerClosed


_RESPONSE_HEADERS: Headers = [(":status", "200"), ("content-type", CONTENT_TYPE)]


class _Throttle:
    """Log lines that strangers can provoke: one of a kind in a while, and how many were left out."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, event: str, **fields: object) -> None:
        now = trio.current_time()
        if now < self._quiet_until.get(event, 0.0):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._quiet_until[event] = now + _THROTTLE_S
        log.warning(event, **fields, left_out=self._left_out.pop(event, 0))


def _log_reload(error: ConfigurationError | None) -> None:
    if error is None:
        log.info("grpc.certificates_reloaded")
    else:
        log.error("grpc.certificates_unreadable", code=error.code, reason=error.message)
