"""The HTTP server over real loopback sockets: answers, refusals, bounds, draining, and clients that misbehave."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.runtime.health import Readiness, health_routes
from common.runtime.http import serve_http
from common.runtime.http_app import HttpApp, json_response, read_json
from common.runtime.metrics import Registry

BODY_MAX = 200_000
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def code(self) -> object:
        error = self.json["error"]
        assert isinstance(error, dict)
        return error["code"]


class Client:
    """One connection, speaking raw bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> Answer:
        received = b""
        with trio.fail_after(10):
            while b"\r\n\r\n" not in received:
                received += await self._some()
            head, body = received.split(b"\r\n\r\n", 1)
            first, *rest = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
            while len(body) < int(headers["content-length"]):
                body += await self._some()
        return Answer(int(first.split()[1]), headers, body)

    async def _some(self) -> bytes:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        return bytes(data)

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        await self.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        return await self.answer()

    async def is_closed(self) -> bool:
        with trio.fail_after(10):
            try:
                return await self.stream.receive_some(1) == b""
            except trio.BrokenResourceError:
                return True


class World:
    """An application whose handlers the tests control, and what they need to reach it."""

    def __init__(self) -> None:
        self.port = 0
        self.readiness = Readiness()
        self.not_ready: str | None = None
        self.readiness.add("journal", lambda: self.not_ready)
        self.may_answer = trio.Event()
        self.is_handling = trio.Event()
        self.metrics = Registry("backhaul_edge")
        self.clients: list[Client] = []

    async def echo(self, request: Request) -> Response:
        return json_response({"got": await read_json(request)})

    async def ignore_body(self, _: Request) -> Response:
        return json_response({"ignored": True})

    async def wait(self, _: Request) -> Response:
        self.is_handling.set()
        await self.may_answer.wait()
        return json_response({"waited": True})

    async def refuse(self, request: Request) -> Response:
        kind = ErrorKind(request.query_params.get("kind", "invalid"))
        raise BackhaulError("events.invalid", "no", "do it differently", kind=kind, details={"index": 3})

    async def away(self, _: Request) -> Response:
        async with trio.open_nursery():
            raise BackhaulError("journal.unavailable", "away", "wait", retry_after_s=1.2)

    async def crash(self, _: Request) -> Response:
        raise ZeroDivisionError("secret detail")

    async def large(self, _: Request) -> Response:
        return Response(b"x" * 20_000_000)

    async def status(self) -> dict[str, object]:
        return {"head": 7}

    def app(self) -> HttpApp:
        routes = [
            Route("/echo", self.echo, methods=["POST"]),
            Route("/ignore", self.ignore_body, methods=["POST"]),
            Route("/wait", self.wait),
            Route("/refuse", self.refuse),
            Route("/away", self.away),
            Route("/crash", self.crash),
            Route("/large", self.large),
            *health_routes(self.readiness, self.status, self.metrics),
        ]
        return HttpApp(routes, body_max_bytes=BODY_MAX, body_timeout_s=0.5)

    async def connect(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    @asynccontextmanager
    async def serve(self, connections_max: int = 50, drain_s: float = 3.0) -> AsyncIterator[None]:
        """The server; clients stay open until it has ended, so that ending cannot lean on them."""
        async with serve_http(
            self.app(), "127.0.0.1", 0, connections_max=connections_max, drain_s=drain_s
        ) as self.port:
            yield
        for client in self.clients:
            await client.stream.aclose()


@asynccontextmanager
async def serving(connections_max: int = 50, drain_s: float = 3.0) -> AsyncIterator[World]:
    world = World()
    async with world.serve(connections_max, drain_s):
        yield world


async def test_one_connection_serves_many_requests() -> None:
    async with serving() as world:
        client = await world.connect()
        for number in range(20):
            answer = await client.request("POST", "/echo", b'{"n": %d}' % number)
            assert (answer.status, answer.json) == (200, {"got": {"n": number}})
            assert answer.headers["content-type"] == "application/json"


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
        received = b""
        with trio.fail_after(5):
            while received.count(b'{"alive":true}') < 3:
                received += bytes(await client.stream.receive_some())
        assert received.count(b"HTTP/1.1 200") == 3


async def test_health_pages() -> None:
    async with serving() as world:
        world.metrics.counter("events_total", "Events.")
        client = await world.connect()
        assert (await client.request("GET", "/livez")).json == {"alive": True}
        assert (await client.request("GET", "/readyz")).json == {"ready": True, "reasons": {}}
        assert (await client.request("GET", "/status")).json == {"head": 7}
        page = await client.request("GET", "/metrics")
        assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"backhaul_edge_events_total 0\n" in page.body


async def test_not_ready_is_503_with_the_reasons_and_still_alive() -> None:
    async with serving() as world:
        world.not_ready = "no connection to the database"
        client = await world.connect()
        answer = await client.request("GET", "/readyz")
        assert answer.status == 503
        assert answer.json == {"ready": False, "reasons": {"journal": "no connection to the database"}}
        assert (await client.request("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", b"", 404, "http.no_such_path"),
        ("POST", "/nowhere", b"{}", 404, "http.no_such_path"),
        ("GET", "/echo", b"", 405, "http.method_not_allowed"),
        ("POST", "/echo", b"{", 400, "http.malformed_json"),
        ("POST", "/echo", b"", 400, "http.malformed_json"),
        ("POST", "/echo", b'"\xff"', 400, "http.malformed_json"),
        ("GET", "/refuse", b"", 400, "events.invalid"),
        ("GET", "/refuse?kind=conflict", b"", 409, "events.invalid"),
        ("GET", "/refuse?kind=full", b"", 507, "events.invalid"),
        ("GET", "/crash", b"", 500, "http.internal_error"),
        ("GET", "/away", b"", 503, "journal.unavailable"),
    ],
)
async def test_every_refusal_has_a_status_and_a_code_and_leaves_the_connection_usable(
    method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with serving() as world:
        client = await world.connect()
        with structlog.testing.capture_logs() as logs:
            answer = await client.request(method, path, body)
        assert (answer.status, answer.code) == (status, code)
        assert [line["event"] for line in logs] == ["http.failed" if status == 500 else "http.refused"]
        assert (await client.request("GET", "/livez")).status == 200


async def test_the_answer_to_a_refusal_has_everything_the_error_has() -> None:
    async with serving() as world:
        client = await world.connect()
        assert (await client.request("GET", "/refuse")).json == {
            "error": {
                "code": "events.invalid",
                "message": "no",
                "hint": "do it differently",
                "details": {"index": 3},
            }
        }
        assert (await client.request("GET", "/away")).headers["retry-after"] == "2"
        assert (await client.request("GET", "/echo")).headers["allow"] == "POST"
        assert b"secret detail" not in (await client.request("GET", "/crash")).body


async def test_a_body_announced_too_large_is_refused_before_it_is_read() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 900000000\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "http.body_too_large")
        await client.stream.aclose()


