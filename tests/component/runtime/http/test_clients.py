"""The HTTP server and clients that misbehave: too much, too slow, garbage, resets. Nobody else feels them."""

from __future__ import annotations

import re
import socket
import struct

import pytest
import structlog
import trio

from tests.support.http import serving

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("path", ["/echo", "/nowhere", "/ignore"])
async def test_a_client_that_sends_much_more_than_anyone_reads_gets_its_answer_and_holds_nothing(path: str) -> None:
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    async with serving() as world:
        client = await world.connect()
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        fields = "host: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked"
        await client.send(f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        await client.send(chunk * 60 + b"0\r\n\r\n")
        assert (await client.answer()).status == (413 if path == "/echo" else 404 if path == "/nowhere" else 200)
        await client.stream.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(
            b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "http.body_too_slow")
        await client.stream.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 70_000,
        b"\r\n\r\n\r\n\0\0\0\0\0\0",
    ],
)
async def test_garbage_is_answered_with_a_code_logged_and_harms_nobody_else(garbage: bytes) -> None:
    async with serving() as world:
        other = await world.connect()
        assert (await other.request("GET", "/livez")).status == 200
        client = await world.connect()
        with structlog.testing.capture_logs() as logs:
            await client.send(garbage)
            answer = await client.answer()
        assert answer.code == "http.malformed_request"
        assert [line["event"] for line in logs] == ["http.malformed"]
        assert await client.is_closed()
        assert (await other.request("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    "lengths",
    [
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    ],
)
async def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read(lengths: bytes) -> None:
    async with serving() as world:
        client = await world.connect()
        smuggled = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
        with structlog.testing.capture_logs() as logs:
            await client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\n" + lengths + b"\r\n0\r\n\r\n" + smuggled)
            answer = await client.answer()
        assert (answer.status, answer.code) == (400, "http.two_lengths")
        assert answer.headers["connection"] == "close"
        assert [(line["event"], line["code"]) for line in logs] == [("http.malformed", "http.two_lengths")]
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("status", "request_head"),
    [
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (
            200,
            b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n",
        ),
        (
            200,
            b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ),
    ],
)
async def test_no_other_protocol_is_spoken(status: int, request_head: bytes) -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(request_head)
        answer = await client.answer()
        assert answer.status == status
        assert re.fullmatch(rb"\{.*\}|", answer.body)


async def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async with serving(connections_max=1) as world:
        first = await world.connect()
        assert (await first.request("GET", "/livez")).status == 200
        with structlog.testing.capture_logs() as logs:
            assert await (await world.connect()).is_closed()
        assert [line["event"] for line in logs] == ["http.connection_refused"]
        await first.stream.aclose()
        with trio.fail_after(5):
            while True:  # the server sees the close a moment later
                try:
                    assert (await (await world.connect()).request("GET", "/livez")).status == 200
                    break
                except (EOFError, trio.BrokenResourceError):
                    await trio.lowlevel.checkpoint()


async def test_a_client_that_resets_is_forgotten() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await client.stream.receive_some(10)
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        with structlog.testing.capture_logs() as logs:
            await client.stream.aclose()
            assert (await (await world.connect()).request("GET", "/livez")).status == 200
        assert logs == []


async def test_a_client_that_is_gone_before_it_is_accepted_harms_nobody() -> None:
    async with serving() as world:
        with socket.create_connection(("127.0.0.1", world.port)) as hasty:  # blocking: the server cannot run yet
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        assert (await (await world.connect()).request("GET", "/livez")).status == 200


async def test_a_client_that_stops_reading_does_not_hold_the_end_up() -> None:
    with trio.fail_after(5):
        async with serving(drain_s=0.1) as world:
            client = await world.connect()
            await client.send(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await client.stream.receive_some(10)


async def test_a_body_whose_chunks_are_none_is_refused_with_a_code() -> None:
    async with serving() as world:
        client = await world.connect()
        head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        with structlog.testing.capture_logs() as logs:
            await client.send(head + b"2\r\n{}\r\nno length\r\n")
            answer = await client.answer()
        assert (answer.status, answer.code) == (400, "http.malformed_request")
        assert [line["event"] for line in logs] == ["http.malformed"]
        assert await client.is_closed()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_malformed_request() -> None:
    async with serving() as world:
        client = await world.connect()
        head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"
        with structlog.testing.capture_logs() as logs:
            await client.send(head + b"{")
            await client.stream.send_eof()
            assert await client.is_closed()
        assert logs == []
