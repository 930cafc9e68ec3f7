"""The HTTP application around a service's routes: bounded bodies, errors as JSON, one line for each refusal.

Routes are Starlette's; they raise `BackhaulError` and answer with `json_response`. Everything that goes
wrong, here or in them, is answered `{"error": {"code", "message", "hint", …}}` by `_refuse`, and unknown
exceptions are logged with their traceback. A body is refused before it is read where its length is announced,
and while it is read where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Final, NoReturn

import orjson
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from common.core.errors import FOREIGN, BackhaulError, ErrorKind
from common.core.events import json_text
from common.core.events.json_text import TOP_ONLY, Visits
from common.core.flow.measures import CodeCounts
from common.core.plain_http import PlainHead
from common.core.policy.doors import Door
from common.core.policy.rights import Access, is_audited, right_for
from common.runtime.http.audited import TOKEN_KEY, Record, audited
from common.runtime.http.promptly import Answer, Begin, prompt_routes
from common.runtime.logs.fields import leaf_errors
from common.runtime.logs.setup import get_logger

log = get_logger()

_STATUS: Final = {
    ErrorKind.INVALID: 400,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.FULL: 507,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.INTERNAL: 500,
}
# Where HTTP has a more telling status than the kind's.
_STATUS_OF_CODE: Final = {
    "http.method_not_allowed": 405,
    "http.body_too_slow": 408,
    "http.body_type_refused": 415,
    "auth.token_refused": 401,
}

# A client that is still sending when it is refused reads the answer only if we go on taking in the rest.
_LINGER_S: Final = 2.0


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as orjson writes it."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def parse_json(body: bytes, visits: Visits = TOP_ONLY) -> object:
    """The JSON value of a body, its raw members as the text that came (`json_text.read_keeping`).

    The one reader of JSON in requests. Raises BackhaulError: `http.malformed_json`, `http.json_too_deep`,
    `http.invalid_request` for a member that is given twice, where one of the two would be dropped.
    """
    try:
        return json_text.read_keeping(body, visits)
    except json_text.UnfitJson as unfit:
        raise unfit_json(unfit) from None


def unfit_json(unfit: json_text.UnfitJson) -> BackhaulError:
    """The refusal of a text that is no JSON, or none that can be kept."""
    details = {"field": unfit.place} if unfit.place else {}
    if unfit.too_deep:
        return BackhaulError(
            "http.json_too_deep",
            f"{unfit.place or 'the body'} {unfit.what}",
            f"nothing was stored: send a payload of at most {json_text.PAYLOAD_LEVELS_MAX} levels,"
            " or as payload_base64",
            details=details,
        )
    if unfit.place:
        hint = "nothing was stored: mend the request and send it again"
        return BackhaulError("http.invalid_request", f"{unfit.place} {unfit.what}", hint, details=details)
    return BackhaulError("http.malformed_json", f"the body {unfit.what}", "send one JSON value in UTF-8")


async def read_json(request: Request, visits: Visits = TOP_ONLY) -> object:
    """As `parse_json`, of the request's body."""
    return parse_json(await request.body(), visits)