@pytest.mark.parametrize("path", ["/echo", "/nowhere", "/ignore"])
async def test_a_client_that_sends_much_more_than_anyone_reads_gets_its_answer_and_holds_nothing(path: str) -> None:
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    async with serving() as world:
        client = await world.connect()
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        await client.send(f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await client.send(chunk * 60 + b"0\r\n\r\n")
        assert (await client.answer()).status == (413 if path == "/echo" else 404 if path == "/nowhere" else 200)
        await client.stream.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "http.body_too_slow")
        await client.stream.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000,
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
    "request_head",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ],
)
async def test_no_other_protocol_is_spoken(request_head: bytes) -> None:
    async with serving() as world:
        client = await world.connect()
        await client.send(request_head)
        answer = await client.answer()
        assert answer.status in (200, 403, 404)
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
        await client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
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
            await client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
            await client.stream.receive_some(10)


async def test_draining_finishes_what_is_begun_and_takes_nothing_new() -> None:
    world = World()
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        async with world.serve(drain_s=5):
            busy, idle = await world.connect(), await world.connect()
            assert (await idle.request("GET", "/livez")).status == 200

            async def ask() -> None:
                answers.append(await busy.request("GET", "/wait"))

            async def let_it_finish_once_refused() -> None:
                assert await idle.is_closed()
                with pytest.raises(OSError, match="all attempts to connect"):
                    await world.connect()
                world.may_answer.set()

            nursery.start_soon(ask)
            await world.is_handling.wait()
            nursery.start_soon(let_it_finish_once_refused)
    assert [answer.status for answer in answers] == [200]


async def test_draining_ends_at_its_deadline() -> None:
    with trio.fail_after(5):
        async with serving(drain_s=0.1) as world:
            client = await world.connect()
            await client.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            await world.is_handling.wait()


async def test_an_address_in_use_is_a_configuration_error() -> None:
    async with serving() as world:
        with pytest.raises(ConfigurationError, match="cannot listen") as caught:
            async with serve_http(world.app(), "127.0.0.1", world.port):
                raise AssertionError
        assert caught.value.code == "http.cannot_listen"


async def test_what_hypercorn_raises_ends_in_a_log_line_not_in_the_service() -> None:
    async def broken_app(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError(scope["path"])

    async with serve_http(broken_app, "127.0.0.1", 0) as port:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        with structlog.testing.capture_logs() as logs:
            assert (await client.request("GET", "/x")).status == 500
        await client.stream.aclose()
        assert [line["event"] for line in logs] == ["http.connection_failed"]
