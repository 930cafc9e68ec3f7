"""The calls that one served connection runs: a trio task each, cancelled when its caller goes, ended with trailers.

A handler's error hurts only its call. The carrier's own refusals (no such method, not gRPC, past its deadline) are
answered in the same way as a handler's. A unary method that can do without a task is called as soon as its request is there,
if that came whole; such a call has no stream either, until it needs a task.

    state of a call     left by                                     then
    accepted            `begin`, after all that came in at once     in a task
    whole               its handler, if it does not take it now     in a task
                        its answer, if the line takes it at once    over
                        its answer, if it does not                  in a task, to send it
    in a task           the end of its handler, its deadline        over
    any                 a reset or the end of the connection        over
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import trio
from grpclib.metadata import decode_timeout
from h2.errors import ErrorCodes

from common.core.errors import BackhaulError, ErrorKind
from common.private.grpclib import AbstractHandler
from common.private.h2 import RawHeaders, WholeRequest
from common.private.hpack import constant_block
from common.transport.grpc.inbound import PREFIX
from common.transport.grpc.prompt_methods import PromptMethod, PromptMethods
from common.transport.grpc.protocol import WireEvents
from common.transport.grpc.status import Headers, trailers_of
from common.transport.grpc.wire import CONTENT_TYPE, RESPONSE_HEADERS, WireStream
from common.transport.link.call_status import outcome_of, stopping
from common.transport.metadata import metadata_of
from common.transport.stream import Caller, Methods, PeerGone, PeerInfo, StreamMethod

_HEAD, _TAIL = constant_block(RESPONSE_HEADERS), constant_block(trailers_of(None))


@dataclass(slots=True)
class CallService:
    """What the connections of one server share. `start` runs a call in the server's nursery, soon."""

    methods: Methods
    prompt_methods: PromptMethods
    streams_max: int
    start: Callable[..., None]
    is_closing: bool = False


