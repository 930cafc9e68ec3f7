"""The cloud's end of push streams: authenticate, fence, store through the node's one writer, acknowledge.

One nursery a stream: a child receives into a bounded queue, this task commits what is queued and is the only one that
sends. An ack leaves after the commit. When much is queued, the child hands it to the writer while the append before it
still commits. No handler runs here: projections follow the journal on their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from common.core.append import AppendRequest, PushedAppend
from common.core.errors import BackhaulError, ErrorKind
from common.core.history import Resume, history_problem
from common.core.ids import NAME_MAX_BYTES, text_problem
from common.core.push_messages import (
    PROTOCOL_VERSION,
    Drain,
    FromCloud,
    Heartbeat,
    Hello,
    PushBatch,
    PushLimits,
    Start,
)
from common.core.push_receiving import Endpoint, fenced
from common.fail_points import fail_point
from common.journal.group_commit import AHEAD_MIN_EVENTS, GROUP_MAX_BYTES, GROUP_MAX_EVENTS, Submitted
from common.journal.interface import Journal
from common.transport import codec
from common.transport.outcome import first_refusal
from common.transport.stream import MessageStream, PeerClosed, PeerGone

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Bounds and times (seconds) of every push stream of a node."""

    limits: PushLimits
    parked_max: int
    hello_timeout_s: float
    heartbeat_s: float
    progress_timeout_s: float
    require_identity: bool
    """Whether the origin id must be a name in the peer's certificate (always, with TLS)."""


@dataclass(slots=True)
class OriginStream:
    """A live stream of this node, for status and metrics. Positions are the origin journal's."""

    origin_id: str
    session: int
    address: str
    since_us: int
    resume: str
    head_position: int
    received_position: int = 0
    stored_position: int = 0
    events: int = 0
    parked: int = 0
    clock_skew_s: float = 0.0


