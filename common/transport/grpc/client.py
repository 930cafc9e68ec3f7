"""The dialling end: one TCP connection, opened with a verdict in plain codes, and the calls made over it.

A dial is finished when the peer has sent its HTTP/2 settings, so that `open_channel` tells a wrong port, a
proxy without a back end or a refused certificate from a service that is merely busy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from grpclib.metadata import encode_timeout
from h2.errors import ErrorCodes
from h2.exceptions import TooManyStreamsError

from common.core.addresses import Address
from common.core.errors import BackhaulError
from common.transport.grpc.dial import dial
from common.transport.grpc.protocol import WireProtocol
from common.transport.grpc.status import Headers, refusal_from
from common.transport.grpc.tls import TlsFiles
from common.transport.grpc.wire import CONTENT_TYPE, WireLimits, WireStream
from common.transport.stream import MessageUnreadable, PeerClosed, PeerGone, PeerInfo

# How long leaving a channel waits for its last bytes to go out.
_CLOSE_GRACE_S = 1.0
_STREAMS_MAX = 100


@asynccontextmanager
async def open_channel(
    address: Address,
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
    protocol = await dial(address, tls, connect_timeout_s, limits, CallingStream)
    is_quiet = False
    try:
        yield GrpcChannel(protocol, str(address), "https" if tls else "http")
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
    async def open_stream(self, path: str) -> AsyncIterator[CallingStream]:
        with await self._call(path, None) as stream:
            self._connection.flush()
            yield stream

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        try:
            with trio.fail_after(timeout_s):
                with await self._call(path, timeout_s) as stream:
                    await stream.send_message(request, end=True)
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

    async def _call(self, path: str, timeout_s: float | None) -> CallingStream:
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
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._connection.fault is not None:
                raise self._connection.fault
            stream = self._connection.create_stream()
            assert isinstance(stream, CallingStream)
            try:
                stream.start(headers, self._protocol)
            except TooManyStreamsError:
                self._connection.stream_released.clear()
                await self._connection.stream_released.wait()
            else:
                return stream


class CallingStream(WireStream):
    """The end of a call that made it: sends the request headers, learns the outcome from the trailers."""

    _is_ended_here = False
    _told: BackhaulError | PeerClosed | None = None

    def start(self, headers: Headers, protocol: WireProtocol) -> None:
        http2 = self.connection.http2
        stream_id = http2.get_next_available_stream_id()
        http2.send_headers(stream_id, headers)
        self.id = stream_id
        self._release = protocol.processor.register(self)

    def __enter__(self) -> CallingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.reset_if_open(ErrorCodes.CANCEL)
        self._release()

    async def end(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closable and not self._is_ended_here:
            assert self.id is not None
            self._is_ended_here = True
            self.connection.http2.end_stream(self.id)
            self.connection.flush()

    def _outcome(self) -> BackhaulError | PeerClosed | None:
        """How the serving end has ended the call; None while it has not."""
        if self._told is None:
            self._told = self._read_outcome()
        return self._told

    def _read_outcome(self) -> BackhaulError | PeerClosed | None:
        if self.trailers is not None:
            return refusal_from(self.trailers) or PeerClosed()
        if self.headers is None:
            return None
        headers = dict(self.headers)
        if headers.get(":status") != "200" or not headers.get("content-type", "").startswith("application/grpc"):
            return PeerGone(
                "link.not_backhaul",
                f"the peer answers HTTP, not gRPC: status {headers.get(':status')},"
                f" content type {headers.get('content-type')}",
                "is there a proxy in between, or another service on this port?",
            )
        if "grpc-status" in headers:  # nothing but trailers
            return refusal_from(self.headers) or PeerClosed()
        return None

    @property
    def fault(self) -> BackhaulError | None:
        outcome = self._outcome()
        return outcome if isinstance(outcome, BackhaulError) else super().fault

    def _is_over(self) -> bool:
        return self._outcome() is not None or super()._is_over()

    def _raise_if_over_for_sending(self) -> None:
        self._raise_if_over()

    def _raise_if_over(self) -> None:
        outcome = self._outcome() or super().fault
        if outcome is not None:
            raise outcome
        if self._inbound.is_ended:
            raise MessageUnreadable("link.message_truncated", "the peer ended the call without a status")