@dataclass(slots=True, eq=False)
class IncomingCall:
    """One call of a connection: its stream, the request's headers as they came and by name; `release` lets grpclib forget it."""

    wire: WireStream
    headers: Headers
    fields: dict[str, str]
    release: Callable[[], None]
    scope: trio.CancelScope | None = None

    @property
    def peer(self) -> PeerInfo:
        return self.wire.connection.peer

    @property
    def path(self) -> str:
        return self.fields.get(":path", "")

    def check(self) -> Mapping[str, str]:
        """The call's metadata. Raises BackhaulError when this is no gRPC call, or has too much of it."""
        content_type = self.fields.get("content-type", "")
        if self.fields.get(":method") != "POST" or not content_type.startswith("application/grpc"):
            raise BackhaulError("link.not_grpc", f"a gRPC call is a POST of {CONTENT_TYPE}, not {content_type[:80]}")
        return metadata_of(self.headers)

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal."""
        self.wire.finish(trailers_of(outcome))


class WholeCall:
    """One call of a connection that came whole and has no task."""

    __slots__ = ("events", "request")

    def __init__(self, request: WholeRequest, events: WireEvents) -> None:
        self.request = request
        self.events = events

    @property
    def message(self) -> bytes:
        return self.request.body[PREFIX.size :]

    @property
    def is_open(self) -> bool:
        """Whether its end is to come. That its caller has given up is told later, or never if the connection breaks then."""
        return self.events.connection.http2.is_whole(self.request.stream_id)

    def answer(self, message: bytes) -> bool:
        """Have the only message and the end leave at the next flush, if the line takes them now; else do nothing."""
        connection = self.events.connection
        body = PREFIX.pack(0, len(message)) + message
        return connection.writable.is_set() and connection.http2.answer_whole(
            self.request.stream_id, _HEAD, body, _TAIL
        )

    def refuse(self, refusal: BackhaulError | None) -> None:
        """Have a refusal alone end the call, at the next flush."""
        http2 = self.events.connection.http2
        http2.refuse_whole(self.request.stream_id, RESPONSE_HEADERS + trailers_of(refusal))

    def adopt(self) -> IncomingCall:
        """The call as one that has a stream."""
        headers = [(name.decode(), value.decode()) for name, value in self.request.headers]
        wire, release = self.events.adopt_whole(self.request)
        return IncomingCall(wire, headers, dict(headers), release)


class ConnectionCalls(AbstractHandler):
    """The calls of one connection; grpclib calls `accept`, `cancel`, `close`, and `begin` comes after what was accepted.

    Of requests that came whole the connection's events tell `begin_whole` and `forget_whole`.
    """

    def __init__(self, service: CallService) -> None:
        self._service = service
        self._accepted: dict[object, IncomingCall] = {}
        self._in_tasks: dict[object, IncomingCall] = {}
        self._whole: dict[int, WholeCall] = {}
        self.ended = trio.Event()

    @property
    def _is_full(self) -> bool:
        running = len(self._accepted) + len(self._in_tasks) + len(self._whole)
        return running >= self._service.streams_max or self._service.is_closing

    def accept(self, stream: object, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, WireStream)
        if self._is_full:
            stream.reset_if_open(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        self._accepted[stream] = IncomingCall(stream, headers, dict(headers), release_stream)

    def begin(self) -> None:
        """Start the calls that were accepted, in their order."""
        accepted, self._accepted = self._accepted, {}
        for call in accepted.values():
            self._begin(call, partial(self._serve, call, None))

    def cancel(self, stream: object) -> None:
        call = self._in_tasks.get(stream)
        if call is not None and call.scope is not None:
            call.scope.cancel()
        elif (accepted := self._accepted.pop(stream, None)) is not None:
            accepted.release()

    def close(self) -> None:
        self.cancel_all()

    def cancel_all(self) -> None:
        for call in self._in_tasks.values():
            if call.scope is not None:
                call.scope.cancel()
        accepted, self._accepted = self._accepted, {}
        for call in accepted.values():
            call.finish(stopping())
            call.release()
        whole, self._whole = self._whole, {}
        for each in whole.values():
            if each.is_open:
                each.refuse(stopping())
                each.events.connection.flush()
        self._note_end()

    def _note_end(self) -> None:
        if self._service.is_closing and not (self._in_tasks or self._whole):
            self.ended.set()

    # -- whole ------------------------------------------------------------------------------------------------------------
    def admit_whole(self, headers: RawHeaders, body: bytes) -> PromptMethod | None:
        """What a request is for, if it may be taken as a whole."""
        return self._service.prompt_methods.find(headers, body)

    def begin_whole(self, request: WholeRequest, events: WireEvents) -> None:
        """Serve a request that was admitted."""
        method = request.admitted
        assert isinstance(method, PromptMethod)
        call = WholeCall(request, events)
        if not call.is_open:
            return
        if self._is_full:
            events.connection.http2.reset_whole(request.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._whole[request.stream_id] = call
        answer = partial(self._answer, call)
        try:
            is_taken = method.promptly(call.message, Caller(events.connection.peer, method.metadata), answer)
        except Exception as error:  # noqa: BLE001  a handler hurts only its call
            answer(error)
        else:
            if not is_taken:
                self._begin_adopted(call, self._serve, call.message)

    def forget_whole(self, stream_id: int) -> None:
        """The caller has given up: it is not answered."""
        self._whole.pop(stream_id, None)
        self._note_end()

    def _answer(self, call: WholeCall, result: bytes | Exception) -> Callable[[], object]:
        """Answer a whole call, unless its caller has gone meanwhile; see `common.transport.stream.Answer`."""
        stream_id, flush = call.request.stream_id, call.events.connection.flush
        if not call.is_open:
            return flush
        if isinstance(result, Exception):
            method = call.request.admitted
            assert isinstance(method, PromptMethod)
            call.refuse(outcome_of(result, peer=call.events.connection.peer.address, path=method.path))
        elif not call.answer(result):
            self._begin_adopted(call, self._send, result)
            return flush
        del self._whole[stream_id]
        self._note_end()
        return flush

    def _begin_adopted(
        self,
        call: WholeCall,
        work: Callable[[IncomingCall, bytes, trio.CancelScope], Awaitable[None]],
        message: bytes,
    ) -> None:
        del self._whole[call.request.stream_id]
        adopted = call.adopt()
        self._begin(adopted, partial(work, adopted, message))

    # -- in a task --------------------------------------------------------------------------------------------------------
    def _begin(self, call: IncomingCall, work: Callable[[trio.CancelScope], Awaitable[None]]) -> None:
        call.scope = trio.CancelScope()
        self._in_tasks[call.wire] = call
        self._service.start(self._run, call, work, call.scope)

    async def _run(
        self, call: IncomingCall, work: Callable[[trio.CancelScope], Awaitable[None]], scope: trio.CancelScope
    ) -> None:
        """Run one call to its trailers, whatever comes out of its handler."""
        outcome: BackhaulError | None = stopping()
        try:
            with scope:
                try:
                    await work(scope)
                    outcome = None
                except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  a handler hurts only its call
                    outcome = self._outcome_of(error, call)
            if scope.cancelled_caught and not self._service.is_closing:
                outcome = PeerGone("link.deadline_exceeded", "the deadline that the caller set has passed")
        finally:
            call.finish(outcome)
            call.release()
            del self._in_tasks[call.wire]
            self._note_end()

    async def _serve(self, call: IncomingCall, request: bytes | None, scope: trio.CancelScope) -> None:
        metadata = call.check()
        _set_deadline(scope, call)
        method = self._service.methods.get(call.path)
        if method is None:
            raise BackhaulError("link.unknown_method", f"no method {call.path[:200]}", kind=ErrorKind.NOT_FOUND)
        wire = call.wire
        if isinstance(method, StreamMethod):
            await method.handler(IncomingStream(wire, metadata))
        else:
            caller = Caller(call.peer, metadata)
            answer = await method.handler(await wire.receive() if request is None else request, caller)
            await wire.send(answer, flush=False)  # the trailers follow at once

    async def _send(self, call: IncomingCall, answer: bytes, scope: trio.CancelScope) -> None:
        _set_deadline(scope, call)
        await call.wire.send(answer, flush=False)

    def _outcome_of(self, error: BaseException, call: IncomingCall) -> BackhaulError | None:
        if call.wire.fault is not None:
            return None  # nobody is left to be answered
        return outcome_of(error, peer=call.peer.address, path=call.path)


def _set_deadline(scope: trio.CancelScope, call: IncomingCall) -> None:
    timeout = call.fields.get("grpc-timeout")
    if timeout is None:
        return
    try:
        scope.deadline = trio.current_time() + decode_timeout(timeout)
    except ValueError:
        raise BackhaulError("link.not_grpc", f"not a grpc-timeout: {timeout[:20]!r}") from None


class IncomingStream:
    """The serving end of a call as its handler has it; see `common.transport.stream.ServedStream`.

    What a message passes through is the wire's own: bound here, so that it costs no call more.
    """

    def __init__(self, wire: WireStream, metadata: Mapping[str, str]) -> None:
        self._wire = wire
        self.metadata = metadata
        self.peer = wire.connection.peer
        self.abort = wire.abort
        self.send = wire.send
        self.send_nowait = wire.send_nowait
        self.hold = wire.hold
        self.release = wire.release
        self.receive = wire.receive
        self.accept = wire.accept

    @property
    def bytes_received(self) -> int:
        return self._wire.connection.bytes_in

    @property
    def bytes_sent(self) -> int:
        return self._wire.connection.bytes_acknowledged

    @property
    def unsent_bytes(self) -> int:
        return self._wire.connection.unsent_bytes

    @property
    def fault(self) -> BackhaulError | None:
        return self._wire.fault