class PushEndpoint:
    """All push streams of one node."""

    def __init__(
        self,
        journal: Journal,
        submit: Callable[[AppendRequest], Awaitable[Submitted]],
        settings: EndpointSettings,
        now_us: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._submit = submit
        self._settings = settings
        self._now_us = now_us
        self._live: dict[str, _EndpointStream] = {}
        self._drain: Drain | None = None
        self._left = trio.lowlevel.ParkingLot()

    @property
    def streams(self) -> list[OriginStream]:
        """What is connected to this node now."""
        return [live.state for live in self._live.values()]

    async def drain(self, retry_after_s: float) -> None:
        """Ask every edge, also those that still come, to finish and dial another node; returns when none is left."""
        self._drain = Drain(retry_after_s, "the node is stopping")
        for live in self._live.values():
            live.wake()
        while self._live:
            await self._left.park()

    async def serve(self, stream: MessageStream) -> None:
        """One stream, from Hello to its end. Raises BackhaulError for what the peer must be told."""
        hello = await self._receive_hello(stream)
        origin_id = hello.origin_id
        with structlog.contextvars.bound_contextvars(origin_id=origin_id, peer=stream.peer.address):
            endpoint, start = await self._open_session(hello)
            state = OriginStream(
                origin_id,
                start.session,
                stream.peer.address,
                self._now_us(),
                start.resume.value,
                hello.history.head_position,
                received_position=endpoint.received,
                stored_position=endpoint.stored,
                clock_skew_s=(hello.clock_us - start.clock_us) / 1e6,
            )
            live = _EndpointStream(stream, endpoint, state, self._submit, self._settings, self._now_us)
            older = self._live.get(origin_id)
            if older:
                older.fence(start.session)
            self._live[origin_id] = live
            _log.info(
                "push.connected",
                session=start.session,
                resume=start.resume.value,
                position=start.stored.position,
                behind=hello.history.head_position - start.stored.position,
                clock_skew_s=round(state.clock_skew_s, 3),
            )
            # When this call is cancelled: its connection is gone, or the node stops.
            code, reason = "link.lost", "the connection is gone"
            try:
                await live.run(start, lambda: self._drain)
                code, reason = "link.ended", "the edge ended the stream"
            except* BackhaulError as group:
                error = first_refusal(group)
                code, reason = error.code, error.message
                raise error from None
            finally:
                if code == "link.lost" and self._drain:
                    code, reason = "link.stopping", self._drain.reason
                if self._live.get(origin_id) is live:
                    del self._live[origin_id]
                    self._left.unpark_all()
                _log.info(
                    "push.disconnected",
                    session=start.session,
                    code=code,
                    reason=reason,
                    position=endpoint.stored,
                    events=state.events,
                    parked=state.parked,
                )

    async def _receive_hello(self, stream: MessageStream) -> Hello:
        with trio.move_on_after(self._settings.hello_timeout_s):
            hello = codec.decode_from_edge(await stream.receive())
            if not isinstance(hello, Hello):
                raise _protocol_error(f"{type(hello).__name__} came before Hello")
            self._check_hello(hello, stream)
            return hello
        raise BackhaulError("link.timeout", "no Hello came", "send Hello at once after opening the stream")

    def _check_hello(self, hello: Hello, stream: MessageStream) -> None:
        """Who is it? Asked before anything is looked up, so that a refusal reveals nothing."""
        if hello.protocol_version != PROTOCOL_VERSION:
            raise BackhaulError(
                "push.version",
                f"the edge speaks protocol {hello.protocol_version}, this node {PROTOCOL_VERSION}",
                "update the older side",
            )
        problem = text_problem(hello.origin_id, NAME_MAX_BYTES) if hello.origin_id else "is empty"
        if problem:
            raise BackhaulError("push.invalid_origin", f"the edge id {problem}", "set EDGE_ID to a short name")
        if self._settings.require_identity and hello.origin_id not in stream.peer.identities:
            raise BackhaulError(
                "auth.identity_mismatch",
                f"the certificate does not name the edge id {hello.origin_id!r}",
                "give the edge a certificate whose subject alternative name (DNS or URI) is its id",
                kind=ErrorKind.FORBIDDEN,
            )
        problem = history_problem(hello.history) or text_problem(hello.instance, NAME_MAX_BYTES)
        if problem:
            raise _protocol_error(f"Hello {problem}")

    async def _open_session(self, hello: Hello) -> tuple[Endpoint, Start]:
        decision = await self._journal.open_session(hello.origin_id, hello.instance, hello.history)
        state, limits = decision.state, self._settings.limits
        if decision.resume is Resume.SUPERSEDED:
            raise BackhaulError(
                "push.superseded",
                f"another journal of {hello.origin_id} has taken the place of this one",
                "an old disk is back: empty the edge's volume, or let it in with `cloud-service origins readmit`",
                kind=ErrorKind.CONFLICT,
            )
        if decision.cloned:
            _log.error("push.cloned", session=state.session)
        if decision.resume in (Resume.REWOUND, Resume.NEW_JOURNAL):
            _log.warning(
                "push.rebased",
                resume=decision.resume.value,
                branch=state.branch,
                position=state.stored.position,
            )
        own = self._journal.history
        start = Start(
            state.session,
            state.stored,
            decision.resume,
            own.journal_id,
            own.generation_id,
            limits,
            self._now_us(),
        )
        endpoint = Endpoint(
            hello.origin_id, state.session, state.branch, state.stored, limits, self._settings.parked_max
        )
        return endpoint, start


class _EndpointStream:
    """One stream after its session was opened."""

    def __init__(
        self,
        stream: MessageStream,
        endpoint: Endpoint,
        state: OriginStream,
        submit: Callable[[AppendRequest], Awaitable[Submitted]],
        settings: EndpointSettings,
        now_us: Callable[[], int],
    ) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self.state = state
        self._submit = submit
        self._settings = settings
        self._now_us = now_us
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._peer_ended = False
        self._taking = trio.Lock()
        self._submitted: deque[tuple[PushedAppend, Submitted]] = deque()
        self._fenced_by = 0
        self._drain_told = False
        self._last_sent_s = trio.current_time()

    def wake(self) -> None:
        """Have the stream look around: something was told to the whole node."""
        self._work.unpark_all()

    def fence(self, session: int) -> None:
        """A newer stream of the same origin has come to this node."""
        self._fenced_by = session
        self.wake()

    async def run(self, start: Start, draining: Callable[[], Drain | None]) -> None:
        """Until the peer ends the stream and everything it sent is stored."""
        await self._send(start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._watch_progress)
            while not (self._peer_ended and self._is_idle):
                if self._fenced_by:
                    raise fenced(self._endpoint.origin_id, self._fenced_by)
                drain = draining()
                if drain and not self._drain_told:
                    self._drain_told = True
                    await self._send(drain)
                    continue  # something may have come meanwhile
                if self._is_idle:
                    await self._wait_for_work()
                else:
                    await self._commit()
            nursery.cancel_scope.cancel()

    @property
    def _is_idle(self) -> bool:
        return self._endpoint.is_idle and not self._submitted and not self._taking.locked()

    async def _take(self) -> None:
        """Give what is queued its place in the node's queue."""
        async with self._taking:
            if self._endpoint.is_idle:
                return  # it was given while we waited for our turn
            request = self._endpoint.take(GROUP_MAX_EVENTS, GROUP_MAX_BYTES)
            self._room.unpark_all()
            self._submitted.append((request, await self._submit(request)))

    async def _commit(self) -> None:
        endpoint, state = self._endpoint, self.state
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            if not self._submitted:
                await self._take()
            if not self._submitted:
                return  # the writer is closing, and the receiver has been told
            request, submitted = self._submitted[0]
            outcome = await submitted.wait()
            self._submitted.popleft()
        if deadline.cancelled_caught:
            raise BackhaulError(
                "journal.unavailable",
                f"the journal did not take a batch within {self._settings.progress_timeout_s:g} s",
                "look at the database; the edge dials again and goes on from what was stored",
                retry_after_s=5.0,
            )
        ack = endpoint.settle(outcome, request.through.position)
        state.stored_position = ack.position
        state.events += len(request.events)
        for parked in ack.parked:
            state.parked += 1
            _log.warning(
                "event.parked",
                persistence_id=parked.persistence_id,
                seq_nr=parked.seq_nr,
                code=parked.code,
                repeat_key=f"{parked.persistence_id} {parked.code}",
            )
        fail_point("push.before_ack")
        await self._send(ack)

    async def _wait_for_work(self) -> None:
        due_s = self._last_sent_s + self._settings.heartbeat_s
        with trio.move_on_at(due_s) as silence:
            await self._work.park()
        if silence.cancelled_caught:
            await self._send(Heartbeat(self._stream.bytes_received, self._now_us()))

    async def _send(self, message: FromCloud) -> None:
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            await self._stream.send(codec.encode_from_cloud(message))
        if deadline.cancelled_caught:
            raise self._stalled("the edge does not read its acks")
        self._last_sent_s = trio.current_time()

    async def _receive(self) -> None:
        endpoint = self._endpoint
        try:
            while True:
                while endpoint.is_full:
                    await self._room.park()
                data = await self._stream.receive()
                message = codec.decode_from_edge(data)
                match message:
                    case PushBatch():
                        endpoint.receive(message, len(data))
                        if len(self._submitted) == 1 and endpoint.queued_events >= AHEAD_MIN_EVENTS:
                            await self._take()
                        self.state.received_position = endpoint.received
                        self.state.head_position = max(self.state.head_position, endpoint.received)
                        self._work.unpark_all()
                    case Heartbeat():
                        pass
                    case Hello():
                        raise _protocol_error("a second Hello came")
        except PeerClosed:
            self._peer_ended = True
            self._work.unpark_all()

    async def _watch_progress(self) -> None:
        """Leave an edge from which no byte has come for the timeout, unless it is we who owe it an ack."""
        timeout_s = self._settings.progress_timeout_s
        seen, since_s = -1, trio.current_time()
        while True:
            await trio.sleep(timeout_s / 10)
            busy = not self._is_idle
            if busy or self._stream.bytes_received != seen:
                seen, since_s = self._stream.bytes_received, trio.current_time()
            elif trio.current_time() - since_s >= timeout_s:
                raise self._stalled(f"nothing came for {timeout_s:g} s")

    def _stalled(self, what: str) -> PeerGone:
        self._stream.abort()
        return PeerGone("link.stalled", what, "the line or the edge stands still; it will dial again")


def _protocol_error(what: str) -> BackhaulError:
    return BackhaulError("link.protocol", what, "speak the steps of protos/backhaul/v1/push.proto")
