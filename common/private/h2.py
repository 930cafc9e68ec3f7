"""h2's private parts: its input and output buffers, windows, dispatch table, and what it spells out for a log that is off.

Touched: of one connection each, `_receive_frame` in a copy that does not call `repr` (a DATA frame's spells its whole body
in hexadecimal, a quarter of what receiving a batch costs); `FrameBuffer._data` (a frame's length is seen before h2 buffers
up to 16 MiB); it, `_headers_buffer`, `_preamble_len`, states, inbound windows and `_expected_content_length` (a whole DATA
frame with which nothing is unusual changes nothing but the windows, and is taken here); `highest_inbound_stream_id`,
`_begin_new_stream`, `validate_headers` and `_prepare_for_sending` (a call of two frames has no stream in h2, whose way in
and out costs ten times as much); `_data_to_send` (one write instead of two);
`outbound_flow_control_window` of connection and stream (DATA is framed here, which costs less than h2's way);
`_frame_dispatch_table` (it, and the cycle through which h2 holds itself);
`MAX_CLOSED_STREAMS`. Guard tests: tests/component/private/test_h2.py and test_h2_whole.py,
tests/contract/transport/test_grpc.py, test_streams.py and test_prompt_calls.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, PingReceived, WindowUpdated
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream, StreamState
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import HeaderTuple
from hyperframe.frame import Frame, RstStreamFrame, WindowUpdateFrame

from common.private.hpack import silence, table_update
from common.private.surface import require, require_used, with_globals

require("h2", H2Connection, "_receive_frame", "MAX_CLOSED_STREAMS")
require_used("h2", H2Connection._receive_frame, "repr")
require_used("h2", H2Connection.receive_data, "_receive_frame")
require_used("h2", H2Connection._receive_data_frame, "_inbound_flow_control_window_manager", "window_consumed")
require_used("h2", H2Stream.receive_data, "_inbound_window_manager", "window_consumed", "_track_content_length")
require_used("h2", H2Connection._receive_headers_frame, "_decode_headers", "decoder", "_get_or_create_stream")
require_used("h2", H2Connection._begin_new_stream, "highest_inbound_stream_id", "streams")
require_used("h2", H2Connection.__init__, "_receive_rst_stream_frame", "_receive_window_update_frame")
require("h2", FrameBuffer(), "_data", "_headers_buffer", "_preamble_len")
_probe = H2Connection(H2Configuration())
require("h2", _probe, "incoming_buffer", "outbound_flow_control_window", "_data_to_send", "_frame_dispatch_table")
require("h2", _probe, "encoder", "decoder", "streams", "max_outbound_frame_size", "_prepare_for_sending")
_probe.initiate_connection()
_probe.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
require("h2", _probe.streams[1], "outbound_flow_control_window", "_inbound_window_manager", "_expected_content_length")
require("h2", _probe.streams[1].state_machine, "state")
del _probe

FRAME_HEADER_BYTES: Final = 9
# A frame's length in 24 bits, its type, flags and stream.
_FRAME_HEADER: Final = struct.Struct("!HBBBL")
_DATA, _HEADERS, _PING, _WINDOW_UPDATE = 0, 1, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PING_BYTES, _WINDOW_UPDATE_BYTES = 8, 4
_WINDOW_MAX: Final = 2**31 - 1
# In which a DATA frame that does not end its stream changes nothing but the windows.
_OPEN_CONNECTION: Final = frozenset({ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN})
_OPEN_STREAM: Final = frozenset({StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL})
_OF_REQUEST: Final = HeaderValidationFlags(
    is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
)

RawHeaders = Sequence[tuple[bytes, bytes]]
Admit = Callable[[RawHeaders, bytes], object]
"""Says of a request by its headers and body what it is, or None when it is not to be taken as a whole. It must not raise."""


@dataclass
class WholeRequest(h2_events.Event):
    """A request that came as two frames and has ended; h2 has no stream for it. ``admitted`` is what `Admit` said."""

    stream_id: int
    headers: RawHeaders
    body: bytes
    admitted: object


@dataclass
class WholeRequestReset(h2_events.Event):
    """The peer gave up a call that came as a `WholeRequest`: it is not to be answered."""

    stream_id: int


def is_valid_request(headers: RawHeaders) -> bool:
    """Whether h2 would take these as the headers of a request (RFC 9113, 8.2 and 8.3)."""
    try:
        return len(list(validate_headers(headers, _OF_REQUEST))) == len(headers)
    except ProtocolError:
        return False


def _type_name(frame: Frame) -> str:
    return type(frame).__name__


class Http2(H2Connection):
    """h2's connection that spells out no frames and remembers fewer closed streams.

    h2 remembers closed streams to judge late frames; a long-lived connection of unary calls would keep 65,536.

    A serving end may set ``admit``. Then a request of one HEADERS and one DATA frame that it admits is a `WholeRequest`. Its
    stream is the caller's to end: by ``answer_whole``, ``refuse_whole`` or ``reset_whole``, or by ``adopt_whole``, which makes
    it one of h2's. Their number is the caller's to bound.
    """

    MAX_CLOSED_STREAMS = 256

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self._ahead = silence(self.encoder, self.decoder)
        self.admit: Admit | None = None
        self._whole: dict[int, int] = {}
        """By stream, whole requests without an answer: what the peer lets us send beyond its initial window."""

    _receive_frame = with_globals(H2Connection._receive_frame, repr=_type_name)

    def process(self, data: bytes) -> list[Event]:
        """`receive_data`. Raises h2's ProtocolError.

        A message of a long stream is one DATA frame or more, and comes alone: h2 takes five times as long for it. A short
        call comes as two frames: ten times.
        """
        events: list[Event] = []
        at, size = 0, len(data)
        while (at := self._take_frames(data, at, events)) < size:
            end = self._end_of_frame(data, at)
            events += self.receive_data(data[at:end] if end - at < size else data)
            at = end
        return events

    def _end_of_frame(self, data: bytes, at: int) -> int:
        """Where the frame ends that begins there; the end of the data when h2 has the beginning of one."""
        if self.incoming_buffer._data:
            return len(data)
        return min(len(data), at + FRAME_HEADER_BYTES + int.from_bytes(data[at : at + 3]))

    def _take_frames(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take the whole frames from there on with which nothing is unusual; returns where they end."""
        size, waiting = len(data), self.incoming_buffer
        if waiting._data or waiting._headers_buffer or waiting._preamble_len:
            return at
        frame_max = self.max_inbound_frame_size
        while size - at >= FRAME_HEADER_BYTES:
            high, low, kind, flags, stream_id = _FRAME_HEADER.unpack_from(data, at)
            begin, length = at + FRAME_HEADER_BYTES, high << 8 | low
            end = begin + length
            if length > frame_max or end > size:
                break
            if kind == _DATA and not flags:
                event = self._take_data(stream_id, data, begin, end)
            elif kind >= _PING and not (flags or stream_id):
                event = self._take_control(kind, data[begin:end])
            elif kind == _HEADERS and flags == _END_HEADERS and self.admit is not None:
                event, end = self._take_request(stream_id, data, begin, end)
            else:
                break
            if event is None:
                break
            events.append(event)
            at = end
        return at

    def _take_data(self, stream_id: int, data: bytes, begin: int, end: int) -> Event | None:
        stream, length = self.streams.get(stream_id), end - begin
        if stream is None or self.state_machine.state not in _OPEN_CONNECTION:
            return None
        whole, own = self._inbound_flow_control_window_manager, stream._inbound_window_manager
        is_usual = stream.state_machine.state in _OPEN_STREAM and stream._expected_content_length is None
        if not is_usual or length > min(whole.current_window_size, own.current_window_size):
            return None
        whole.window_consumed(length)
        own.window_consumed(length)
        return DataReceived(stream_id=stream_id, data=data[begin:end], flow_controlled_length=length)

    def _take_control(self, kind: int, body: bytes) -> Event | None:
        """A ping, or credit of the connection: some clients send both with each call."""
        if self.state_machine.state is ConnectionState.CLOSED:
            return None
        if kind == _PING and len(body) == _PING_BYTES:
            self._data_to_send += _frame_header(len(body), _PING, _ACK, 0) + body
            return PingReceived(ping_data=body)
        increment = int.from_bytes(body)
        if kind == _WINDOW_UPDATE and len(body) == _WINDOW_UPDATE_BYTES and increment > 0:
            window = self.outbound_flow_control_window + increment
            if window <= _WINDOW_MAX:
                self.outbound_flow_control_window = window
                return WindowUpdated(stream_id=0, delta=increment)
        return None

    def _take_request(self, stream_id: int, data: bytes, begin: int, end: int) -> tuple[Event | None, int]:
        """A request whose block lies between ``begin`` and ``end``, if its body is the next frame and it is admitted."""
        window, body_at = self._inbound_flow_control_window_manager, end + FRAME_HEADER_BYTES
        is_next = self.highest_inbound_stream_id < stream_id < 2**31 and stream_id & 1
        if not is_next or len(data) < body_at:
            return None, end
        high, low, kind, flags, stream_of_body = _FRAME_HEADER.unpack_from(data, end)
        length = high << 8 | low
        body_end = body_at + length
        is_usual = kind == _DATA and flags == _END_STREAM and stream_of_body == stream_id
        room = min(self.max_inbound_frame_size, window.current_window_size, self.local_settings.initial_window_size)
        if not is_usual or length > room or body_end > len(data):
            return None, end
        headers, body = self._ahead.decode_ahead(data[begin:end]), data[body_at:body_end]
        admitted = self.admit(headers, body) if headers is not None and self.admit is not None else None
        if headers is None or admitted is None:
            return None, end
        self._ahead.forget_ahead()
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        self.highest_inbound_stream_id = stream_id
        self._whole[stream_id] = 0
        window.window_consumed(length)
        if increment := window.process_bytes(length):
            self._prepare_for_sending([WindowUpdateFrame(0, window_increment=increment)])
        return WholeRequest(stream_id, headers, body, admitted), body_end

    def _receive_rst_stream_frame(self, frame: RstStreamFrame) -> tuple[list[Frame], list[Event]]:
        if self._whole.pop(frame.stream_id, None) is None:
            return super()._receive_rst_stream_frame(frame)
        return [], [WholeRequestReset(frame.stream_id)]

    def _receive_window_update_frame(self, frame: WindowUpdateFrame) -> tuple[list[Frame], list[Event]]:
        if frame.stream_id not in self._whole:
            return super()._receive_window_update_frame(frame)
        self._whole[frame.stream_id] += frame.window_increment
        return [], []

    def is_whole(self, stream_id: int) -> bool:
        """Whether a whole request waits for its end: it has none, and the peer has not given it up in what was read."""
        return stream_id in self._whole

    # -- the end of a whole request ---------------------------------------------------------------------------------------
    def answer_whole(self, stream_id: int, head: bytes, body: bytes, tail: bytes) -> bool:
        """End the stream with an answer, which leaves with what h2 has to send.

        ``head`` and ``tail`` are constant header blocks, ``body`` is DATA. False, and nothing has happened, when the body does
        not fit into a frame or into the windows.
        """
        window = min(
            self.outbound_flow_control_window, self.remote_settings.initial_window_size + self._whole[stream_id]
        )
        size = len(body)
        if size > min(window, self.max_outbound_frame_size):
            return False
        del self._whole[stream_id]
        self.outbound_flow_control_window -= size
        head = table_update(self.encoder) + head
        self._data_to_send += b"".join(
            (
                _frame_header(len(head), _HEADERS, _END_HEADERS, stream_id),
                head,
                _frame_header(size, _DATA, 0, stream_id),
                body,
                _frame_header(len(tail), _HEADERS, _END_HEADERS | _END_STREAM, stream_id),
                tail,
            )
        )
        return True

    def refuse_whole(self, stream_id: int, headers: Sequence[tuple[str, str]]) -> None:
        """End the stream with headers alone, which leave with what h2 has to send. They must fit into one frame."""
        del self._whole[stream_id]
        block = self.encoder.encode(headers)
        self._data_to_send += _frame_header(len(block), _HEADERS, _END_HEADERS | _END_STREAM, stream_id) + block

    def reset_whole(self, stream_id: int, code: ErrorCodes) -> None:
        """Give up the stream; the frame leaves with what h2 has to send."""
        del self._whole[stream_id]
        self._prepare_for_sending([RstStreamFrame(stream_id, error_code=code)])

    def adopt_whole(self, request: WholeRequest) -> None:
        """Make the stream one of h2's, which has its headers and its end: its body was taken, an answer is to come."""
        credit, stream_id = self._whole.pop(request.stream_id), request.stream_id
        highest, self.highest_inbound_stream_id = self.highest_inbound_stream_id, stream_id - 1
        stream = self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        self.highest_inbound_stream_id = highest
        headers = [HeaderTuple(*header) for header in request.headers]
        stream.receive_headers(headers, end_stream=True, header_encoding=self.config.header_encoding)
        stream.outbound_flow_control_window += credit


