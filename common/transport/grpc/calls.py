"""The calls that one served connection runs: a trio task each, cancelled when its caller goes, ended with trailers.

A handler's error hurts only its call. The carrier's own refusals (no such method, not gRPC, past its deadline) are
told in the same way as a handler's. A unary method that can do without a task is called as soon as its request is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio
from grpclib.metadata import decode_timeout
from grpclib.protocol import AbstractHandler
from h2.errors import ErrorCodes

from common.core.errors import BackhaulError, ErrorKind
from common.transport.grpc.inbound import PREFIX
from common.transport.grpc.status import Headers, trailers_of
from common.transport.grpc.wire import CONTENT_TYPE, WireStream
from common.transport.link.call_status import outcome_of, stopping
from common.transport.stream import Methods, PeerClosed, PeerGone, StreamMethod, UnaryMethod


@dataclass(slots=True)
class CallService:
    """What the connections of one server share. `start` runs a call in the server's nursery, soon."""

    methods: Methods
    streams_max: int
    start: Callable[..., None]
    is_closing: bool = False


Release = Callable[[], None]


class ConnectionCalls(AbstractHandler):
    """The calls of one connection; grpclib calls `accept`, `cancel`, `close`, and `begin` comes after what was accepted."""

    def __init__(self, service: CallService) -> None:
        self._service = service
        self._accepted: dict[IncomingStream, tuple[dict[str, str], Release]] = {}
        self._scopes: dict[IncomingStream, trio.CancelScope] = {}
        self._without_task: dict[IncomingStream, Release] = {}
        self.ended = trio.Event()

    def accept(self, stream: object, headers: Headers, release_stream: Release) -> None:
        assert isinstance(stream, IncomingStream)
        running = len(self._accepted) + len(self._scopes) + len(self._without_task)
        if running >= self._service.streams_max or self._service.is_closing:
            stream.reset_if_open(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        self._accepted[stream] = dict(headers), release_stream

    def begin(self) -> None:
        """Start the calls that were accepted, in their order; by now a short request is whole."""
        accepted, self._accepted = self._accepted, {}
        for stream, (headers, release) in accepted.items():
            if not self._begin_without_task(stream, headers, release):
                self._begin(stream, headers.get(":path", ""), partial(self._serve, stream, headers, None), release)

    def cancel(self, stream: object) -> None:
        assert isinstance(stream, IncomingStream)
        if stream in self._scopes:
            self._scopes[stream].cancel()
        else:
            self._forget(stream)

    def _forget(self, stream: IncomingStream) -> None:
        """Let go of a call that has no task."""
        _, release = self._accepted.pop(stream, (None, None))
        release = release or self._without_task.pop(stream, None)
        if release is not None:
            release()

    def close(self) -> None:
        self.cancel_all()

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()
        for stream in [*self._accepted, *self._without_task]:
            stream.finish(stopping())
            self._forget(stream)
        self._note_end()

    def _note_end(self) -> None:
        if self._service.is_closing and not (self._scopes or self._without_task):
            self.ended.set()

    # -- without a task ---------------------------------------------------------------------------------------------------
    def _begin_without_task(self, stream: IncomingStream, headers: dict[str, str], release: Release) -> bool:
        """Whether the call is begun. If not, nothing has happened, and its task will meet what is wrong."""
        path = headers.get(":path", "")
        method = self._service.methods.get(path)
        if not isinstance(method, UnaryMethod) or method.promptly is None:
            return False
        try:
            self._check_request(headers)
            request = stream.take_now()
        except BackhaulError:
            return False
        if request is None:
            return False
        self._without_task[stream] = release
        answer = partial(self._answer, stream, headers)
        try:
            is_taken = method.promptly(request, stream.peer, answer)
        except Exception as error:  # noqa: BLE001  a handler hurts only its call
            answer(error)
        else:
            if not is_taken:
                del self._without_task[stream]
                self._begin(stream, path, partial(self._serve, stream, headers, request), release)
        return True

    def _answer(self, stream: IncomingStream, headers: dict[str, str], result: bytes | Exception) -> None:
        """Answer a call that has no task, unless its caller has gone meanwhile."""
        path = headers.get(":path", "")
        release = self._without_task.get(stream)
        if release is None:
            return
        if isinstance(result, Exception):
            stream.finish(outcome_of(result, peer=stream.peer.address, path=path))
        elif not stream.answer_now(result):
            del self._without_task[stream]
            self._begin(stream, path, partial(self._send, stream, headers, result), release)
            return
        self._forget(stream)
        self._note_end()

    # -- in a task --------------------------------------------------------------------------------------------------------
    def _begin(
        self, stream: IncomingStream, path: str, work: Callable[[trio.CancelScope], Awaitable[None]], release: Release
    ) -> None:
        scope = self._scopes[stream] = trio.CancelScope()
        self._service.start(self._run, stream, path, work, release, scope)

    async def _run(
        self,
        stream: IncomingStream,
        path: str,
        work: Callable[[trio.CancelScope], Awaitable[None]],
        release: Release,
        scope: trio.CancelScope,
    ) -> None:
        """Run one call to its trailers, whatever comes out of its handler."""
        outcome: BackhaulError | None = stopping()
        try:
            with scope:
                try:
                    await work(scope)
                    outcome = None
                except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  a handler hurts only its call
                    outcome = self._outcome_of(error, stream, path)
            if scope.cancelled_caught and not self._service.is_closing:
                outcome = PeerGone("link.deadline_exceeded", "the deadline that the caller set has passed")
        finally:
            stream.finish(outcome)
            release()
            del self._scopes[stream]
            self._note_end()

    async def _serve(
        self, stream: IncomingStream, headers: dict[str, str], request: bytes | None, scope: trio.CancelScope
    ) -> None:
        self._check_request(headers)
        _set_deadline(scope, headers)
        path = headers.get(":path", "")
        method = self._service.methods.get(path)
        if method is None:
            raise BackhaulError("link.unknown_method", f"no method {path[:200]}", kind=ErrorKind.NOT_FOUND)
        if isinstance(method, StreamMethod):
            await method.handler(stream)
        else:
            answer = await method.handler(await stream.receive() if request is None else request, stream.peer)
            await stream.send_message(answer, flush=False)  # the trailers follow at once

    async def _send(
        self, stream: IncomingStream, headers: dict[str, str], answer: bytes, scope: trio.CancelScope
    ) -> None:
        _set_deadline(scope, headers)
        await stream.send_message(answer, flush=False)

    def _check_request(self, headers: dict[str, str]) -> None:
        content_type = headers.get("content-type", "")
        if headers.get(":method") != "POST" or not content_type.startswith("application/grpc"):
            raise BackhaulError("link.not_grpc", f"a gRPC call is a POST of {CONTENT_TYPE}, not {content_type[:80]}")

    def _outcome_of(self, error: BaseException, stream: IncomingStream, path: str) -> BackhaulError | None:
        if stream.fault is not None:
            return None  # nobody is left to be told
        return outcome_of(error, peer=stream.peer.address, path=path)


def _set_deadline(scope: trio.CancelScope, headers: dict[str, str]) -> None:
    told = headers.get("grpc-timeout")
    if told is None:
        return
    try:
        scope.deadline = trio.current_time() + decode_timeout(told)
    except ValueError:
        raise BackhaulError("link.not_grpc", f"not a grpc-timeout: {told[:20]!r}") from None


class IncomingStream(WireStream):
    """The end of a call that serves it: sends response headers with its first message, trailers at its end."""

    _has_sent_headers = False

    async def send_message(self, message: bytes, *, end: bool = False, flush: bool = True) -> None:
        if not self._has_sent_headers:
            self._has_sent_headers = True
            self.send_headers_now(_RESPONSE_HEADERS, flush=False)
        await super().send_message(message, end=end, flush=flush)

    def answer_now(self, message: bytes) -> bool:
        """Send the only message and end the call, all in one write, if the line takes it; else do nothing."""
        connection, size = self.connection, PREFIX.size + len(message)
        if self.fault is None:
            assert self.id is not None
            room = connection.frame_room(self.id) if connection.writable.is_set() else 0
            if size > min(room, connection.http2.max_outbound_frame_size):
                return False
            self._has_sent_headers = True
            self.send_headers_now(_RESPONSE_HEADERS, flush=False)
            connection.http2.send_data(self.id, PREFIX.pack(0, len(message)) + message)
            self.finish(None)
        return True

    def take_now(self) -> bytes | None:
        """The next message if all of it is here. Raises as ``receive``, and will again."""
        return self._inbound.take()

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
