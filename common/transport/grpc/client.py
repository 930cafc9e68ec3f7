"""The dialling end: one TCP connection, opened with a verdict in plain codes, and the calls made over it.

A dial is finished when the peer has sent its HTTP/2 settings, so that `open_channel` tells a wrong port, a
proxy without a back end or a refused certificate from a service that is merely busy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio
from grpclib.metadata import encode_timeout
from h2.errors import ErrorCodes
from h2.exceptions import TooManyStreamsError

from common.core.addresses import Address, SocketPath
from common.core.errors import BackhaulError
from common.transport.grpc.dial import dial
from common.transport.grpc.protocol import WireProtocol
from common.transport.grpc.status import Headers
from common.transport.grpc.tls import TlsFiles
from common.transport.grpc.wire import CONTENT_TYPE, WireLimits, WireStream
from common.transport.metadata import NO_METADATA, check_metadata
from common.transport.stream import PeerClosed, PeerGone, PeerInfo

# How long leaving a channel waits for its last bytes to go out.
_CLOSE_GRACE_S = 1.0
_STREAMS_MAX = 100


@asynccontextmanager
async def open_channel(
    address: Address | SocketPath,
    *,
    tls: TlsFiles | None,
    connect_timeout_s: float,
    message_max_bytes: int,
    user_timeout_s: float,
    window_bytes: int = 1024 * 1024,
) -> AsyncIterator[GrpcChannel]:
    """Dial one address and yield the channel; leaving closes it, leaving by an error or a cancel aborts it.

    Certificate files are read anew. `message_max_bytes` bounds messages both ways, `window_bytes` what the
    peer may send ahead of our reading, `user_timeout_s` how long sent data may stay unacknowledged by the
    peer's kernel. Raises PeerGone: `link.unreachable`, `link.refused`, `link.tls_failed`,
    `link.not_backhaul`, `link.timeout`, `link.lost`; ConfigurationError: `tls.files_unreadable`.
    """
    limits = WireLimits(message_max_bytes, window_bytes, _STREAMS_MAX, user_timeout_s)
    protocol = await dial(address, tls, connect_timeout_s, limits)
    is_quiet = False
    try:
        authority = str(address) if isinstance(address, Address) else "localhost"
        yield GrpcChannel(protocol, authority, "https" if tls else "http")
        is_quiet = True
    finally:
        if not is_quiet:
            protocol.connection.abort(PeerGone("link.aborted", "this end dropped the connection"))
        await protocol.close(_CLOSE_GRACE_S)


class GrpcChannel:
    """A dialled connection; see `common.transport.stream.Channel`."""

    def __init__(self, protocol: WireProtocol, authority: str, scheme: str) -> None:
        self._protocol = protocol
        self._connection = protocol.connection
        self._authority = authority
        self._scheme = scheme

    @property
    def peer(self) -> PeerInfo:
        return self._connection.peer

    def abort(self) -> None:
        self._connection.abort(PeerGone("link.aborted", "this end dropped the connection"))

    @asynccontextmanager
    async def open_stream(self, path: str, metadata: Mapping[str, str] = NO_METADATA) -> AsyncIterator[CallingStream]:
        with await self._call(path, None, metadata) as stream:
            self._connection.flush()
            yield stream

    async def unary(
        self, path: str, request: bytes, timeout_s: float, metadata: Mapping[str, str] = NO_METADATA
    ) -> bytes:
        try:
            with trio.fail_after(timeout_s):
                with await self._call(path, timeout_s, metadata) as stream:
                    await stream.send_last(request)
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

    async def _call(self, path: str, timeout_s: float | None, metadata: Mapping[str, str]) -> CallingStream:
        """Begin a call; its headers leave with the next flush, so that a unary request is one write."""
        headers = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", CONTENT_TYPE),
            ("user-agent", "backhaul"),
        ]
        if timeout_s is not None:
            headers.append(("grpc-timeout", encode_timeout(timeout_s)))
        if metadata:
            headers += check_metadata(metadata)
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._connection.fault is not None:
                raise self._connection.fault
            wire = self._connection.create_stream()
            try:
                return CallingStream(wire, _start_call(wire, headers, self._protocol))
            except TooManyStreamsError:
                self._connection.stream_released.clear()
                await self._connection.stream_released.wait()


def _start_call(wire: WireStream, headers: Headers, protocol: WireProtocol) -> Callable[[], None]:
    """Send the request headers; returns what lets grpclib forget the call. Raises h2's TooManyStreamsError."""
    http2 = wire.connection.http2
    stream_id = http2.get_next_available_stream_id()
    http2.send_headers(stream_id, headers)
    wire.id = stream_id
    return protocol.processor.register(wire)


class CallingStream:
    """The dialling end of a call; see `common.transport.stream.DialledStream`. Leaving its block gives up what is not over.

    What a message passes through is the wire's own: bound here, so that it costs no call more.
    """

    def __init__(self, wire: WireStream, release_call: Callable[[], None]) -> None:
        self._wire = wire
        self._release_call = release_call
        self.peer = wire.connection.peer
        self.abort = wire.abort
        self.send = wire.send
        self.send_nowait = wire.send_nowait
        self.hold = wire.hold
        self.release = wire.release
        self.receive = wire.receive
        self.end = wire.end
        self.wait_accepted = wire.wait_accepted

    def __enter__(self) -> CallingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.reset_if_open(ErrorCodes.CANCEL)
        self._release_call()
        if self._wire.outcome() is None:
            self._wire.break_off(PeerGone("link.reset", "the caller gave up the call"))

    async def send_last(self, message: bytes) -> None:
        """Send the only message from this end; its end goes along."""
        await self._wire.send(message, end=True)

    @property
    def bytes_received(self) -> int:
        return self._wire.connection.bytes_in

    @property
    def bytes_sent(self) -> int:
        return self._wire.connection.bytes_acknowledged

    @property
    def unsent_bytes(self) -> int:
        return self._wire.connection.unsent_bytes

    @property
    def fault(self) -> BackhaulError | None:
        return self._wire.fault
