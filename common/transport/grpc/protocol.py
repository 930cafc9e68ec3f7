"""One connection's callbacks from asyncio: HTTP/2 in, grpclib dispatches, nothing a peer sends raises.

Garbage ends this connection and nothing else; frames we do not know are ignored, as HTTP/2 demands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RemoteSettingsChanged
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from common.border import Transport
from common.core.errors import reason_of
from common.core.policy.identity import IdentityRule
from common.private import grpclib
from common.private.grpclib import AbstractHandler, EventsProcessor, H2Protocol
from common.private.h2 import Http2, RawHeaders, WholeRequest, WholeRequestReset, next_frame_bytes
from common.transport.grpc.wire import WireConnection, WireLimits, WireStream
from common.transport.link.gate import Gate
from common.transport.stream import PeerGone

# Sending pauses above this; what waits in our own buffer beyond the kernel's only ages there.
_WRITE_BUFFER_BYTES = 64 * 1024
# Only answers to a peer's control frames grow the write buffer this far: it floods us and does not read.
_WRITE_BUFFER_MAX_BYTES = 1024 * 1024
_HEADER_LIST_MAX_BYTES = 16 * 1024
# Larger than HTTP/2's 16 KiB: a batch is then one frame, and each frame costs tens of microseconds in h2.
_FRAME_MAX_BYTES = 64 * 1024


class WholeCalls(Protocol):
    """The served end of calls that come as a `WholeRequest`."""

    def admit_whole(self, headers: RawHeaders, body: bytes) -> object:
        """`common.private.h2.Admit`."""

    def begin_whole(self, request: WholeRequest, events: WireEvents) -> None:
        """A request that was admitted has come."""

    def forget_whole(self, stream_id: int) -> None:
        """Its caller has given it up."""


class WireEvents(EventsProcessor):
    """grpclib's dispatch of HTTP/2 events, without its faults for what we do not know."""

    connection: WireConnection

    def __init__(
        self,
        handler: AbstractHandler,
        connection: WireConnection,
        on_settled: Callable[[], None],
        whole: WholeCalls | None,
    ) -> None:
        super().__init__(handler, connection)
        self._on_settled = on_settled
        if whole is not None:
            connection.http2.admit = whole.admit_whole
            self.processors[WholeRequest] = lambda event: whole.begin_whole(event, self)
            self.processors[WholeRequestReset] = lambda event: whole.forget_whole(event.stream_id)

    def adopt_whole(self, request: WholeRequest) -> tuple[WireStream, Callable[[], None]]:
        """Give a whole request the stream that it has not; returns that, and what lets grpclib forget it."""
        self.connection.http2.adopt_whole(request)
        stream = self.connection.create_stream(stream_id=request.stream_id)
        return stream, self.register(stream)

    def process(self, event: Event) -> None:
        if grpclib.knows(self, event):
            super().process(event)  # the rest are extension frames, which HTTP/2 says to ignore

    def process_remote_settings_changed(self, event: RemoteSettingsChanged) -> None:
        super().process_remote_settings_changed(event)
        self._on_settled()

    def process_connection_terminated(self, event: ConnectionTerminated) -> None:
        code = event.error_code or ErrorCodes.NO_ERROR
        self.connection.abort(PeerGone("link.lost", f"the peer closes the connection (GOAWAY, error {code})"))
        super().process_connection_terminated(event)


class WireProtocol(H2Protocol):
    """One connection's callbacks from asyncio. Nothing a peer sends makes one of them raise.

    `settled` opens when the peer has shown to speak HTTP/2; it and `lost` open when the connection is gone. `on_read` is
    called when all of what came in at once was dispatched.
    """

    connection: WireConnection

    def __init__(
        self,
        handler: AbstractHandler,
        limits: WireLimits,
        *,
        is_client: bool,
        identity: IdentityRule,
        whole: WholeCalls | None = None,
        on_read: Callable[[], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(handler, grpclib.CONFIG, _CLIENT_HTTP2 if is_client else _SERVER_HTTP2)
        self.settled = Gate()
        self.lost = Gate()
        self.is_settled = False
        self.lost_by: BaseException | None = None
        self._limits = limits
        self._identity = identity
        self._whole = whole
        self._on_read = on_read
        self._on_lost = on_lost

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # what we use of one
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        http2 = Http2(self.h2_config)
        window = self._limits.window_bytes
        http2.local_settings = Settings(
            client=bool(self.h2_config.client_side),
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: self._limits.streams_max,
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_FRAME_SIZE: _FRAME_MAX_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_LIST_MAX_BYTES,
            },
        )
        http2.max_inbound_frame_size = _FRAME_MAX_BYTES
        http2.decoder.max_header_list_size = _HEADER_LIST_MAX_BYTES
        http2.initiate_connection()
        if window > _HTTP2_INITIAL_WINDOW:
            http2.increment_flow_control_window(window - _HTTP2_INITIAL_WINDOW)
        self.connection = WireConnection(http2, transport, self._limits, self._identity)
        self.connection.flush()
        self.processor = WireEvents(self.handler, self.connection, self._settle, self._whole)

    def _settle(self) -> None:
        self.is_settled = True
        self.settled.set()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        connection.bytes_in += len(data)
        try:
            events = connection.feed(data)
            connection.flush()
            for event in events:
                self.processor.process(event)
            if self._on_read is not None:
                self._on_read()
            self._check_frame_length()
            connection.flush()
        except ProtocolError as error:
            self._give_up(str(error))
        except Exception as error:  # noqa: BLE001  whatever h2 makes of a peer's bytes
            self._give_up(f"{type(error).__name__}: {error}")
        if connection.transport.get_write_buffer_size() > _WRITE_BUFFER_MAX_BYTES:
            self._give_up("it floods us with requests and does not read the answers")

    def _check_frame_length(self) -> None:
        """h2 looks at a frame's length only once the whole frame, of up to 16 MiB, is in its buffer."""
        if next_frame_bytes(self.connection.http2) > _FRAME_MAX_BYTES:
            raise ProtocolError("a frame larger than agreed")

    def _give_up(self, reason: str) -> None:
        self.connection.abort(PeerGone("link.garbage", f"the peer does not speak HTTP/2 as agreed: {reason[:200]}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost_by = exc
        reason = f": {reason_of(exc)}" if isinstance(exc, OSError) else ""
        self.connection.abort(PeerGone("link.lost", f"the connection ended{reason}"))
        super().connection_lost(exc)
        self.settled.set()
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost()

    async def close(self, grace_s: float) -> None:
        """Close when what is written has gone out, after `grace_s` abort. Shielded: it ends soon."""
        with trio.CancelScope(shield=True):
            if not self.lost.is_set():
                self.connection.transport.close()
                with trio.move_on_after(grace_s):
                    await self.lost.wait()
            if not self.lost.is_set():
                self.connection.abort(PeerGone("link.aborted", "this end dropped the connection"))
                await self.lost.wait()


_HTTP2_INITIAL_WINDOW = 65_535


def _http2(*, is_client: bool) -> H2Configuration:
    # Our own headers are as HTTP/2 wants them; h2 would look at every one of them again, for each call.
    return H2Configuration(
        client_side=is_client,
        header_encoding="utf-8",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )


_CLIENT_HTTP2, _SERVER_HTTP2 = _http2(is_client=True), _http2(is_client=False)
