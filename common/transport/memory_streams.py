"""Message streams as pipes in memory, under trio alone: what simulation and shell tests run both services on.

`MemoryNetwork` has the two ways in that the real carrier has, `serve` and `open_channel`, with the same
arguments. Each connection can be cut now or after so many messages or bytes, slowed, held (a black hole) and
let go again; there is no chance in here, so a run is as repeatable as the code that plays with these hooks.

A message is under way until its time has come (`delay_s`, `bytes_per_s`) and in order; a cut loses what is
under way, in both directions, and what has arrived can still be read. A held line loses nothing and tells
nobody anything.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.transport.gate import Gate
from common.transport.outcome import outcome_of, status_of, stopping
from common.transport.stream import (
    MessageTooLarge,
    Methods,
    PeerClosed,
    PeerGone,
    PeerInfo,
    PeerRefused,
    StreamMethod,
)

Direction = Literal["up", "down"]

_WINDOW_BYTES = 256 * 1024
# As the real server's: handlers that take longer to end find their connection gone.
_CLOSE_TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Parcel:
    """A message under way, or the end of one direction. It sets out at `leaves_at` and is there at `arrives_at`."""

    leaves_at: float
    arrives_at: float
    size: int
    message: bytes = b""
    end: PeerClosed | PeerRefused | None = None


class _Pipe:
    """One direction of a call: bounded in bytes, in order, as fast as its connection lets it be."""

    def __init__(self, connection: MemoryConnection, window_bytes: int) -> None:
        self._connection = connection
        self._window_bytes = window_bytes
        self._parcels: deque[_Parcel] = deque()
        self._held_since: float | None = None
        self.bytes_in = 0  # of parcels that were put in
        self._bytes_out = 0  # of parcels that were taken out
        self.changed = Gate()
        self.roomy = Gate()

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit; an empty pipe takes any message, or a large one would never go."""
        under_way = self.bytes_in - self._bytes_out
        return not under_way or under_way + size <= self._window_bytes

    def put(self, message: bytes, end: PeerClosed | PeerRefused | None = None) -> None:
        now = trio.current_time()
        link = self._connection
        previous = self._parcels[-1].arrives_at - link.delay_s if self._parcels else now
        leaves_at = max(now, previous) if previous < math.inf else now
        arrives_at = leaves_at + link.delay_s + len(message) / link.bytes_per_s
        self._parcels.append(_Parcel(leaves_at, arrives_at, len(message), message, end))
        self.bytes_in += len(message)
        self.changed.set()

    def take(self) -> _Parcel | None:
        """The first parcel, if it is there."""
        if self._parcels and self._parcels[0].arrives_at <= self._now():
            parcel = self._parcels.popleft()
            self._bytes_out += parcel.size
            self.roomy.set()
            return parcel
        return None

    def end_if_next(self) -> PeerClosed | PeerRefused | None:
        """The end of this direction, if it is there and nothing is before it."""
        if self._parcels and self._parcels[0].end is not None:
            parcel = self.take()
            return parcel.end if parcel else None
        return None

    async def wait(self) -> None:
        """Wait until `take` may answer otherwise than it just did."""
        self.changed.clear()
        first_at = self._parcels[0].arrives_at if self._parcels and self._held_since is None else math.inf
        with trio.move_on_at(first_at):
            await self.changed.wait()

    def bytes_arrived(self) -> int:
        """Bytes that have come to the far end, counting what has come of a message."""
        now = self._now()
        arrived = self._bytes_out
        for parcel in self._parcels:
            if parcel.arrives_at > now:
                begun_s = now - parcel.leaves_at - self._connection.delay_s
                arrived += max(0, min(parcel.size, int(begun_s * self._connection.bytes_per_s))) if begun_s > 0 else 0
                break
            arrived += parcel.size
        return arrived

    def _now(self) -> float:
        """The time as parcels feel it: it stands still while the line is held."""
        return trio.current_time() if self._held_since is None else self._held_since

    def hold(self) -> None:
        if self._held_since is None:
            self._held_since = trio.current_time()

    def let_go(self) -> None:
        if self._held_since is not None:
            held_since, self._held_since = self._held_since, None
            now = trio.current_time()
            for parcel in self._parcels:
                if parcel.arrives_at > held_since:
                    stood_still_s = now - max(held_since, parcel.leaves_at)
                    parcel.leaves_at += stood_still_s
                    parcel.arrives_at += stood_still_s
            self.changed.set()

    def drop_under_way(self) -> None:
        now = self._now()
        while self._parcels and self._parcels[-1].arrives_at > now:
            self._bytes_out += self._parcels.pop().size
        self.changed.set()
        self.roomy.set()


