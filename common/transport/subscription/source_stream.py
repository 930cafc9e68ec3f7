"""One consumer's stream at the source, after Subscribed: the lanes from the log to the line.

One nursery a stream. *Live* is a child for the stream's whole life; *backfill* and *replay* are children while there is
something for them; a child receives; this task starts them, and ends the stream. All send through one turn, so that what
is decided and what is sent are one step: a lane's place moves when its message goes, and a replay's end is read in
the turn in which it goes, so that no event falls between it and the live lane. What may be sent
is for ``core.subscription.source`` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import trio

from common.core.errors import BackhaulError
from common.core.events.ids import SEPARATOR
from common.core.filters.past import Past
from common.core.filters.permission import widens, within
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, Filter, OnlyNew, all_of, parse_filter
from common.core.firehose.fetch_result import FetchResult
from common.core.flow.messages import Drain, Heartbeat
from common.core.subscription.messages import (
    Begin,
    ConsumerAck,
    DeliveryLane,
    FilterUpdate,
    OrderTime,
    Replay,
    Subscribed,
)
from common.core.subscription.place import FilterState, LogCursor, SnapshotScan
from common.core.subscription.source import Serving
from common.fail_points import fail_point
from common.journal.feeds import Feed, Feeds
from common.journal.stores.journal import Journal
from common.transport.codec.subscription import decode_from_consumer
from common.transport.link.live_peers import LivePeer
from common.transport.stream import MessageStream, PeerClosed, PeerGone
from common.transport.subscription.catalogue import StreamDefinition
from common.transport.subscription.replays import read_ahead, send_replay_pages, send_snapshot_page
from common.transport.subscription.sender import ConsumerStream, Sender
from common.transport.subscription.watch import ConsumerWatch

_BACKFILL_WAIT_S = 0.2
# What leaves in one write, when a consumer has that much before it: so many messages, up to about so many bytes.
_TOGETHER = 8
_TOGETHER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Times of every consumer's stream, in seconds."""

    heartbeat_s: float
    progress_timeout_s: float


