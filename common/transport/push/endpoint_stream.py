"""One push stream of a node after its session was opened: receive, commit, acknowledge; ask for filters and store changes.

One nursery: a child receives into a bounded queue, and hands what is queued to the node's writer in the same turn where
nothing has to wait; this task does what has to. An ack leaves after the commit: from the task that committed, if it says no
more than that all is stored and the line takes it at once, else from this one, which sends all else. What comes while an
append commits is merged into the next one; much of it is handed over meanwhile.

    what comes or is queued                       the receiving child        this task
    --------------------------------------------  -------------------------  ---------------------------------------
    a batch, nothing under way                    hands it over              -
    a batch, the writer's queue full              -                          waits for room, hands it over
    a batch behind a question or change           -                          deals with those, hands it over
    a batch, an append under way                  hands it over if it is     hands it over when that one is settled
                                                  much, and the second
    a question, a change of filter                -                          deals with it, nothing being under way
    an append is settled                          -                          acknowledges it where the committing task
                                                                             could not, or ends the stream
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import outcome
import structlog
import trio

from common import audit
from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.flow.measures import CodeCounts
from common.core.flow.messages import Drain, EdgeHealth, Heartbeat
from common.core.journal.append import NOT_ALLOWED, AppendOutcome, AppendRequest, PushedAppend, PushLane
from common.core.policy.credentials import TrustNow, always_trusted
from common.core.policy.rules import EVERYTHING, Policy
from common.core.push.filter_transition import NO_FILTER, PushFilter, PushFilterApplied
from common.core.push.messages import (
    Ack,
    FromCloud,
    Hello,
    PastQuestion,
    PushBatch,
    PushFilterUpdate,
    PushLimits,
    Start,
)
from common.core.push.receiver import Endpoint, fenced
from common.fail_points import fail_point
from common.journal.group_commit import AHEAD_MIN_ROWS, GROUP_MAX_BYTES, GROUP_MAX_ROWS, OnSettled
from common.journal.stores.push_filters import PushFilterStore
from common.transport.codec import push as codec
from common.transport.link.live_peers import LivePeer
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
    on_receive: Callable[[EventBatch], Transformed] | None = None
    """What an application makes of events before they are judged and stored."""
    policy: Callable[[], Policy] = lambda: EVERYTHING
    """The policy that holds now; looked at for every commit."""
    trust: TrustNow = always_trusted
    """Who may be connected now; looked at when a stream begins, and by the watch over live ones."""


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
    filter_version: int = 0
    """Of the filter that is in force, or comes into force with the backfill."""
    backfill_left: int = 0
    """Positions still to be looked through for what only that filter selects."""
    health: EdgeHealth | None = None
    """What the edge said of itself last, if it does."""
    journal_id: str = ""


class AppendWriter(Protocol):
    """The node's writer as a stream needs it: ``GroupCommit``."""

    @property
    def is_full(self) -> bool:
        """Whether it takes no request now."""

    async def wait_room(self) -> None:
        """Return when it does. Raises ``journal.closing`` once the service stops."""

    def submit_nowait(self, request: AppendRequest, on_settled: OnSettled) -> bool:
        """Take a request, unless it is full. Raises ``journal.closing``."""


@dataclass(slots=True, eq=False)
class _UnderWay:
    """What the node's writer has of this stream, and what became of it."""

    request: PushedAppend
    result: outcome.Outcome[AppendOutcome] | None = None


