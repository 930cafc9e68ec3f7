"""Message streams as pipes in memory, under trio alone: what simulation and shell tests run both services on.

`MemoryNetwork` has the two ways in that the real carrier has, `serve` and `open_channel`, with the same
arguments. Each connection can be cut now or after so many messages or bytes, slowed, held (a black hole) and
let go again; there is no chance in here, so a run is as repeatable as the code that plays with these hooks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.transport.link.call_status import outcome_of, status_of, stopping
from common.transport.memory.line import Direction, MemoryCall, MemoryConnection
from common.transport.stream import (
    MessageTooLarge,
    Methods,
    PeerClosed,
    PeerGone,
    PeerInfo,
    PeerRefused,
    StreamMethod,
)

_WINDOW_BYTES = 256 * 1024
# As the real server's: handlers that take longer to end find their connection gone.
_CLOSE_TIMEOUT_S = 2.0


class _MemoryStream:
    """What both ends of a call share; see `common.transport.stream.MessageStream`."""

    def __init__(self, call: MemoryCall, peer: PeerInfo, message_max_bytes: int, *, is_served: bool) -> None:
        self._call = call
        self._peer = peer
        self._message_max_bytes = message_max_bytes
        self._is_served = is_served
        self._out, self._in = (call.down, call.up) if is_served else (call.up, call.down)
        self._direction: Direction = "down" if is_served else "up"
        self._end: PeerClosed | PeerRefused | None = None
        self._is_sending = False
        self._is_receiving = False

    @property
    def peer(self) -> PeerInfo:
        return self._peer

    @property
    def bytes_received(self) -> int:
        return self._in.bytes_arrived()

    @property
    def bytes_sent(self) -> int:
        return self._out.bytes_arrived()

    @property
    def unsent_bytes(self) -> int:
        return self._out.bytes_in - self._out.bytes_arrived()

    @property
    def fault(self) -> BackhaulError | None:
        broken = self._call.served_fault if self._is_served else self._call.dialled_fault
        return self._end if isinstance(self._end, PeerRefused) else broken

    def abort(self) -> None:
        self._call.connection.abort(by_server=self._is_served)

    async def send(self, message: bytes) -> None:
        if len(message) > self._message_max_bytes:
            raise MessageTooLarge(len(message), self._message_max_bytes)
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        self._is_sending = True
        try:
            while True:
                self._raise_if_over_for_sending()
                if self._out.has_room(len(message)):
                    break
                self._out.roomy.clear()
                await self._out.roomy.wait()
        except trio.Cancelled:
            self.abort()
            raise
        finally:
            self._is_sending = False
        if self._call.connection.lets_through(self._direction, len(message)):
            self._out.put(message)
        self._raise_if_over_for_sending()

    def send_nowait(self, message: bytes) -> bool:
        is_over = self._is_sending or self._end is not None or self.fault is not None
        if is_over or len(message) > self._message_max_bytes or not self._out.has_room(len(message)):
            return False
        if self._call.connection.lets_through(self._direction, len(message)):
            self._out.put(message)
        return True

    def hold(self) -> None:
        pass  # here a message costs the same alone

    def release(self) -> None:
        pass

    async def receive(self) -> bytes:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint()
        self._is_receiving = True
        try:
            while True:
                parcel = self._in.take() if self._end is None else None
                if parcel is None:
                    self._raise_if_over()
                    await self._in.wait()
                elif parcel.end is not None:
                    self._end = parcel.end
                elif parcel.size > self._message_max_bytes:
                    raise MessageTooLarge(parcel.size, self._message_max_bytes)
                else:
                    return parcel.message
        finally:
            self._is_receiving = False

    def _raise_if_over(self) -> None:
        if self._end is not None:
            raise self._end
        if self.fault is not None:
            raise self.fault

    def _raise_if_over_for_sending(self) -> None:
        if not self._is_served:
            # A refusal is felt by sending too, even if nobody receives.
            self._end = self._end or self._in.end_if_next()
            self._raise_if_over()
        elif self.fault is not None:
            raise self.fault


class DialledMemoryStream(_MemoryStream):
    """The end that opened the call."""

    _has_ended = False

    async def end(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._has_ended and self.fault is None:
            self._has_ended = True
            self._out.put(b"", PeerClosed())


class ServedMemoryStream(_MemoryStream):
    """The end whose handler runs in the server's nursery."""

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal, unless the line is gone."""
        if self.fault is not None:
            return
        end = PeerClosed() if outcome is None else refused(outcome)
        self._out.put(b"", end)


def refused(refusal: BackhaulError) -> PeerRefused:
    """The serving end's refusal as the dialling end meets it."""
    return PeerRefused(
        refusal.code,
        refusal.message,
        refusal.hint,
        status=status_of(refusal),
        kind=refusal.kind,
        retry_after_s=refusal.retry_after_s,
    )


def memory_stream_pair(
    *, message_max_bytes: int = 4 * 1024 * 1024, window_bytes: int = _WINDOW_BYTES, peer: PeerInfo | None = None
) -> tuple[DialledMemoryStream, ServedMemoryStream]:
    """Both ends of one stream, for tests that serve it themselves. `peer` is what the serving end sees."""
    dialler = peer or PeerInfo("dialler:1")
    call = MemoryConnection("server:1", dialler).open_call(window_bytes)
    return (
        DialledMemoryStream(call, PeerInfo("server:1"), message_max_bytes, is_served=False),
        ServedMemoryStream(call, dialler, message_max_bytes, is_served=True),
    )


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
    async def open_stream(self, path: str) -> AsyncIterator[DialledMemoryStream]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._connection.fault is not None:
            raise self._connection.fault
        call = self._connection.open_call(_WINDOW_BYTES)
        self._server.start_call(path, call)
        try:
            yield DialledMemoryStream(call, self.peer, self._message_max_bytes, is_served=False)
        finally:
            fault = PeerGone("link.reset", "the caller gave up the call")
            call.break_off(fault, dialled=True, served=not self._connection.is_held)
            self._connection.leave_call(call)

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        try:
            with trio.fail_after(timeout_s):
                async with self.open_stream(path) as stream:
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
        stream = ServedMemoryStream(call, dialler, self._message_max_bytes, is_served=True)
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
                await stream.send(await method.handler(request, stream.peer))
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
