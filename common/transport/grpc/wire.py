"""gRPC calls on one HTTP/2 connection: grpclib's protocol layer with our buffers, our limits and our waiting.

grpclib's protocol layer is synchronous callbacks; only its waiting is asyncio's. Here the waiting is trio's
(`Gate`), so a message crosses the border without an asyncio task: a callback fills a buffer and wakes the
trio task that reads, and a trio task writes straight into the transport. What must stay in step with grpclib
is the surface its `EventsProcessor` touches: `headers`, `trailers`, `window_updated` and so on, the buffer's
`add`, `eof`, `unacked_size`, and that closing on any suspicion is an abort, where grpclib waits for a flush.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio
from h2.errors import ErrorCodes
from h2.events import Event

from common.border import Transport
from common.core.errors import BackhaulError
from common.core.policy.credentials import credential_of
from common.core.policy.identity import IdentityRule
from common.private import grpclib, h2
from common.private.grpclib import Connection, Wrapper
from common.private.ssl import verified_chain
from common.transport.grpc import tcp
from common.transport.grpc.inbound import PREFIX, InboundMessages
from common.transport.grpc.status import Headers, outcome_of_headers, outcome_of_trailers
from common.transport.grpc.tls import names_of
from common.transport.link.gate import Gate
from common.transport.stream import MessageTooLarge, MessageUnreadable, PeerClosed, PeerGone, PeerInfo, SendAfterEnd

# Handed to the line without a look whether it still takes it.
_AT_ONCE_BYTES = 128 * 1024

CONTENT_TYPE = "application/grpc+proto"

# Written at a time, before looking again whether the line still takes it.
_BURST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds of one connection. `window_bytes` is what the peer may send ahead of our reading."""

    message_max_bytes: int
    window_bytes: int
    streams_max: int
    user_timeout_s: float


class WireConnection(Connection):
    """One HTTP/2 connection: counters, its end, and the transport that both worlds write into."""

    def __init__(
        self,
        http2: h2.Http2,
        transport: Transport,
        limits: WireLimits,
        identity: IdentityRule,
    ) -> None:
        super().__init__(http2, transport, config=grpclib.CONFIG)
        self.http2 = http2
        self.transport = transport
        self.limits = limits
        self.bytes_in = 0
        self.fault: BackhaulError | None = None
        self._socket: tcp.SocketLike = transport.get_extra_info("socket")
        self._acknowledged = 0
        self._is_aborted = False
        self.writable = Gate(is_open=True)
        self.stream_released = Gate()
        self.write_ready = self.writable  # type: ignore[assignment]  # grpclib sets and clears it
        self.stream_close_waiter = self.stream_released  # type: ignore[assignment]  # grpclib sets it
        tls = transport.get_extra_info("ssl_object")
        address = tcp.peer_of(transport.get_extra_info("socket"), transport.get_extra_info("peername"))
        self.peer = PeerInfo(address)
        if tls is not None:
            certificate = identity.identify(names_of(tls.getpeercert()))
            self.peer = PeerInfo(address, certificate.ids, certificate, credential_of(verified_chain(tls)))

    def create_stream(self, *, stream_id: int | None = None, wrapper: Wrapper | None = None) -> WireStream:
        return WireStream(self, stream_id)

    def ack(self, stream_id: int, size: int) -> None:
        if size and not self.transport.is_closing():
            super().ack(stream_id, size)

    def feed(self, data: bytes) -> list[Event]:
        return self.http2.process(data)

    def flush(self) -> None:
        data = self.http2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def frame_room(self, stream_id: int) -> int:
        """Bytes of DATA that may be written now."""
        http2 = self.http2
        stream = http2.streams.get(stream_id)
        if stream is None or self.transport.is_closing():
            return 0
        return min(http2.outbound_flow_control_window, stream.outbound_flow_control_window, _AT_ONCE_BYTES)

    def write_data(self, stream_id: int, data: bytes) -> None:
        """Write DATA of at most ``frame_room``, past h2, whose way there costs more than the system's."""
        self.transport.write(h2.data_frames(self.http2, stream_id, data))

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def close(self) -> None:
        """What grpclib calls when the connection is over; its own would wait for a flush, maybe for ever."""
        self.abort(PeerGone("link.lost", "the connection ended"))
        h2.unlink(self.http2)

    def abort(self, fault: BackhaulError) -> None:
        """Drop the connection with whatever is in its buffers. The first fault named is the one reported."""
        if self.fault is None:
            self.fault = fault
        if not self._is_aborted:
            self._is_aborted = True
            tcp.reset_on_close(self._socket)
            self.transport.abort()
        self.writable.set()
        self.stream_released.set()

    @property
    def bytes_acknowledged(self) -> int:
        self._acknowledged = tcp.bytes_acknowledged(self._socket) or self._acknowledged
        return self._acknowledged

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size() + tcp.bytes_unacknowledged(self._socket)


