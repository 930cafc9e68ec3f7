"""The calls that one served connection runs: a trio task each, cancelled when its caller goes, ended with trailers.

A handler's error hurts only its call. The carrier's own refusals (no such method, not gRPC, past its deadline) are
answered in the same way as a handler's. A unary method that can do without a task is called as soon as its request is there.

    state of a call     left by                                     then
    accepted            `begin`, after all that came in at once     without a task, or in a task
    without a task      its answer, if the line takes it at once    over
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
from common.transport.grpc.inbound import PREFIX
from common.transport.grpc.status import Headers, trailers_of
from common.transport.grpc.wire import CONTENT_TYPE, WireStream
from common.transport.link.call_status import outcome_of, stopping
from common.transport.metadata import metadata_of
from common.transport.stream import Caller, Methods, PeerGone, PeerInfo, StreamMethod, UnaryMethod


@dataclass(slots=True)
class CallService:
    """What the connections of one server share. `start` runs a call in the server's nursery, soon."""

    methods: Methods
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

    def answer_now(self, message: bytes) -> bool:
        """Send the only message and end the call, all in one write, if the line takes it; else do nothing."""
        wire, connection, size = self.wire, self.wire.connection, PREFIX.size + len(message)
        if wire.fault is None:
            assert wire.id is not None
            room = connection.frame_room(wire.id) if connection.writable.is_set() else 0
            if size > min(room, connection.http2.max_outbound_frame_size):
                return False
            wire.accept(flush=False)
            connection.http2.send_data(wire.id, PREFIX.pack(0, len(message)) + message)
            self.finish(None)
        return True

    def finish(self, outcome: BackhaulError | None) -> None:
        """End the call, well or with a refusal."""
        self.wire.finish(trailers_of(outcome))


class ConnectionCalls(AbstractHandler):
    """The calls of one connection; grpclib calls `accept`, `cancel`, `close`, and `begin` comes after what was accepted."""

    def __init__(self, service: CallService) -> None:
        self._service = service
        self._accepted: dict[object, IncomingCall] = {}
        self._in_tasks: dict[object, IncomingCall] = {}
        self._without_task: dict[object, IncomingCall] = {}
        self.ended = trio.Event()

    def accept(self, stream: object, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, WireStream)
        running = len(self._accepted) + len(self._in_tasks) + len(self._without_task)
        if running >= self._service.streams_max or self._service.is_closing:
            stream.reset_if_open(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        self._accepted[stream] = IncomingCall(stream, headers, dict(headers), release_stream)

    def begin(self) -> None:
        """Start the calls that were accepted, in their order; by now a short request is whole."""
        accepted, self._accepted = self._accepted, {}
        for call in accepted.values():
            if not self._begin_without_task(call):
                self._begin(call, partial(self._serve, call, None))

    def cancel(self, stream: object) -> None:
        call = self._in_tasks.get(stream)
        if call is None:
            self._forget(stream)
        elif call.scope is not None:
            call.scope.cancel()

    def _forget(self, stream: object) -> None:
        """Let go of a call that has no task."""
        call = self._accepted.pop(stream, None) or self._without_task.pop(stream, None)
        if call is not None:
            call.release()

    def close(self) -> None:
        self.cancel_all()

    def cancel_all(self) -> None:
        for call in self._in_tasks.values():
            if call.scope is not None:
                call.scope.cancel()
        for call in [*self._accepted.values(), *self._without_task.values()]:
            call.finish(stopping())
            self._forget(call.wire)
        self._note_end()

    def _note_end(self) -> None:
        if self._service.is_closing and not (self._in_tasks or self._without_task):
            self.ended.set()

    # -- without a task ---------------------------------------------------------------------------------------------------
    def _begin_without_task(self, call: IncomingCall) -> bool:
        """Whether the call is begun. If not, nothing has happened, and its task will meet what is wrong."""
        method = self._service.methods.get(call.path)
        if not isinstance(method, UnaryMethod) or method.promptly is None:
            return False
        try:
            metadata = call.check()
            request = call.wire.take_now()
        except BackhaulError:
            return False
        if request is None:
            return False
        self._without_task[call.wire] = call
        answer = partial(self._answer, call)
        try:
            is_taken = method.promptly(request, Caller(call.peer, metadata), answer)
        except Exception as error:  # noqa: BLE001  a handler hurts only its call
            answer(error)
        else:
            if not is_taken:
                del self._without_task[call.wire]
                self._begin(call, partial(self._serve, call, request))
        return True

    def _answer(self, call: IncomingCall, result: bytes | Exception) -> None:
        """Answer a call that has no task, unless its caller has gone meanwhile."""
        if call.wire not in self._without_task:
            return
        if isinstance(result, Exception):
            call.finish(outcome_of(result, peer=call.peer.address, path=call.path))
        elif not call.answer_now(result):
            del self._without_task[call.wire]
            self._begin(call, partial(self._send, call, result))
            return
        self._forget(call.wire)
        self._note_end()

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
