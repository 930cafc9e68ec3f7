"""The calls that one served connection runs: a trio task each, cancelled when its caller goes, ended with trailers.

A handler's error hurts only its call. The carrier's own refusals (no such method, not gRPC, past its deadline) are
told in the same way as a handler's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio
from grpclib.metadata import decode_timeout
from grpclib.protocol import AbstractHandler
from h2.errors import ErrorCodes

from common.core.errors import BackhaulError, ErrorKind
from common.transport.outcome import outcome_of, stopping
from common.transport.stream import Methods, PeerClosed, PeerGone, StreamMethod
from common.transport.streams.status import Headers, trailers_of
from common.transport.streams.wire import CONTENT_TYPE, WireStream


@dataclass(slots=True)
class CallService:
    """What the connections of one server share. `start` runs a call in the server's nursery, soon."""

    methods: Methods
    streams_max: int
    start: Callable[..., None]
    is_closing: bool = False


class ConnectionCalls(AbstractHandler):
    """Each running call with the scope that cancels it; grpclib calls `accept`, `cancel`, `close`."""

    def __init__(self, service: CallService) -> None:
        self._service = service
        self._scopes: dict[ServedStream, trio.CancelScope] = {}
        self.ended = trio.Event()

    def accept(self, stream: object, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, ServedStream)
        if len(self._scopes) >= self._service.streams_max or self._service.is_closing:
            stream.reset_if_open(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        scope = self._scopes[stream] = trio.CancelScope()
        self._service.start(self._run, stream, headers, release_stream, scope)

    def cancel(self, stream: object) -> None:
        assert isinstance(stream, ServedStream)
        if stream in self._scopes:
            self._scopes[stream].cancel()

    def close(self) -> None:
        self.cancel_all()

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()
        if not self._scopes:
            self.ended.set()

    async def _run(
        self, stream: ServedStream, headers: Headers, release: Callable[[], None], scope: trio.CancelScope
    ) -> None:
        """Run one call to its trailers, whatever comes out of its handler."""
        outcome: BackhaulError | None = stopping()
        try:
            with scope:
                outcome = await self._answer(stream, dict(headers), scope)
            if scope.cancelled_caught and not self._service.is_closing:
                outcome = PeerGone("link.deadline_exceeded", "the deadline that the caller set has passed")
        finally:
            stream.finish(outcome)
            release()
            del self._scopes[stream]
            if not self._scopes and self._service.is_closing:
                self.ended.set()

    async def _answer(
        self, stream: ServedStream, headers: dict[str, str], scope: trio.CancelScope
    ) -> BackhaulError | None:
        path = headers.get(":path", "")
        try:
            self._check_request(headers)
            if "grpc-timeout" in headers:
                scope.deadline = trio.current_time() + _timeout_s(headers["grpc-timeout"])
            await self._handle(stream, path)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  a handler hurts only its call
            return self._outcome_of(error, stream, path)
        return None

    async def _handle(self, stream: ServedStream, path: str) -> None:
        method = self._service.methods.get(path)
        if method is None:
            raise BackhaulError("link.unknown_method", f"no method {path[:200]}", kind=ErrorKind.NOT_FOUND)
        if isinstance(method, StreamMethod):
            await method.handler(stream)
        else:
            answer = await method.handler(await stream.receive(), stream.peer)
            await stream.send_message(answer, flush=False)  # the trailers follow at once

    def _check_request(self, headers: dict[str, str]) -> None:
        content_type = headers.get("content-type", "")
        if headers.get(":method") != "POST" or not content_type.startswith("application/grpc"):
            raise BackhaulError("link.not_grpc", f"a gRPC call is a POST of {CONTENT_TYPE}, not {content_type[:80]}")

    def _outcome_of(self, error: BaseException, stream: ServedStream, path: str) -> BackhaulError | None:
        if stream.fault is not None:
            return None  # nobody is left to be told
        return outcome_of(error, peer=stream.peer.address, path=path)


def _timeout_s(told: str) -> float:
    try:
        return decode_timeout(told)
    except ValueError:
        raise BackhaulError("link.not_grpc", f"not a grpc-timeout: {told[:20]!r}") from None


class ServedStream(WireStream):
    """The end of a call that serves it: sends response headers with its first message, trailers at its end."""

    _has_sent_headers = False

    async def send_message(self, message: bytes, *, end: bool = False, flush: bool = True) -> None:
        if not self._has_sent_headers:
            self._has_sent_headers = True
            self.send_headers_now(_RESPONSE_HEADERS, flush=False)
        await super().send_message(message, end=end, flush=flush)

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal; a caller that still sends is told to stop."""
        if self.fault is None:
            trailers = trailers_of(outcome)
            self.send_headers_now(trailers if self._has_sent_headers else _RESPONSE_HEADERS + trailers, end=True)
            self.reset_if_open(ErrorCodes.NO_ERROR)

    def _raise_if_over(self) -> None:
        if self.fault is not None:
            raise self.fault
        if self._inbound.is_ended:
            raise PeerClosed


_RESPONSE_HEADERS: Headers = [(":status", "200"), ("content-type", CONTENT_TYPE)]