class MemoryConnection:
    """One dialled connection, and the hooks to play tricks on it. `fault` says why it is over, once it is."""

    def __init__(self, address: str, dialler: PeerInfo) -> None:
        self.address = address
        self.dialler = dialler
        self.delay_s = 0.0
        self.bytes_per_s = math.inf
        self.is_held = False
        self.fault: PeerGone | None = None
        self._calls: list[_Call] = []
        self._let_through: dict[Direction, tuple[float, float]] = {}  # messages, bytes still to be let through

    def cut(self, reason: str = "the line was cut") -> None:
        """Break the connection: both ends raise PeerGone, the serving end's handlers are cancelled."""
        self._break(PeerGone("link.lost", reason), dialled=True, served=True)

    def cut_after(self, direction: Direction, *, messages: float = math.inf, size: float = math.inf) -> None:
        """Cut when so many more messages or bytes have gone up (from the dialling end) or down.

        The message that crosses the bound is lost with the cut, as one that was cut in the middle.
        """
        self._let_through[direction] = (messages, size)

    def hold(self) -> None:
        """Black-hole the line: nothing arrives any more, not even the news that an end has gone away."""
        self.is_held = True
        for call in self._calls:
            call.hold()

    def let_go(self) -> None:
        """End the black hole: what was under way goes on from where it was, and so does the news."""
        self.is_held = False
        for call in self._calls:
            call.let_go()
        if self.fault is not None:
            self._break(self.fault, dialled=True, served=True)

    def abort(self, *, by_server: bool) -> None:
        """What either end's `abort` does; the other end hears of it unless the line is held."""
        fault = PeerGone("link.aborted", "one end dropped the connection")
        self._break(fault, dialled=not by_server or not self.is_held, served=by_server or not self.is_held)

    def _break(self, fault: PeerGone, *, dialled: bool, served: bool) -> None:
        self.fault = self.fault or fault
        for call in list(self._calls):
            call.break_off(fault, dialled=dialled, served=served)

    def close_by_server(self) -> None:
        """The server has stopped: what it still said arrives, and no more calls are taken."""
        self.fault = self.fault or PeerGone("link.lost", "the peer closed the connection")

    def open_call(self, window_bytes: int) -> _Call:
        call = _Call(self, window_bytes)
        self._calls.append(call)
        if self.is_held:
            call.hold()
        return call

    def leave_call(self, call: _Call) -> None:
        """One end is done with the call; when both are, nothing can happen to it any more."""
        call.ends -= 1
        if not call.ends:
            self._calls.remove(call)

    def lets_through(self, direction: Direction, size: int) -> bool:
        """Count a message that sets out; False if it reached the bound of `cut_after`: the line is cut now."""
        if direction not in self._let_through:
            return True
        messages, room = self._let_through[direction]
        if messages >= 1 and room >= size:
            self._let_through[direction] = (messages - 1, room - size)
            return True
        del self._let_through[direction]
        self.cut("the line was cut in the middle of a message")
        return False


class _Call:
    """One stream of a connection: a pipe each way, and how each end was told that it is over."""

    def __init__(self, connection: MemoryConnection, window_bytes: int) -> None:
        self.connection = connection
        self.ends = 2
        self.up = _Pipe(connection, window_bytes)
        self.down = _Pipe(connection, window_bytes)
        self.dialled_fault: PeerGone | None = None
        self.served_fault: PeerGone | None = None
        self.scope = trio.CancelScope()  # of the serving end's handler

    def hold(self) -> None:
        self.up.hold()
        self.down.hold()

    def let_go(self) -> None:
        self.up.let_go()
        self.down.let_go()

    def break_off(self, fault: PeerGone, *, dialled: bool, served: bool) -> None:
        if dialled:
            self.dialled_fault = self.dialled_fault or fault
        if served:
            self.served_fault = self.served_fault or fault
            self.scope.cancel()
        self.up.drop_under_way()
        self.down.drop_under_way()


class _MemoryStream:
    """What both ends of a call share; see `common.transport.stream.MessageStream`."""

    def __init__(self, call: _Call, peer: PeerInfo, message_max_bytes: int, *, is_served: bool) -> None:
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
        self._running: list[_Call] = []
        self._is_closing = False
        self._idle = trio.Event()

    def start_call(self, path: str, call: _Call) -> None:
        self._running.append(call)
        self._start_soon(self._run, path, call)

    async def _run(self, path: str, call: _Call) -> None:
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