class SourceStream:
    """See the module. ``allowed`` is what the consumer may see at most."""

    def __init__(
        self,
        stream: MessageStream,
        serving: Serving,
        state: ConsumerStream,
        *,
        journal: Journal,
        feeds: Feeds,
        served: StreamDefinition,
        allowed: Filter,
        start: Begin | OrderTime,
        past: Past,
        settings: LaneSettings,
        now_us: Callable[[], int],
    ) -> None:
        self._stream = stream
        self._serving = serving
        self._sender = Sender(
            stream, serving, state, transform=served.transform, heartbeat_s=settings.heartbeat_s, now_us=now_us
        )
        self.state = state
        self._journal = journal
        self._feeds = feeds
        self._served = served
        self._allowed = allowed
        self._start = start
        self._past = past
        self._settings = settings
        self._name = f"{state.consumer_id}/{state.subscription}"
        self._work = trio.lowlevel.ParkingLot()  # for the task that watches and starts lanes
        self._live_wait: trio.CancelScope | None = None
        self._in_hand: FetchResult | None = None
        self._running: set[DeliveryLane] = set()
        self._drain: Drain | None = None
        self._end: BackhaulError | None = None
        self._peer_ended = False
        self.live_peer = LivePeer(state.consumer_id, stream.peer, self.end)
        """The consumer's end of the connection."""
        self._watch = ConsumerWatch(stream, serving, self._sender, settings.progress_timeout_s, trio.current_time())
        self._failure: BackhaulError | None = None

    def drain(self, drain: Drain) -> None:
        """Ask the consumer to leave; nothing new is sent."""
        self._drain = drain
        self._wake()

    def replaced(self) -> None:
        """A newer stream of the same consumer and subscription has come."""
        self.end(
            BackhaulError(
                "subscription.replaced",
                f"{self._name} has opened a newer stream",
                "if two services subscribe under one name, stop one; else nothing is to be done",
            )
        )

    def end(self, reason: BackhaulError) -> None:
        """Refuse the consumer what is still to come."""
        self._end = self._end or reason
        self._wake()

    async def run(self, subscribed: Subscribed) -> None:
        """Until the consumer ends the stream. Raises what the consumer must learn."""
        await self._sender.say(subscribed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._serve_live)
            is_drain_sent = False
            while not self._peer_ended:
                if self._end:
                    raise self._end
                if self._drain and not is_drain_sent:
                    is_drain_sent = True
                    nursery.start_soon(self._sender.say, self._drain)  # a lane may wait in the turn for room
                for lane, serve in (
                    (DeliveryLane.BACKFILL, self._serve_backfill),
                    (DeliveryLane.REPLAY, self._serve_replays),
                ):
                    if self._has_work(lane) and lane not in self._running:
                        self._running.add(lane)
                        nursery.start_soon(serve)
                if self._failure is not None:
                    if isinstance(self._failure, PeerGone):
                        self._stream.abort()
                    raise self._failure
                await self._work.park()
            nursery.cancel_scope.cancel()

    def _has_work(self, lane: DeliveryLane) -> bool:
        if self._drain is not None:  # a lane that was begun now would end at once, again and again
            return False
        place = self._serving.place
        return place.backfill is not None if lane is DeliveryLane.BACKFILL else self._serving.next_replay is not None

    def _wake(self) -> None:
        """Have every task look around."""
        self._work.unpark_all()
        self._sender.moved.unpark_all()
        if self._live_wait is not None and self._wants_live:
            self._live_wait.cancel()

    @property
    def _wants_live(self) -> bool:
        serving = self._serving
        return serving.wants_change or serving.has_met or self._drain is not None

    # -- what the lanes select -------------------------------------------------------------------------------------
    @property
    def _wanted(self) -> EntityPredicate:
        """What the consumer is to have in the end."""
        place = self._serving.place
        return within(self._allowed, filter_of((place.next or place.applied).criteria))

    @property
    def _states_past(self) -> bool:
        """Whether an entity that enters comes without its past."""
        return self._past is Past.NONE

    @property
    def _live_predicate(self) -> EntityPredicate:
        place = self._serving.place
        following = filter_of(place.next.criteria) if place.next else EVERY_ENTITY
        return within(self._allowed, all_of(filter_of(place.applied.criteria), following))

    @property
    def _backfill_predicate(self) -> EntityPredicate:
        place = self._serving.place
        assert place.next is not None
        following, applied = filter_of(place.next.criteria), filter_of(place.applied.criteria)
        if widens(place.applied.wall, place.next.wall):  # what the applied filter had brought behind it is not known
            return within(self._allowed, following)
        return within(self._allowed, OnlyNew(following, applied))

    # -- live ------------------------------------------------------------------------------------------------------
    async def _serve_live(self) -> None:
        serving = self._serving
        await self._serve_snapshots(DeliveryLane.LIVE, self._live_predicate)
        position = serving.place.live.position
        with self._feeds.subscribe(
            self._name, self._live_predicate, self._served.entity_types, position, states_past=self._states_past
        ) as feed:
            while self._drain is None:
                if self._in_hand is not None:
                    in_hand, self._in_hand = self._in_hand, None
                    await self._send(DeliveryLane.LIVE, in_hand)
                elif serving.has_met:
                    await self._end_change(feed)
                elif serving.wants_change:
                    await self._begin_change(feed)
                elif serving.states_first or serving.holds_live or not serving.room_bytes():
                    await self._wait_for_others()
                else:
                    is_plain = serving.place.next is None and self._served.transform is None
                    feed.serve = partial(self._serve_at_once, feed) if is_plain else None
                    stretch = await self._next_live(feed, serving.room_bytes())
                    if stretch is not None:
                        await self._send(DeliveryLane.LIVE, stretch)
                    await self._sender.heartbeat_if_due()
                self.state.standing = feed.standing.value

    def _serve_at_once(self, feed: Feed, now_s: float) -> bool:
        """Send what is in memory, while this stream's task waits in ``feed.next``; where that cannot be, end its wait."""
        is_left: bool | None = None
        if not self._serving.states_first and not self._wants_live:
            self._stream.hold()
            try:
                is_left = self._send_together(feed, now_s)
            finally:
                self._stream.release()
        if is_left is None and self._live_wait is not None:
            self._live_wait.cancel()
        return bool(is_left)

    def _send_together(self, feed: Feed, now_s: float) -> bool | None:
        """Some messages for one write. Answers whether more is left; None when this stream's task must see to it."""
        serving, sent_bytes = self._serving, 0
        for _ in range(_TOGETHER):
            room = serving.room_bytes()
            if not room:
                return None
            stretch = feed.next_nowait(max_events=serving.limits.batch_events, max_bytes=_even(room), now_s=now_s)
            size = self._sender.send_stretch_nowait(stretch, now_s) if stretch is not None else 0
            if stretch is None or not size:
                self._in_hand = stretch
                return None
            if stretch.through >= stretch.head:
                return False
            sent_bytes += size
            if sent_bytes >= _TOGETHER_BYTES:
                break
        return True

    async def _send(self, lane: DeliveryLane, stretch: FetchResult) -> None:
        await self._sender.send_stretch(lane, stretch, lambda: self._wanted)
        if self._serving.place.next is not None:  # the lanes look where the other one is
            self._tell_filters()
            self._wake()

    async def _next_live(self, feed: Feed, room: int) -> FetchResult | None:
        limits, settings = self._serving.limits, self._settings
        scope = self._live_wait = trio.CancelScope()
        with scope:
            try:
                return await feed.next(max_events=limits.batch_events, max_bytes=room, at_most_s=settings.heartbeat_s)
            finally:
                self._live_wait = None
        return None

    async def _wait_for_others(self) -> None:
        with trio.move_on_after(self._settings.heartbeat_s):
            await self._sender.moved.park()
        await self._sender.heartbeat_if_due()

    async def _begin_change(self, feed: Feed) -> None:
        """Called between two stretches: the feed has given nothing that was not sent."""
        serving, pending = self._serving, self._serving.pending
        assert pending is not None
        following, applied = filter_of(pending.criteria), filter_of(serving.place.applied.criteria)
        is_wider = not applied.is_everything and applied != following
        is_wider = is_wider or widens(serving.place.applied.wall, pending.wall)
        begin = await self._beginning() if is_wider else None
        async with self._sender.send_lock:
            if serving.pending is not pending:
                return  # another one has taken its place meanwhile
            applied_now = serving.begin_change(begin)
            feed.change(self._live_predicate)
            self.state_starts(following)
            fail_point("serving.before_filter_change")
            await self._sender.send(applied_now)
            fail_point("serving.after_filter_change")
        self._tell_filters()
        self._wake()

    async def _beginning(self) -> LogCursor:
        """Where a backfill begins."""
        if self._start is not Begin.SNAPSHOTS or self._serving.place.begin:
            return LogCursor(self._serving.place.begin)
        head = self._serving.place.live.position
        low = await self._journal.snapshots.uncovered_after(head, entity_types=self._served.entity_types)
        return LogCursor(0, scan=SnapshotScan(head, low, ""))

    async def _end_change(self, feed: Feed) -> None:
        async with self._sender.send_lock:
            done = self._serving.end_change()
            feed.change(self._live_predicate)
            fail_point("serving.before_backfill_done")
            await self._sender.send(done)
            fail_point("serving.after_backfill_done")
        self._tell_filters()
        self._wake()

    def state_starts(self, wanted: Filter) -> None:
        """Have it stated which numbers a new filter does not want of the entities it names."""
        kinds = sorted(self._served.entity_types)
        for name in wanted.starts:
            for persistence_id in [name] if SEPARATOR in name else [f"{kind}{SEPARATOR}{name}" for kind in kinds]:
                if first := wanted.from_seq_nr(persistence_id):
                    self._serving.state_start(persistence_id, first)

    def _tell_filters(self) -> None:
        place = self._serving.place
        self.state.filter_version = place.applied.version
        self.state.backfill_position = place.backfill.position if place.backfill else -1

    # -- backfill --------------------------------------------------------------------------------------------------
    async def _serve_backfill(self) -> None:
        """What only the next filter lets through. Live may end the change at any await: then there is nothing to do."""
        change = self._serving.place.next
        while self._serving.states_first:
            await self._sender.moved.park()
        if change is not None and self._serving.place.next is change:
            await self._serve_change(change)
        self._running.discard(DeliveryLane.BACKFILL)
        self._work.unpark_all()

    async def _serve_change(self, change: FilterState) -> None:
        serving, predicate = self._serving, self._backfill_predicate
        await self._serve_snapshots(DeliveryLane.BACKFILL, predicate)
        if serving.place.backfill is None:
            return
        with self._feeds.scan(
            f"{self._name} (backfill)",
            predicate,
            self._served.entity_types,
            serving.place.backfill.position,
            lambda: serving.place.live.position,
            states_past=self._states_past,
        ) as feed:
            while serving.place.next is change and self._drain is None:
                room = serving.room_bytes()
                if serving.has_met or not room:
                    self._wake()
                    await self._sender.moved.park()
                    continue
                stretch = await feed.next(
                    max_events=serving.limits.batch_events, max_bytes=room, at_most_s=_BACKFILL_WAIT_S
                )
                if stretch is not None:
                    await self._send(DeliveryLane.BACKFILL, stretch)
                    fail_point("serving.in_backfill")

    # -- beside the log --------------------------------------------------------------------------------------------
    async def _serve_snapshots(self, lane: DeliveryLane, predicate: EntityPredicate) -> None:
        while self._drain is None and await send_snapshot_page(
            lane,
            predicate,
            self._wanted,
            self._serving,
            self._sender,
            self._journal,
            self._feeds,
            self._served,
            self._past,
        ):
            pass

    async def _serve_replays(self) -> None:
        serving, sender = self._serving, self._sender
        while serving.next_replay is not None and self._drain is None:
            await sender.room()
            ready = await read_ahead(self._wanted, serving, self._feeds, self._served, self._past)
            await self._feeds.turn()
            async with sender.send_lock:
                self.state.replays += await send_replay_pages(
                    self._wanted,
                    serving,
                    sender,
                    self._journal,
                    self._feeds,
                    self._served,
                    self._past,
                    ready,
                )
            self._wake()
        self._running.discard(DeliveryLane.REPLAY)

    # -- receiving -------------------------------------------------------------------------------------------------
    async def _receive(self) -> None:
        serving = self._serving
        try:
            while True:
                message = decode_from_consumer(await self._stream.receive())
                now_s = self._watch.heard_s = trio.current_time()
                match message:
                    case ConsumerAck():
                        serving.ack(message, now_s)
                        self.state.acked_deliveries = serving.acked
                        self.state.in_flight_bytes = serving.window.in_flight_bytes
                        self._sender.moved.unpark_all()
                        continue
                    case FilterUpdate():
                        filter_of(message.criteria)
                        serving.ask_filter(message, now_s)
                    case Replay():
                        serving.ask_replay(message)
                    case Heartbeat():
                        self._watch.received = message.bytes_received
                        continue
                    case _:
                        raise protocol_error("a second Subscribe came")
                self._wake()
        except PeerClosed:
            self._peer_ended = True
            self._wake()

    # -- watching --------------------------------------------------------------------------------------------------
    def look(self, now_s: float, stood_still_s: float = 0.0) -> None:
        """Have it end when it stands still; the time for which this process did so itself does not count.

        To be called a few times in the timeout, for all streams in one go: thousands of timers would cost more than the rest.
        """
        if self._failure is None:
            self._failure = self._watch.look(now_s, stood_still_s)
            if self._failure is not None:
                self._wake()


@lru_cache(1024)
def filter_of(criteria: str) -> Filter:
    """The filter of criteria that many consumers may have. Raises as ``parse_filter``."""
    return parse_filter(criteria)


def _even(room: int) -> int:
    """A power of two: consumers whose windows differ a little then take the same stretch, and its bytes are made once."""
    return 1 << (room.bit_length() - 1)


def protocol_error(what: str) -> BackhaulError:
    """The refusal of what breaks the protocol's steps."""
    return BackhaulError("link.protocol", what, "speak the steps of protos/backhaul/v1/subscribe.proto")