class EndpointStream:
    """One stream after its session was opened."""

    def __init__(
        self,
        stream: MessageStream,
        endpoint: Endpoint,
        state: OriginStream,
        journal: PushFilterStore,
        known: Callable[[str, Sequence[str]], Awaitable[list[int]]],
        writer: AppendWriter,
        settings: EndpointSettings,
        now_us: Callable[[], int],
        parked: CodeCounts,
    ) -> None:
        self._stream = stream
        self._parked = parked
        self._endpoint = endpoint
        self.state = state
        self.live_peer = LivePeer(state.origin_id, stream.peer, self.end)
        """The edge's end of the connection."""
        self._journal = journal
        self._known = known
        self._writer = writer
        self._settings = settings
        self._now_us = now_us
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._peer_ended = False
        self._under_way: deque[_UnderWay] = deque()
        self._under_way_since_s = 0.0
        """When the first of them was handed over, or the one before it settled."""
        self._fenced_by = 0
        self._end: BackhaulError | None = None
        self._requested = self._sent_request = NO_FILTER
        self._drain: Drain | None = None
        self._drain_sent = False
        self._is_sending = False
        self._last_sent_s = trio.current_time()
        self._policy = EVERYTHING

    def wake(self) -> None:
        """Have the stream look around: the whole node's state has changed."""
        self._work.unpark_all()

    @property
    def is_leaving(self) -> bool:
        """Whether the edge was asked to dial another node."""
        return self._drain is not None or self._drain_sent

    def drain(self, drain: Drain) -> None:
        """Have the edge finish and dial another node."""
        self._drain = drain
        self.wake()

    def fence(self, session: int) -> None:
        """A newer stream of the same origin has come to this node."""
        self._fenced_by = session
        self.wake()

    def end(self, reason: BackhaulError) -> None:
        """Refuse the edge what is still to come."""
        self._end = self._end or reason
        self.wake()

    def ask(self, requested: PushFilter) -> None:
        """Send the edge the filter requested of it now, unless it has it; of quick changes only the last is sent."""
        if requested != self._requested:
            self._requested = requested
            self.wake()

    async def run(self, start: Start, draining: Callable[[], Drain | None]) -> None:
        """Until the peer ends the stream and everything it sent is stored."""
        self._sent_request = start.requested
        self._tell_place()
        await self._send(start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._watch_progress)
            while not (self._peer_ended and self._is_idle):
                if self._end:
                    raise self._end
                if self._fenced_by:
                    raise fenced(self._endpoint.origin_id, self._fenced_by)
                drain = self._drain or draining()
                if drain and not self._drain_sent:
                    self._drain_sent = True
                    await self._send(drain)
                    continue  # something may have come meanwhile
                if self._requested != self._sent_request:
                    self._sent_request = self._requested
                    asked = self._sent_request
                    await self._send(PushFilterUpdate(asked.version, asked.criteria, asked.history))
                elif self._under_way:
                    result = self._under_way[0].result
                    await (self._wait_for_work() if result is None else self._settle(result.unwrap()))
                elif self._endpoint.question:
                    await self._answer()
                elif self._endpoint.change:
                    await self._change_filter(self._endpoint.change)
                elif self._endpoint.is_idle:
                    await self._wait_for_work()
                else:
                    await self._wait_for_room()
                    self._hand_over()
            nursery.cancel_scope.cancel()

    @property
    def _is_idle(self) -> bool:
        return self._endpoint.is_idle and not self._under_way

    def _hand_over(self) -> bool:
        """Give what is queued its place in the node's queue, if nothing has to wait."""
        endpoint, under_way = self._endpoint, self._under_way
        is_much = len(under_way) == 1 and endpoint.queued_rows >= AHEAD_MIN_ROWS
        if (under_way and not is_much) or not endpoint.may_take_at_once or self._writer.is_full:
            return False
        if self._end or self._fenced_by:
            return False
        self._look_at_policy()
        taken = _UnderWay(endpoint.take(GROUP_MAX_ROWS, GROUP_MAX_BYTES))
        self._room.unpark_all()

        def settled(result: outcome.Outcome[AppendOutcome]) -> None:
            taken.result = result
            if not self._acknowledge_at_once(taken):
                self.wake()

        if not under_way:
            self._under_way_since_s = trio.current_time()
        under_way.append(taken)
        is_taken = self._writer.submit_nowait(taken.request, settled)
        assert is_taken, "there is room: nothing was awaited since that was seen"
        return True

    async def _wait_for_room(self) -> None:
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            await self._writer.wait_room()
        if deadline.cancelled_caught:
            raise self._journal_is_slow("a batch")

    def _look_at_policy(self) -> None:
        """Judge by the policy that holds now."""
        policy = self._settings.policy()
        if policy is not self._policy:
            self._policy, self._endpoint.rights = policy, policy.rights_of(self._endpoint.origin_id)

    async def _change_filter(self, change: PushFilterApplied) -> None:
        endpoint = self._endpoint
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            fail_point("push.before_filter_change")
            refused = await self._journal.change(endpoint.origin_id, endpoint.session, change)
            fail_point("push.after_filter_change")
        if deadline.cancelled_caught:
            raise self._journal_is_slow("a change of filter")
        ack = endpoint.changed_or_refused(refused)
        _log.info(
            "push.filter_applied",
            filter_version=change.filter.version,
            position=change.position,
            needs_backfill=change.needs_backfill,
        )
        self._tell_place()
        await self._send(ack)

    async def _answer(self) -> None:
        """Say how far the entities are known that are about to enter."""
        endpoint = self._endpoint
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            known = await self._known(endpoint.origin_id, endpoint.question)
        if deadline.cancelled_caught:
            raise self._journal_is_slow("a question")
        self._look_at_policy()
        await self._send(endpoint.answered(known))

    def _tell_place(self) -> None:
        place = self._endpoint.place
        self.state.filter_version = place.new.version
        self.state.backfill_left = place.change_position - place.backfill_position

    def _acknowledge_at_once(self, taken: _UnderWay) -> bool:
        """Called by the task that committed: whether the ack has left and nothing else is to do."""
        endpoint, request, result = self._endpoint, taken.request, taken.result
        if self._is_sending or self._end or self._fenced_by or taken is not self._under_way[0]:
            return False
        if not isinstance(result, outcome.Value) or not endpoint.is_plain(result.value, request.lane):
            return False
        fail_point("push.before_ack")
        if not self._stream.send_nowait(codec.encode_from_cloud(Ack(request.through.position, (), request.lane))):
            return False
        self._last_sent_s = self._under_way_since_s = trio.current_time()
        self._under_way.popleft()
        endpoint.settle(result.value, request.through.position, request.lane)
        self.state.stored_position = endpoint.stored
        self.state.events += len(request.events)
        return self._is_idle and not endpoint.question and not self._peer_ended

    async def _settle(self, stored: AppendOutcome) -> None:
        """Acknowledge the first of what is under way, or end the stream."""
        endpoint, state = self._endpoint, self.state
        request = self._under_way.popleft().request
        self._under_way_since_s = trio.current_time()
        ack = endpoint.settle(stored, request.through.position, request.lane)
        if request.lane is PushLane.LIVE:
            state.stored_position = ack.position
        elif request.lane is PushLane.BACKFILL:
            self._tell_place()
            if not state.backfill_left:
                _log.info("push.filter_backfilled", filter_version=state.filter_version, position=ack.position)
        state.events += len(request.events)
        for parked in ack.parked:
            state.parked += 1
            self._parked.add(parked.code)
            _log.warning(
                "event.parked",
                persistence_id=parked.persistence_id,
                seq_nr=parked.seq_nr,
                code=parked.code,
                repeat_key=f"{parked.persistence_id} {parked.code}",
            )
            if parked.code == NOT_ALLOWED:
                audit.refused(
                    who=endpoint.origin_id,
                    source=state.address,
                    what=f"write {parked.persistence_id}",
                    rule=endpoint.rights.rule.name,
                    result=parked.code,
                )
        fail_point("push.before_ack")
        await self._send(ack)

    def _journal_is_slow(self, what: str) -> BackhaulError:
        return BackhaulError(
            "journal.unavailable",
            f"the journal did not take {what} within {self._settings.progress_timeout_s:g} s",
            "look at the database; the edge dials again and goes on from what was stored",
            retry_after_s=5.0,
        )

    async def _wait_for_work(self) -> None:
        heartbeat_s = self._settings.heartbeat_s
        since_s = trio.current_time() if self._under_way else self._last_sent_s
        with trio.move_on_at(since_s + heartbeat_s):
            await self._work.park()
        if not self._under_way and trio.current_time() >= self._last_sent_s + heartbeat_s:
            await self._send(Heartbeat(self._stream.bytes_received, self._now_us()))

    async def _send(self, message: FromCloud) -> None:
        self._is_sending = True
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            await self._stream.send(codec.encode_from_cloud(message))
        self._is_sending = False
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
                        self.state.received_position = endpoint.received
                        self.state.head_position = max(self.state.head_position, endpoint.received)
                        if not self._hand_over() and not self._under_way:
                            self._work.unpark_all()
                    case PushFilterApplied():
                        endpoint.receive_change(message)
                        self._work.unpark_all()
                    case PastQuestion():
                        endpoint.receive_question(message)
                        self._work.unpark_all()
                    case Heartbeat():
                        self._hear(message)
                    case Hello():
                        raise protocol_error("a second Hello came")
        except PeerClosed:
            self._peer_ended = True
            self._work.unpark_all()

    def _hear(self, heartbeat: Heartbeat) -> None:
        state, health = self.state, heartbeat.health
        state.clock_skew_s = (heartbeat.clock_us - self._now_us()) / 1e6
        if health is not None:
            state.health = health
            state.head_position = max(state.head_position, health.head_position)

    async def _watch_progress(self) -> None:
        """Leave an edge from which no byte has come for the timeout, unless it is we who owe it an ack.

        And a journal that has not stored for the timeout what is under way.
        """
        timeout_s = self._settings.progress_timeout_s
        seen, since_s = -1, trio.current_time()
        while True:
            await trio.sleep(timeout_s / 10)
            if self._under_way and trio.current_time() - self._under_way_since_s >= timeout_s:
                raise self._journal_is_slow("a batch")
            busy = not self._is_idle
            if busy or self._stream.bytes_received != seen:
                seen, since_s = self._stream.bytes_received, trio.current_time()
            elif trio.current_time() - since_s >= timeout_s:
                raise self._stalled(f"nothing came for {timeout_s:g} s")

    def _stalled(self, what: str) -> PeerGone:
        self._stream.abort()
        return PeerGone("link.stalled", what, "the line or the edge stands still; it will dial again")


def protocol_error(what: str) -> BackhaulError:
    """The peer does not keep to the protocol."""
    return BackhaulError("link.protocol", what, "speak the steps of protos/backhaul/v1/push.proto")
