"""The network in memory: what simulation and tests under a mock clock run both services on, under trio alone.

`MemoryNetwork` has the two ways in that the real carrier has, `serve` and `open_channel`, with the same
arguments. Each connection can be cut now or after so many messages or bytes, slowed, held (a black hole) and
let go again; there is no chance in here, so a run is as repeatable as the code that plays with these hooks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.transport.link.call_status import outcome_of, stopping
from common.transport.memory.line import MemoryCall, MemoryConnection
from common.transport.memory.streams import WINDOW_BYTES, DialledMemoryStream, ServedMemoryStream
from common.transport.metadata import NO_METADATA, check_metadata
from common.transport.stream import Caller, Methods, PeerClosed, PeerGone, PeerInfo, StreamMethod

# As the real server's: handlers that take longer to end find their connection gone.
_CLOSE_TIMEOUT_S = 2.0


class MemoryChannel:
    """A dialled connection in memory; see `common.transport.stream.Channel`."""

    def __init__(self, connection: MemoryConnection, server: _MemoryServer, message_max_bytes: int) -> None:
        self._connection = connection
        self._server = server
        self._message_max_bytes = message_max_bytes

    @property
    def peer(self) -> PeerInfo:
        return PeerInfo(self._connection.address)

    def abort(self) -> None:
        self._connection.abort(by_server=False)

    @asynccontextmanager
    async def open_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> AsyncIterator[DialledMemoryStream]:
        sent = MappingProxyType(dict(check_metadata(metadata))) if metadata else NO_METADATA
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._connection.fault is not None:
            raise self._connection.fault
        call = self._connection.open_call(WINDOW_BYTES, sent)
        self._server.start_call(path, call)
        try:
            yield DialledMemoryStream(call, self.peer, self._message_max_bytes)
        finally:
            fault = PeerGone("link.reset", "the caller gave up the call")
            call.break_off(fault, dialled=True, served=not self._connection.is_held)
            self._connection.leave_call(call)

    async def unary(
        self, path: str, request: bytes, timeout_s: float, metadata: Mapping[str, str] = NO_METADATA
    ) -> bytes:
        try:
            with trio.fail_after(timeout_s):
                async with self.open_stream(path, metadata) as stream:
                    await stream.send(request)
                    await stream.end()
                    answer = await stream.receive()
                    try:
                        await stream.receive()
                    except PeerClosed:
                        return answer
                    raise PeerGone("link.not_backhaul", f"{path} answered with more than one message")
        except PeerClosed:
            raise PeerGone("link.not_backhaul", f"{path} answered without a message") from None
        except trio.TooSlowError:
            raise PeerGone("link.timeout", f"no answer to {path} within {timeout_s} s") from None


class _MemoryServer:
    """One listening address: starts a task for each call in the nursery of `MemoryNetwork.serve`."""

    def __init__(
        self, methods: Methods, message_max_bytes: int, connections_max: int, start_soon: Callable[..., None]
    ) -> None:
        self.connections_max = connections_max
        self._methods = methods
        self._message_max_bytes = message_max_bytes
        self._start_soon = start_soon
        self._running: list[MemoryCall] = []
        self._is_closing = False
        self._idle = trio.Event()

    def start_call(self, path: str, call: MemoryCall) -> None:
        self._running.append(call)
        self._start_soon(self._run, path, call)

    async def _run(self, path: str, call: MemoryCall) -> None:
        dialler = call.connection.dialler
        stream = ServedMemoryStream(call, dialler, self._message_max_bytes)
        outcome: BackhaulError | None = stopping()
        try:
            with call.scope:
                outcome = await self._answer(path, stream)
        finally:
            stream.finish(outcome)
            call.connection.leave_call(call)
            self._running.remove(call)
            if not self._running and self._is_closing:
                self._idle.set()

    async def _answer(self, path: str, stream: ServedMemoryStream) -> BackhaulError | None:
        try:
            method = self._methods.get(path)
            if method is None:
                raise BackhaulError("link.unknown_method", f"no method {path[:200]}", kind=ErrorKind.NOT_FOUND)
            if isinstance(method, StreamMethod):
                await method.handler(stream)
            else:
                request = await stream.receive()
                await stream.send(await method.handler(request, Caller(stream.peer, stream.metadata)))
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  a handler hurts only its call
            if stream.fault is not None:
                return None
            return outcome_of(error, peer=stream.peer.address, path=path)
        return None

    async def close(self) -> None:
        self._is_closing = True
        for call in self._running:
            call.scope.cancel()
        if self._running:
            with trio.move_on_after(_CLOSE_TIMEOUT_S):
                await self._idle.wait()


class MemoryNetwork:
    """Addresses that can be served and dialled, and the connections between them.

    `on_connect` is called with each new connection before anything is sent on it. An address in `unreachable`
    swallows dials until they time out; one that nobody serves refuses them.
    """

    def __init__(self) -> None:
        self.on_connect: Callable[[MemoryConnection], None] | None = None
        self.unreachable: set[str] = set()
        self.connections: list[MemoryConnection] = []
        self._servers: dict[str, _MemoryServer] = {}
        self._next_port = 50_000

    @asynccontextmanager
    async def serve(
        self,
        methods: Methods,
        *,
        host: str,
        port: int,
        tls: object = None,
        message_max_bytes: int,
        connections_max: int,
    ) -> AsyncIterator[int]:
        """Serve `methods` at `host:port` and yield the port, as `serve_grpc` does; `tls` is not looked at."""
        if port == 0:
            self._next_port += 1
            port = self._next_port
        address = f"{host}:{port}"
        if address in self._servers:
            raise ConfigurationError("listen.failed", f"cannot listen on {address}: it is in use")
        async with trio.open_nursery() as nursery:
            server = _MemoryServer(methods, message_max_bytes, connections_max, nursery.start_soon)
            self._servers[address] = server
            try:
                yield port
            finally:
                del self._servers[address]
                with trio.CancelScope(shield=True):
                    await server.close()
                for connection in [c for c in self.connections if c.address == address]:
                    connection.close_by_server()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open_channel(
        self,
        address: str,
        *,
        tls: object = None,
        connect_timeout_s: float,
        message_max_bytes: int,
        user_timeout_s: float = 30.0,
        dialler: PeerInfo | None = None,
    ) -> AsyncIterator[MemoryChannel]:
        """Dial as `streams.open_channel` does. `dialler` is who the serving end sees; `tls` is not looked at."""
        await trio.lowlevel.checkpoint()
        if address in self.unreachable:
            await trio.sleep(connect_timeout_s)
            raise PeerGone("link.timeout", f"{address} did not answer within {connect_timeout_s} s")
        server = self._servers.get(address)
        if server is None:
            raise PeerGone("link.refused", f"nothing listens at {address}")
        if sum(c.address == address for c in self.connections) >= server.connections_max:
            raise PeerGone("link.lost", f"{address} closed the connection before it said anything")
        connection = MemoryConnection(address, dialler or PeerInfo("dialler:1"))
        self.connections.append(connection)
        if self.on_connect is not None:
            self.on_connect(connection)
        try:
            yield MemoryChannel(connection, server, message_max_bytes)
        finally:
            connection.abort(by_server=False)
            self.connections.remove(connection)
