"""The HTTP server over loopback with an application whose handlers tests control, and a client that speaks raw bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.core.errors import BackhaulError, ErrorKind
from common.runtime.http.app import HttpApp, json_response, read_json
from common.runtime.http.health import Readiness, health_routes
from common.runtime.http.serving.server import serve_http
from common.runtime.metrics import MetricsRegistry

BODY_MAX = 200_000
JSON_FIELDS = ("host: localhost", "content-type: application/json")


def request(
    body: object, *fields: str, first: str = "POST /v1/events HTTP/1.1", usual: tuple[str, ...] = JSON_FIELDS
) -> bytes:
    """The bytes of a request with a Content-Length; bodies that are not bytes are sent as JSON."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [first, *usual, f"content-length: {len(content)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + content


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
        return Answer(int(first.split()[1]), headers, body[: int(headers["content-length"])])

    async def _some(self) -> bytes:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        return bytes(data)

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        kind = "content-type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)
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
        self.metrics = MetricsRegistry("backhaul_edge")
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
