"""The consumer's end of a subscription: one conversation, from Subscribe to the end of the stream.

One nursery a stream: a child receives and checks that every message continues, this task judges what has queued, stores
it with the place in one transaction, acknowledges, and is the only one that sends; a child watches that something comes,
one looks for a filter that was changed. What queues during a commit is the next commit. Nothing is kept in memory that
the store does not have: after any error the next conversation starts from the stored place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.filters.predicates import parse_filter
from common.core.flow.messages import Drain, Heartbeat
from common.core.subscription.ack_policy import DelayedAck
from common.core.subscription.consumer import Receiving
from common.core.subscription.messages import (
    BackfillDone,
    ConsumerAck,
    Deliver,
    FilterApplied,
    FilterUpdate,
    FromConsumer,
    Progress,
    Replay,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import NO_RESUME_POINT, FilterState, ResumePoint, Subscription
from common.core.subscription.restarts import lower_starts
from common.fail_points import fail_point
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.transport.codec.subscription import decode_from_source, encode_from_consumer
from common.transport.link.call_status import first_refusal
from common.transport.stream import DialledStream, PeerClosed, PeerGone
from common.transport.subscription.commits import ReceiveCommitter
from common.transport.subscription.sinks import Sink
from common.transport.subscription.stall import NOT_ACKED, SelfStallClock, why_not_acked
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState

_log = structlog.get_logger()

_WRONG_PEER = "is the address that of a service of ours that serves streams?"
_GROUP_MAX_ROWS = 4_000
_PLACE_ALONE_S = 5.0
_UPDATE_PAUSE_S = 0.5
_ALIVE_BYTES = 1_024
# What a message in the queue weighs beside its bytes, as in the source's window.
_HEARD_BYTES = 256


@dataclass(frozen=True, slots=True)
class _Heard:
    """A message that waits to take effect, the place after it, and what it weighs.

    ``starts`` are the ids that a filter newly wants from a lower number.
    """

    message: Deliver | Progress | FilterApplied | BackfillDone
    place: ResumePoint
    size: int
    starts: Mapping[str, int]


async def converse(
    stream: DialledStream,
    journal: Journal,
    lease: Lease,
    sink: Sink,
    settings: SubscriptionSettings,
    state: SubscriptionState,
    *,
    now_us: Callable[[], int],
    on_start: Callable[[], None],
    on_progress: Callable[[], None],
) -> Drain | None:
    """Follow the stream until the source asks to leave (its Drain) or ends it well (None), or this service stops (a Drain).

    ``on_start`` is called when the source has taken it, ``on_progress`` whenever something has taken effect.

    Raises PeerGone (also for ``link.stalled`` and ``link.timeout``), PeerRefused, and BackhaulError ``link.protocol``,
    ``link.malformed``, ``lease.fenced``, ``inbox.full`` and what else the journal raises.
    """
    stored = await journal.subscriptions.get(settings.name)
    if stored is None:
        await journal.subscriptions.set_requested(settings.name, settings.criteria, if_new=True)
        stored = await journal.subscriptions.get(settings.name)
    stored = stored or Subscription(settings.name, NO_RESUME_POINT, FilterState(0, ""), 0, 0, 0)
    state.requested_version = stored.requested.version
    receiving = Receiving(stored.place, stored.requested)
    subscribed = await _open(stream, stored, settings, now_us)
    receiving.begin(subscribed)
    on_start()
    place = receiving.place
    state.head_position = subscribed.history.head_position
    _log.info(
        "subscription.started",
        resume=subscribed.resume,
        position=place.live.position,
        behind=subscribed.history.head_position - place.live.position,
        filter_version=place.applied.version,
    )
    intake = ReceiveCommitter(journal, lease, sink, settings, state, stored)
    await intake.begin(place)
    session = _Session(stream, journal, receiving, intake, settings, state, subscribed.replays_max, now_us, on_progress)
    return await session.run()


async def _open(
    stream: DialledStream, stored: Subscription, settings: SubscriptionSettings, now_us: Callable[[], int]
) -> Subscribed:
    asked = Subscribe(
        settings.stream_id,
        settings.consumer_id,
        settings.name,
        stored.place,
        stored.requested,
        settings.limits,
        now_us(),
        settings.start,
        settings.on_trimmed,
        settings.snapshots_if_behind,
        settings.past,
    )
    with trio.move_on_after(settings.progress_timeout_s) as deadline:
        try:
            await stream.send(encode_from_consumer(asked))
            subscribed = decode_from_source(await stream.receive())
        except PeerClosed:
            raise PeerGone("link.not_backhaul", "the peer ended the stream without Subscribed", _WRONG_PEER) from None
    if deadline.cancelled_caught:
        raise PeerGone("link.timeout", "the source did not answer Subscribe", "look at its log; dialling again")
    if not isinstance(subscribed, Subscribed):
        raise _protocol_error(f"{type(subscribed).__name__} came before Subscribed")
    return subscribed


class _Session:
    """One stream after Subscribed."""

    def __init__(
        self,
        stream: DialledStream,
        journal: Journal,
        receiving: Receiving,
        intake: ReceiveCommitter,
        settings: SubscriptionSettings,
        state: SubscriptionState,
        replays_max: int,
        now_us: Callable[[], int],
        on_progress: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._journal = journal
        self._receiving = receiving
        self._intake = intake
        self._settings = settings
        self._state = state
        self._replays_max = replays_max
        self._now_us = now_us
        self._on_progress = on_progress
        self._queue: deque[_Heard] = deque()
        self._queued_bytes = 0
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._replaying: set[str] = set()
        self._drain: Drain | None = None
        self._peer_ended = False
        self._is_leaving = False
        self._is_busy = False
        self._requested = FilterState(receiving.newest_requested, "")
        self._update_at_s = 0.0
        self._acks = DelayedAck(
            window_bytes=settings.limits.window_bytes, progress_timeout_s=settings.progress_timeout_s
        )
        self._last_sent_s = trio.current_time()
        self._received_at_last_sent = 0
        self._busy_since_s = 0.0
        self._own_time = SelfStallClock(settings.progress_timeout_s / 6)

    async def run(self) -> Drain | None:
        """The stream's whole life."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._watch_progress)
                nursery.start_soon(self._watch_filter)
                nursery.start_soon(self._leave_when_asked)
                await self._work_off()
                nursery.cancel_scope.cancel()
        except* BackhaulError as group:
            if (error := first_refusal(group)).code != NOT_ACKED:
                raise
            busy_s = trio.current_time() - self._busy_since_s if self._is_busy else 0.0
            is_long = busy_s >= self._settings.progress_timeout_s / 2
            raise why_not_acked(error, self._own_time.longest_still_s, busy_s if is_long else 0.0) from None
        finally:
            self._intake.leave()
        return self._drain

    async def _leave_when_asked(self) -> None:
        """This service stops: end the stream as when the source asks to leave."""
        await self._state.departure.asked.wait()
        self._drain = self._drain or Drain(0.0, "this service stops")
        self._work.unpark_all()

    # -- the one task that stores and sends ------------------------------------------------------------------------
    async def _work_off(self) -> None:
        while True:
            if self._queue:
                await self._take()
            elif self._peer_ended:
                break
            elif self._drain is not None:
                await self._leave()
                return
            elif trio.current_time() >= self._acks.due_s:
                await self._acknowledge()
            else:
                await self._ask_for_replays()
                await self._ask_for_filter()
                await self._wait()
        await self._intake.keep_place()

    async def _leave(self) -> None:
        """End the stream; what still comes is sent again on the next one."""
        self._is_leaving = True  # before anything waits: what were queued from now on would never be taken
        await self._intake.keep_place()
        await self._stream.end()
        while not self._peer_ended:
            await self._work.park()

    async def _take(self) -> None:
        """Let what has queued take effect, in one commit, and acknowledge it when that is due."""
        taken: list[_Heard] = []
        rows = 0
        while self._queue and rows < _GROUP_MAX_ROWS:
            if self._queue[0].starts and taken:
                break  # what came before it takes effect before it
            heard = self._queue.popleft()
            taken.append(heard)
            self._queued_bytes -= heard.size
            if isinstance(heard.message, Deliver):
                rows += len(heard.message.events) + len(heard.message.ranges)
            if heard.starts:
                break
        self._room.unpark_all()
        deliveries = [heard.message for heard in taken if isinstance(heard.message, Deliver)]
        is_news = any(not isinstance(heard.message, Progress) for heard in taken)
        self._is_busy, self._busy_since_s = True, trio.current_time()
        if taken[-1].starts:
            if await self._intake.begin_again(taken[-1].starts, taken[-1].place):
                self._dial_anew()
            self._on_progress()
        elif is_news:
            ended = await self._intake.take(deliveries, taken[-1].place)
            self._replaying.difference_update(ended)
            self._on_progress()
        else:
            self._intake.moved(taken[-1].place)
            if self._is_place_due:
                await self._intake.keep_place()
                self._on_progress()
        self._is_busy = False
        for heard in taken:
            match heard.message:
                case FilterApplied():
                    _log.info(
                        "subscription.filter_applied",
                        filter_version=heard.message.version,
                        position=heard.message.change_position,
                        backfill=heard.message.begin is not None,
                    )
                    fail_point("subscription.after_filter_applied")
                case BackfillDone():
                    _log.info(
                        "subscription.backfill_done",
                        filter_version=heard.message.version,
                        position=heard.message.position,
                    )
                    fail_point("subscription.after_backfill_done")
        size = sum(heard.size for heard in taken if isinstance(heard.message, Deliver))
        self._acks.took(len(deliveries), size, trio.current_time())
        if trio.current_time() >= self._acks.due_s:
            await self._acknowledge()

    def _dial_anew(self) -> None:
        """Entities begin again: what is under way was sent before. The next stream goes on from what is stored."""
        self._queue.clear()
        self._queued_bytes = 0
        self._room.unpark_all()
        self._is_leaving = True
        self._drain = self._drain or Drain(0.0, "entities begin again")

    async def _acknowledge(self) -> None:
        """Tell what has taken effect."""
        fail_point("subscription.before_ack")
        await self._send(ConsumerAck(self._acks.acknowledge()))

    async def _ask_for_replays(self) -> None:
        wanted = self._intake.to_replay(self._replays_max - len(self._replaying), self._replaying)
        self._replaying.update(name for name, _ in wanted)
        asked = 0
        self._stream.hold()
        try:
            for name, from_seq_nr in wanted:
                if not self._stream.send_nowait(encode_from_consumer(Replay(name, from_seq_nr))):
                    break
                asked += 1
        finally:
            self._stream.release()
        if asked:
            self._last_sent_s = trio.current_time()
            self._received_at_last_sent = self._stream.bytes_received
        for name, from_seq_nr in wanted[asked:]:
            await self._send(Replay(name, from_seq_nr))

    async def _ask_for_filter(self) -> None:
        requested = self._requested
        if requested.version > self._receiving.newest_requested and trio.current_time() >= self._update_at_s:
            self._update_at_s = trio.current_time() + _UPDATE_PAUSE_S
            self._receiving.asked(requested)
            await self._send(FilterUpdate(requested.version, requested.criteria))

    @property
    def _place_due_s(self) -> float:
        """When a place is stored alone: one number to wait for and to compare with, or rounding has one wait for nothing."""
        return self._intake.place_kept_s + _PLACE_ALONE_S

    @property
    def _is_place_due(self) -> bool:
        return trio.current_time() >= self._place_due_s

    async def _wait(self) -> None:
        due_s = self._last_sent_s + self._settings.heartbeat_s
        if self._stream.bytes_received - self._received_at_last_sent < _ALIVE_BYTES:
            due_s += 2 * self._settings.heartbeat_s  # an idle stream: the source needs little from this side
        until_s = min(due_s, self._acks.due_s)
        if not self._intake.is_place_kept:
            until_s = min(until_s, self._place_due_s)
        if self._requested.version > self._receiving.newest_requested:
            until_s = min(until_s, self._update_at_s)
        if self._queue or self._peer_ended or self._drain:
            return  # it came while something was sent
        with trio.move_on_at(until_s):
            await self._work.park()
            return
        if trio.current_time() >= due_s:
            await self._send(Heartbeat(self._stream.bytes_received, self._now_us()))
        if not self._intake.is_place_kept and self._is_place_due:
            await self._intake.keep_place()
            self._on_progress()

    async def _send(self, message: FromConsumer) -> None:
        with trio.move_on_after(self._settings.progress_timeout_s) as deadline:
            try:
                await self._stream.send(encode_from_consumer(message))
            except PeerClosed:
                self._peer_ended = True  # `_receive` meets the end too, behind what came before it
        if deadline.cancelled_caught:
            raise self._stalled("the source does not read what is sent to it")
        self._last_sent_s = trio.current_time()
        self._received_at_last_sent = self._stream.bytes_received

    # -- receiving -------------------------------------------------------------------------------------------------
    async def _receive(self) -> None:
        receiving, state = self._receiving, self._state
        try:
            while True:
                while self._queued_bytes >= self._settings.limits.window_bytes:
                    await self._room.park()
                data = await self._stream.receive()
                message = decode_from_source(data)
                place: ResumePoint | None = None
                starts: Mapping[str, int] = {}
                match message:
                    case Deliver():
                        place = receiving.deliver(message)
                    case Progress():
                        place = receiving.progress(message)
                    case FilterApplied():
                        before = receiving.place.applied
                        place = receiving.filter_applied(message)
                        starts = _lower_starts(before, place.next or place.applied)
                    case BackfillDone():
                        place = receiving.backfill_done(message)
                    case Heartbeat():
                        continue
                    case Drain():
                        _log.info(
                            "subscription.draining", reason=message.reason, redial_within_s=message.redial_within_s
                        )
                        self._drain = message
                    case _:
                        raise _protocol_error("a second Subscribed came")
                if place is not None and not self._is_leaving:
                    assert not isinstance(message, Heartbeat | Drain | Subscribed)
                    self._queue.append(_Heard(message, place, len(data) + _HEARD_BYTES, starts))
                    self._queued_bytes += len(data) + _HEARD_BYTES
                    state.head_position = max(state.head_position, place.live.position)
                self._work.unpark_all()
        except PeerClosed:
            self._peer_ended = True
            self._work.unpark_all()

    # -- watching --------------------------------------------------------------------------------------------------
    async def _watch_progress(self) -> None:
        """Leave a source from which no byte has come for the timeout, unless it is we who owe it an ack."""
        timeout_s = self._settings.progress_timeout_s
        seen, since_s = -1, trio.current_time()
        while True:
            await trio.sleep(timeout_s / 6)
            received, still_s = self._stream.bytes_received, self._own_time.look()
            if self._is_busy or self._queue or received != seen or still_s:
                seen, since_s = received, trio.current_time()
            elif trio.current_time() - since_s >= timeout_s:
                raise self._stalled(f"nothing came for {timeout_s:g} s")

    async def _watch_filter(self) -> None:
        """Hear at once of a filter that is changed here, and look now and then for one that was changed elsewhere."""
        while True:
            with trio.move_on_after(self._settings.look_s):
                await self._state.requested_changed.park()
            stored = await self._journal.subscriptions.get(self._settings.name)
            if stored is not None and stored.requested.version > self._requested.version:
                self._requested = stored.requested
                self._state.requested_version = stored.requested.version
                self._work.unpark_all()

    def _stalled(self, what: str) -> PeerGone:
        self._stream.abort()
        if still_s := self._own_time.longest_still_s:
            return PeerGone("link.stalled", f"this process stood still for {still_s:.0f} s", "dialling again")
        return PeerGone("link.stalled", what, "the line or the source stands still; dialling again")


def _lower_starts(before: FilterState, after: FilterState) -> dict[str, int]:
    return lower_starts(parse_filter(before.criteria), parse_filter(after.criteria))


def _protocol_error(what: str) -> BackhaulError:
    return BackhaulError("link.protocol", what, "this is a fault of the source: report it")