def _frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    return _FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def next_frame_bytes(http2: H2Connection) -> int:
    """The length that the frame at the front of the input buffer announces; 0 while that has not come."""
    waiting = http2.incoming_buffer._data
    return int.from_bytes(waiting[:3]) if len(waiting) >= FRAME_HEADER_BYTES else 0


def data_frames(http2: H2Connection, stream_id: int, data: bytes) -> bytes:
    """What h2 has to send, and then `data` as DATA frames; to be written at once, in one piece.

    `data` must fit into both windows. h2 is kept in step: its own frames go on from the windows that are left.
    """
    size, frame_max = len(data), http2.max_outbound_frame_size
    http2.outbound_flow_control_window -= size
    http2.streams[stream_id].outbound_flow_control_window -= size
    parts = [http2.data_to_send()] if http2._data_to_send else []
    for begin in range(0, size, frame_max):
        piece = data if size <= frame_max else data[begin : begin + frame_max]
        parts += (_frame_header(len(piece), _DATA, 0, stream_id), piece)
    return b"".join(parts)


def unlink(http2: H2Connection) -> None:
    """Cut the cycle in which h2 holds itself, so that a dead connection is freed at once. It takes no frames after it."""
    if hasattr(http2, "_frame_dispatch_table"):
        del http2._frame_dispatch_table
