"""What our HTTP/2 connections do not spell out or remember, and that h2 stays in step with frames it did not make."""

from __future__ import annotations

from itertools import pairwise

import hpack.hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived
from h2.exceptions import ProtocolError
from hyperframe.frame import DataFrame, Frame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from common.private.h2 import FRAME_HEADER_BYTES, Http2, data_frames, next_frame_bytes, unlink

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "x"), ("x-key", "v" * 50)]


def pair() -> tuple[Http2, Http2]:
    client, server = Http2(H2Configuration(client_side=True)), Http2(H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()
    server.process(client.data_to_send())
    client.process(server.data_to_send())
    server.process(client.data_to_send())
    return client, server


def test_no_frame_is_spelled_out_and_no_header_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("for a log that is off")

    monkeypatch.setattr(Frame, "__repr__", refuse)
    monkeypatch.setattr(DataFrame, "_body_repr", refuse)
    monkeypatch.setattr(hpack.hpack.log, "debug", refuse)
    client, server = pair()
    client.send_headers(1, REQUEST)
    client.send_data(1, b"body")
    events = server.process(client.data_to_send())
    assert [type(event) for event in events] == [RequestReceived, DataReceived]
    with pytest.raises(AssertionError):
        H2Connection(H2Configuration()).encoder.encode([("a", "b")])  # others' connections are as they were


_SENT = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.sampled_from([1, 3, 5]), st.binary(max_size=40)),
        st.tuples(st.just("padded"), st.sampled_from([1, 3]), st.binary(max_size=40)),
        st.tuples(st.just("credit"), st.sampled_from([1, 3]), st.just(b"")),
        st.tuples(st.just("grant"), st.just(0), st.just(b"")),
        st.tuples(st.just("ping"), st.just(0), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just("end"), st.just(5), st.binary(max_size=9)),
        st.tuples(st.just("large"), st.sampled_from([1, 3]), st.just(bytes(16_000))),
    ),
    max_size=12,
)


def frames_of(sent: list[tuple[str, int, bytes]], content_length: str | None) -> list[bytes]:
    """What a client sends on three calls: its beginning, and then a frame each; stock h2 makes them."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    for stream_id in (1, 3, 5):
        client.send_headers(stream_id, REQUEST + ([("content-length", content_length)] if content_length else []))
    has_ended = False
    frames = [client.data_to_send()]
    for kind, stream_id, data in sent:
        if has_ended and stream_id == 5:
            frames.append(DataFrame(5, data=data).serialize())  # h2 itself would refuse to send it
            continue
        if kind == "credit":
            client.increment_flow_control_window(1_000, stream_id)
        elif kind == "grant":
            frames.append(WindowUpdateFrame(0, window_increment=2**29).serialize())  # the fourth is too much
        elif kind == "ping":
            client.ping(data)
        elif len(data) < client.local_flow_control_window(stream_id):
            has_ended = has_ended or kind == "end"
            client.send_data(stream_id, data, end_stream=kind == "end", pad_length=3 if kind == "padded" else None)
        frames.append(client.data_to_send())
    return list(filter(None, frames))


def taken(server: H2Connection, pieces: list[bytes]) -> list[object]:
    """The events of each piece, the windows after it, and how it ended."""
    found: list[object] = []
    server.initiate_connection()
    try:
        for piece in pieces:
            for event in server.process(piece) if isinstance(server, Http2) else server.receive_data(piece):
                if isinstance(event, DataReceived):
                    length, has_ended = event.flow_controlled_length, bool(event.stream_ended)
                    found.append((event.stream_id, bytes(event.data), length, has_ended))
                else:
                    found.append(type(event))
            managers = [stream._inbound_window_manager for stream in server.streams.values()]
            found.append([dict(vars(each)) for each in (server._inbound_flow_control_window_manager, *managers)])
            found.append(server.outbound_flow_control_window)
    except ProtocolError as error:
        found.append(type(error))
    return [*found, server.data_to_send(), server.outbound_flow_control_window]


@given(
    _SENT,
    st.sampled_from([None, None, "30"]),
    st.sets(st.integers(0, 12)),
    st.lists(st.integers(0, 40_000), max_size=2),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(0, 255)), max_size=2),
)
def test_data_is_taken_as_h2_takes_it(
    sent: list[tuple[str, int, bytes]],
    content_length: str | None,
    joined: set[int],
    cuts: list[int],
    damage: list[tuple[int, int, int]],
) -> None:
    """However the bytes come and whatever is wrong with them: the same events, windows, errors and answers.

    Frames come alone, those in ``joined`` with the next one, and cut in two at ``cuts``; ``damage`` is mostly of their heads.
    """
    frames = list(map(bytearray, frames_of(sent, content_length)))
    for number, at, value in damage:
        if number < len(frames):
            frames[number][at % len(frames[number])] = value
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames)) if number not in joined]
    data = b"".join(frames)
    places = sorted({0, len(data), *ends, *(cut % len(data) for cut in cuts)})
    pieces = [data[begin:end] for begin, end in pairwise(places)]
    ours, theirs = Http2(H2Configuration(client_side=False)), H2Connection(H2Configuration(client_side=False))
    assert taken(ours, pieces) == taken(theirs, pieces)


def test_data_beyond_the_window_is_refused() -> None:
    answers = []
    ours, theirs = Http2(H2Configuration(client_side=False)), H2Connection(H2Configuration(client_side=False))
    for server, take in ((ours, ours.process), (theirs, theirs.receive_data)):
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        server.initiate_connection()
        client.send_headers(1, REQUEST)
        take(client.data_to_send())
        frame = DataFrame(1, data=bytes(16_000)).serialize()
        for _ in range(4):
            take(frame)
        server.data_to_send()
        with pytest.raises(ProtocolError):
            take(frame)
        answers.append(server.data_to_send())
    assert answers[0] == answers[1]


def test_h2_goes_on_from_the_windows_that_our_own_frames_leave() -> None:
    client, server = pair()
    client.send_headers(1, REQUEST)
    before = client.local_flow_control_window(1)
    events = server.process(data_frames(client, 1, b"a" * 20_000))
    assert [len(event.data or b"") for event in events if isinstance(event, DataReceived)] == [16_384, 3_616]
    assert client.local_flow_control_window(1) == before - 20_000 == server.remote_flow_control_window(1)
    client.send_data(1, b"b", end_stream=True)
    [data, *_] = received(server, client)
    assert isinstance(data, DataReceived)
    assert data.data == b"b"


def received(server: Http2, client: Http2) -> list[Event]:
    return server.process(client.data_to_send())


def test_a_frames_length_is_known_before_its_body_has_come() -> None:
    client, server = pair()
    client.send_headers(1, REQUEST)
    received(server, client)
    client.send_data(1, b"x" * 1_000)
    frame = client.data_to_send()
    assert next_frame_bytes(server) == 0
    server.process(frame[: FRAME_HEADER_BYTES - 1])
    assert next_frame_bytes(server) == 0
    server.process(frame[FRAME_HEADER_BYTES - 1 : -1])
    assert next_frame_bytes(server) == 1_000
    server.process(frame[-1:])
    assert next_frame_bytes(server) == 0


def test_closed_streams_are_forgotten_soon_and_a_dead_connection_is_unlinked() -> None:
    client, _ = pair()
    assert client.MAX_CLOSED_STREAMS < H2Connection.MAX_CLOSED_STREAMS
    unlink(client)
    unlink(client)