def error_response(error: BackhaulError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer every refusal gets, with `Retry-After` where the error has one."""
    sent_headers = dict(headers or {})
    if error.retry_after_s is not None:
        sent_headers["retry-after"] = str(math.ceil(error.retry_after_s))
    status = _STATUS_OF_CODE.get(error.code, _STATUS[error.kind])
    return json_response({"error": error.as_dict()}, status, sent_headers)


class HttpApp:
    """An ASGI application over `routes`; bodies have at most `body_max_bytes` and `body_timeout_s`.

    `door` decides from a request's head whether a route sees it; without one, requests under loopback names do.
    `access` says which rights are asked for here, and by which tokens; without it all are, without tokens.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        *,
        body_max_bytes: int,
        body_timeout_s: float = 30.0,
        door: Door | None = None,
        access: Access | None = None,
    ) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._prompt_routes = prompt_routes(routes)
        self._door = door or Door()
        self._access = access or Access()
        self._body_max_bytes = body_max_bytes
        self._body_timeout_s = body_timeout_s
        self.refusals = CodeCounts()

    def behind(self, access: Access) -> HttpApp:
        """The same application at a door that gives these rights."""
        other = copy(self)
        other._access = access
        return other

    def promptly(self, head: PlainHead) -> Begin | None:
        """What serves requests of this head without ASGI: none that would be refused for its head, and none that is audited."""
        serve = self._prompt_routes.get(head.path)
        if serve is None or is_audited("POST", head.path) or head.body_bytes > self._body_max_bytes:
            return None
        if _turned_away(self._door, self._access, "POST", head.path, head.headers, has_body=True) is not None:
            return None
        request = {"method": "POST", "path": head.path}

        def begin(body: bytes, answer: Answer) -> bool:
            def reply(make: Callable[[], Response]) -> None:
                try:
                    response = make()
                except FOREIGN as error:
                    response = self._refusal(error, request)[1]
                answer(response.status_code, response.raw_headers, bytes(response.body))

            try:
                return serve(head.headers, body, reply)
            except BackhaulError:
                return False
            except FOREIGN as error:  # not by ASGI: nobody knows what has happened already
                reply(partial(_raise, error))
                return True

        return begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        exchange = _Exchange(scope, receive, send, self._body_max_bytes, self._body_timeout_s)
        if not is_audited(scope["method"], scope["path"]):
            await self._answer(exchange, scope)
            return
        with audited(scope) as exchange.record:
            await self._answer(exchange, scope)

    async def _answer(self, exchange: _Exchange, scope: Scope) -> None:
        scope["app"] = self  # so that the router raises for what it does not know, instead of answering itself
        try:
            exchange.check_head(self._door, self._access, scope)
            await self._router(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except FOREIGN as error:  # a failing handler is answered 500 and logged, not our end
            exchange.record.code, response = self._refusal(error, scope)
            if exchange.is_answering:
                return  # too late for another answer; the server closes the connection
            await response(scope, exchange.receive, exchange.send)

    def _refusal(self, error: BaseException, scope: Mapping[str, Any]) -> tuple[str, Response]:
        """Log and count what went wrong; its code, and the answer."""
        refusal, headers = _refuse(error, scope)
        self.refusals.add(refusal.code)
        return refusal.code, error_response(refusal, headers)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _turned_away(
    door: Door, access: Access, method: str, path: str, headers: Mapping[bytes, bytes], *, has_body: bool
) -> BackhaulError | None:
    """Why a request may not come in at this door, by its head."""
    refusal = door.refusal(method, path, headers, has_body=has_body)
    return refusal or access.refusal(right_for(path), headers.get(b"authorization", b"").decode("latin-1"))


def _refuse(error: BaseException, scope: Mapping[str, Any]) -> tuple[BackhaulError, Mapping[str, str] | None]:
    """Log what went wrong; the refusal to answer with, and its headers."""
    leaves = leaf_errors(error)
    found = leaves[0] if len(leaves) == 1 else error
    request = {"method": scope["method"], "path": scope["path"][:200]}
    headers: Mapping[str, str] | None = None
    if isinstance(found, HTTPException):
        headers = found.headers
        found = _routing_error(found, request)
    if isinstance(found, BackhaulError):
        log.warning(
            "http.refused",
            code=found.code,
            reason=found.message,
            method=request["method"],
            path=request["path"],
            repeat_key=found.code,
        )
        return found, headers
    log.error("http.failed", method=request["method"], path=request["path"], exc_info=error)
    return (
        BackhaulError(
            "http.internal_error",
            "the request failed inside the service",
            "the service's log has the reason (http.failed)",
            kind=ErrorKind.INTERNAL,
        ),
        headers,
    )


def _routing_error(error: HTTPException, request: Mapping[str, str]) -> BackhaulError:
    if error.status_code == 405:
        return BackhaulError(
            "http.method_not_allowed",
            f"{request['method']} is not for this path",
            f"use {(error.headers or {}).get('Allow', 'another method')}",
        )
    return BackhaulError(
        "http.no_such_path",
        f"there is nothing at {request['path']}",
        "docs/http.md has the paths of both services",
        kind=ErrorKind.NOT_FOUND,
    )


class _Exchange:
    """One request and its answer, between the server's `receive` and `send` and the application's."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_max_bytes: int, body_timeout_s: float) -> None:
        self._receive = receive
        self._send = send
        self._body_max_bytes = body_max_bytes
        self._body_deadline = trio.current_time() + body_timeout_s
        self._body_bytes = 0
        self._headers = headers = dict(scope["headers"])
        self._announced = headers.get(b"content-length")
        self._is_body_over = self._announced in (None, b"0") and b"transfer-encoding" not in headers
        self.is_answering = False
        self.record = Record()

    def check_head(self, door: Door, access: Access, scope: Scope) -> None:
        """Refuse what the door does not let in, and a body that says it is too large, before any of it is read."""
        method, path = scope["method"], scope["path"]
        refusal = _turned_away(door, access, method, path, self._headers, has_body=not self._is_body_over)
        if refusal is None:
            scope[TOKEN_KEY] = access.token_name(right_for(path))
        else:
            self.record.is_turned_away = True
            raise refusal
        if self._announced is not None and int(self._announced) > self._body_max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, or the disconnect; `BackhaulError` when it is too much or too slow."""
        if self._is_body_over:
            return await self._receive()
        with trio.move_on_at(self._body_deadline):
            message = await self._next_message()
            if self._body_bytes > self._body_max_bytes:
                raise self._too_large()
            return message
        raise BackhaulError(
            "http.body_too_slow",
            f"the body did not arrive in time; {self._body_bytes} bytes did",
            "send smaller batches",
        )

    async def send(self, message: Message) -> None:
        """Hand part of the answer on; before its end, take what the client still sends, for a while.

        A connection that is closed with unread bytes is reset, and the answer may be lost with it.
        """
        self.is_answering = True
        self.record.status = self.record.status or message.get("status", 0)
        is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not is_end or self._is_body_over:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with trio.move_on_after(_LINGER_S):
            await self._discard_body()
        await self._send({"type": "http.response.body", "more_body": False})

    async def _discard_body(self) -> None:
        while not self._is_body_over:
            await self._next_message()

    async def _next_message(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_body_over = True
        self._body_bytes += len(message.get("body", b""))
        self.record.take(message.get("body", b""))
        return message

    def _too_large(self) -> BackhaulError:
        return BackhaulError(
            "http.body_too_large",
            f"the body is larger than {self._body_max_bytes} bytes",
            "send smaller batches, or raise request_max_bytes",
            kind=ErrorKind.TOO_LARGE,
            details={"body_max_bytes": self._body_max_bytes},
        )