class WireStream(grpclib.Stream):
    """One gRPC call as messages each way: what both ends of it do; see `common.transport.stream.MessageStream`.

    The serving end's response headers leave with its first message, or at `accept`. The dialling end's fault may come from
    the peer's headers or trailers (`outcome`).
    """

    connection: WireConnection
    id: int | None
    _held: list[bytes] | None = None
    """What leaves at `release`, while anything is held; of which `_held_room` may be more."""
    _held_room = 0
    _outcome: BackhaulError | PeerClosed | None = None
    _is_answered = False

    def __init__(self, connection: WireConnection, stream_id: int | None) -> None:
        grpclib.prepare_stream(self, connection, connection.http2, connection.transport)
        self._arrived = Gate()
        self._window_grew = Gate()
        self.headers_received = self._arrived  # type: ignore[assignment]  # grpclib sets it
        self.trailers_received = self._arrived  # type: ignore[assignment]  # grpclib sets it
        self.window_updated = self._window_grew  # type: ignore[assignment]  # grpclib sets it
        self._inbound = InboundMessages(self._acknowledge, connection.limits.message_max_bytes, self._arrived)
        self.buffer = self._inbound  # type: ignore[assignment]  # grpclib fills it
        self._fault: BackhaulError | None = None
        self._is_sending = False
        self._is_receiving = False
        self._has_ended = False
        self._is_dialled = self._has_sent_headers = stream_id is None
        if stream_id is not None:
            self.id = stream_id

    def _acknowledge(self, size: int) -> None:
        assert self.id is not None
        self.connection.ack(self.id, size)

    # -- called by grpclib ------------------------------------------------------------------------------------------------
    def __ended__(self) -> None:
        self._inbound.eof()

    def __terminated__(self, reason: str) -> None:
        self.break_off(self.connection.fault or PeerGone("link.reset", f"the peer gave up the call: {_named(reason)}"))

    # -- state ------------------------------------------------------------------------------------------------------------
    def break_off(self, fault: BackhaulError) -> None:
        """End the call here; the first fault stays, and whatever waits on the stream is woken."""
        if self._fault is None:
            self._fault = fault
        self._arrived.set()
        self._window_grew.set()

    def outcome(self) -> BackhaulError | PeerClosed | None:
        """How the serving end has ended the call, as the dialling end knows it; None while it has not."""
        if self._outcome is None and self._is_dialled:
            if self.trailers is not None:
                self._outcome = outcome_of_trailers(self.trailers)
            elif self.headers is not None and not self._is_answered:
                self._outcome = outcome_of_headers(self.headers)
                self._is_answered = True
        return self._outcome

    @property
    def fault(self) -> BackhaulError | None:
        outcome = self.outcome()
        return outcome if isinstance(outcome, BackhaulError) else self._fault or self.connection.fault

    def abort(self) -> None:
        self.connection.abort(PeerGone("link.aborted", "this end dropped the connection"))

    # -- sending ----------------------------------------------------------------------------------------------------------
    def send_nowait(self, message: bytes) -> bool:
        is_alone = self._held is None
        if is_alone:
            self.hold()
        assert self._held is not None
        size = PREFIX.size + len(message)
        is_taken = size <= self._held_room and len(message) <= self.connection.limits.message_max_bytes
        if is_taken:
            self._held_room -= size
            self._held += (PREFIX.pack(0, len(message)), message)
        if is_alone:
            self.release()
        return is_taken

    def hold(self) -> None:
        connection = self.connection
        is_free = (
            connection.writable.is_set()
            and self._has_sent_headers
            and not (self._is_sending or self._has_ended)
            and self.outcome() is None
            and self._fault is None
            and connection.fault is None
        )
        self._held_room = connection.frame_room(self.id) if is_free and self.id is not None else 0
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            assert self.id is not None
            self.connection.write_data(self.id, b"".join(held))

    async def send(self, message: bytes, *, end: bool = False, flush: bool = True) -> None:
        """`MessageStream.send`; with `end` the message is the last one from this end.

        Without `flush` its end may stay with h2: the caller writes the next thing at once, and both leave together.
        """
        limits = self.connection.limits
        if self._has_ended:
            raise SendAfterEnd
        if len(message) > limits.message_max_bytes:
            raise MessageTooLarge(len(message), limits.message_max_bytes)
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        if flush and not end and self._held is None and self.send_nowait(message):
            return  # framed here, which costs a tenth of h2's way
        self._is_sending = True
        is_whole = False
        try:
            self.accept(flush=False)
            await self._send_all(memoryview(PREFIX.pack(0, len(message)) + message), end, flush)
            is_whole = True
        finally:
            self._is_sending = False
            if not is_whole and not self._is_over():
                self.connection.abort(PeerGone("link.aborted", "a message was given up in the middle"))
        if end:
            self._has_ended = True

    async def _send_all(self, data: memoryview, end: bool, flush: bool) -> None:
        assert self.id is not None
        http2, connection = self.connection.http2, self.connection
        sent, size = 0, len(data)
        while True:
            self._raise_if_over()
            if self._has_ended:  # the handler returned meanwhile
                raise SendAfterEnd
            if not connection.writable.is_set():
                connection.flush()
                await connection.writable.wait()
                continue
            window = http2.local_flow_control_window(self.id)
            if window <= 0:
                connection.flush()
                self._window_grew.clear()
                await self._window_grew.wait()
                continue
            stop = min(size, sent + window, sent + _BURST_BYTES)
            while sent < stop:
                piece = min(stop - sent, http2.max_outbound_frame_size)
                is_last = end and sent + piece == size
                http2.send_data(self.id, data[sent : sent + piece], end_stream=is_last)
                sent += piece
            if flush or sent < size:
                connection.flush()
            if sent == size:
                return

    async def end(self) -> None:
        """End this direction; see `DialledStream.end`."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self.release()
        if not self._has_ended:
            self._has_ended = True
            if self.closable:
                assert self.id is not None
                self.connection.http2.end_stream(self.id)
                self.connection.flush()

    def accept(self, *, flush: bool = True) -> None:
        """Send the response headers, unless they have left; see `ServedStream.accept`."""
        if not self._has_sent_headers:
            self._has_sent_headers = True
            self.send_headers_now(RESPONSE_HEADERS, flush=flush)

    def finish(self, trailers: Headers) -> None:
        """End the call at its serving end; a caller that still sends is asked to stop."""
        self._has_ended = True
        self._window_grew.set()
        if self.fault is None:
            self.send_headers_now(trailers if self._has_sent_headers else RESPONSE_HEADERS + trailers, end=True)
            self._has_sent_headers = True
            self.reset_if_open(ErrorCodes.NO_ERROR)

    def send_headers_now(self, headers: Headers, *, end: bool = False, flush: bool = True) -> None:
        """Send a header block, without waiting: small, and nothing on this connection helps more than it.

        `flush` as for `send`.
        """
        assert self.id is not None
        if self.id in self.connection.http2.streams and not self.connection.is_closing():
            self.connection.http2.send_headers(self.id, headers, end_stream=end)
            if flush:
                self.connection.flush()

    def reset_if_open(self, code: ErrorCodes) -> None:
        """Take back what is left of the call; the connection goes on."""
        assert self.id is not None
        if self.closable:
            self.connection.http2.reset_stream(self.id, error_code=code)
            self.connection.flush()

    # -- receiving --------------------------------------------------------------------------------------------------------
    async def receive(self) -> bytes:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_receiving = True
        try:
            while True:
                message = self._inbound.take()
                if message is not None:
                    return message
                self._raise_if_over()
                if self._inbound.is_ended:
                    if self._is_dialled:
                        raise MessageUnreadable("link.message_truncated", "the peer ended the call without a status")
                    raise PeerClosed
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            self._is_receiving = False

    async def wait_accepted(self) -> None:
        """Wait for the peer's response headers; see `DialledStream.wait_accepted`."""
        await trio.lowlevel.checkpoint()
        while self.headers is None:
            self._raise_if_over()
            self._arrived.clear()
            await self._arrived.wait()
        outcome = outcome_of_headers(self.headers)
        if isinstance(outcome, BackhaulError):
            raise outcome

    def _is_over(self) -> bool:
        """Whether the whole call is over, so that an interrupted message does no harm."""
        return self._has_ended or self.outcome() is not None or self.fault is not None

    def _raise_if_over(self) -> None:
        outcome = self.outcome()
        if outcome is not None:
            raise outcome
        fault = self._fault or self.connection.fault
        if fault is not None:
            raise fault


def _named(reason: str) -> str:
    """grpclib's reason, with the name of HTTP/2's error code (RFC 9113, 7) in the place of its number."""
    text, found, code = reason.rpartition("error_code: ")
    names = {str(int(known)): known.name for known in ErrorCodes}
    return f"{text}{found}{names.get(code, code)}"


RESPONSE_HEADERS: Headers = [(":status", "200"), ("content-type", CONTENT_TYPE)]
