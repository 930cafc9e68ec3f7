"""What our HTTP/2 connections do not spell out or remember, and that h2 stays in step with frames it did not make."""

from __future__ import annotations

import hpack.hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived
from hyperframe.frame import DataFrame, Frame

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
