"""h2's private parts: its input and output buffers, windows, dispatch table, and what it spells out for a log that is off.

Touched: of one connection each, `_receive_frame` in a copy that does not call `repr` (a DATA frame's spells its whole body
in hexadecimal, a quarter of what receiving a batch costs); `FrameBuffer._data` (a frame's length is seen before h2 buffers
up to 16 MiB); it, `_headers_buffer`, states, inbound windows and `_expected_content_length` (a whole DATA frame with which
nothing is unusual changes nothing but the windows, and is taken here); `_data_to_send` (one write instead of two);
`outbound_flow_control_window` of connection and stream (DATA is framed here, which costs less than h2's way);
`_frame_dispatch_table` (the cycle through which h2 holds itself);
`MAX_CLOSED_STREAMS`. Guard tests: tests/component/private/test_h2.py, tests/contract/transport/test_grpc.py and test_streams.py.
"""

from __future__ import annotations

import struct
from typing import Final

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import DataReceived, Event
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream, StreamState
from hyperframe.frame import Frame

from common.private.hpack import silence
from common.private.surface import require, require_used, with_globals

require("h2", H2Connection, "_receive_frame", "MAX_CLOSED_STREAMS")
require_used("h2", H2Connection._receive_frame, "repr")
require_used("h2", H2Connection.receive_data, "_receive_frame")
require_used("h2", H2Connection._receive_data_frame, "_inbound_flow_control_window_manager", "window_consumed")
require_used("h2", H2Stream.receive_data, "_inbound_window_manager", "window_consumed", "_track_content_length")
require("h2", FrameBuffer(), "_data", "_headers_buffer")
_probe = H2Connection(H2Configuration())
require("h2", _probe, "incoming_buffer", "outbound_flow_control_window", "_data_to_send", "_frame_dispatch_table")
require("h2", _probe, "encoder", "decoder", "streams", "max_outbound_frame_size")
_probe.initiate_connection()
_probe.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
require("h2", _probe.streams[1], "outbound_flow_control_window", "_inbound_window_manager", "_expected_content_length")
require("h2", _probe.streams[1].state_machine, "state")
del _probe

FRAME_HEADER_BYTES: Final = 9
# A frame's length in 24 bits, type DATA, no flags, its stream.
_DATA_HEADER: Final = struct.Struct("!HBBBL")
# In which a DATA frame that does not end its stream changes nothing but the windows.
_OPEN_CONNECTION: Final = frozenset({ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN})
_OPEN_STREAM: Final = frozenset({StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL})


def _type_name(frame: Frame) -> str:
    return type(frame).__name__


class Http2(H2Connection):
    """h2's connection that spells out no frames and remembers fewer closed streams.

    h2 remembers closed streams to judge late frames; a long-lived connection of unary calls would keep 65,536.
    """

    MAX_CLOSED_STREAMS = 256

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        silence(self.encoder, self.decoder)

    _receive_frame = with_globals(H2Connection._receive_frame, repr=_type_name)

    def process(self, data: bytes) -> list[Event]:
        """`receive_data`. Raises h2's ProtocolError.

        A message of a long stream is one DATA frame or more, and comes alone: h2 takes five times as long for it.
        """
        events, end = self._take_data_frames(data)
        if end < len(data):
            events += self.receive_data(data[end:] if end else data)
        return events

    def _take_data_frames(self, data: bytes) -> tuple[list[Event], int]:
        """The events of the whole DATA frames at the front with which nothing is unusual, and where they end."""
        events: list[Event] = []
        at, size, waiting = 0, len(data), self.incoming_buffer
        if waiting._data or waiting._headers_buffer or self.state_machine.state not in _OPEN_CONNECTION:
            return events, at
        whole, frame_max = self._inbound_flow_control_window_manager, self.max_inbound_frame_size
        while size - at >= FRAME_HEADER_BYTES:
            high, low, kind, flags, stream_id = _DATA_HEADER.unpack_from(data, at)
            begin, length = at + FRAME_HEADER_BYTES, high << 8 | low
            stream = self.streams.get(stream_id)
            if kind or flags or length > min(frame_max, size - begin) or stream is None:
                break
            own = stream._inbound_window_manager
            is_usual = stream.state_machine.state in _OPEN_STREAM and stream._expected_content_length is None
            if not is_usual or length > min(whole.current_window_size, own.current_window_size):
                break
            whole.window_consumed(length)
            own.window_consumed(length)
            at = begin + length
            piece = data[begin:at]
            events.append(DataReceived(stream_id=stream_id, data=piece, flow_controlled_length=length))
        return events, at


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
        parts += (_DATA_HEADER.pack(len(piece) >> 8, len(piece) & 0xFF, 0, 0, stream_id), piece)
    return b"".join(parts)


def unlink(http2: H2Connection) -> None:
    """Cut the cycle in which h2 holds itself, so that a dead connection is freed at once. It takes no frames after it."""
    if hasattr(http2, "_frame_dispatch_table"):
        del http2._frame_dispatch_table
