"""A request to an ASGI application without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson
import trio
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers and body."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:  # noqa: ANN401  whatever was answered
        """The body as JSON."""
        return orjson.loads(self.content)


async def http_request(
    app: ASGIApp, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """Call ``app`` as a server does; ``target`` is path and query, ``body`` is sent as JSON when it is not bytes.

    In the names of ``headers`` an underscore stands for a dash.
    """
    content = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
    path, _, query = target.partition("?")
    given = {"host": "localhost"} | {name.lower().replace("_", "-"): value for name, value in (headers or {}).items()}
    if content:
        given.setdefault("content-length", str(len(content)))
        given.setdefault("content-type", "application/json")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("test", 1),
        "server": ("test", 80),
    }
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
    answered = trio.Event()
    status, response_headers, parts = 0, {}, []

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, response_headers
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            status = message["status"]
            response_headers = {name.decode(): value.decode() for name, value in message.get("headers", ())}
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                answered.set()

    await app(scope, receive, send)
    return HttpAnswer(status, response_headers, b"".join(parts))
