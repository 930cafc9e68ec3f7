"""The source's end of subscriptions: who may, from where, and the streams that are open.

A consumer is authenticated and its stream found before anything is looked up for it; what its filter selects is always
inside what the stream's own filter allows it. Its place is compared with this journal's history, and each way in which
the two do not fit has its own code. The lanes are ``source_stream``'s; unary questions pass the same door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import structlog
import trio

from common import audit
from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import (
    NAME_MAX_BYTES,
    entity_type_of,
    invisible_problem,
    persistence_id_problem,
    text_problem,
)
from common.core.events.leaving import has_marks
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import wall_version, within
from common.core.filters.predicates import EVERY_ENTITY, Filter
from common.core.journal.history import History
from common.core.journal.place_digest import place_digest
from common.core.policy.credentials import TrustNow, always_trusted
from common.core.policy.rules import EVERYTHING, Policy
from common.core.subscription.messages import (
    ENTITY_EVENTS_PATH,
    EVENT_PATH,
    LATEST_OFFSET_PATH,
    PROTOCOL_VERSION,
    SUBSCRIBE_PATH,
    Begin,
    Deliver,
    DeliveryLane,
    EntityEvents,
    EntityQuery,
    LatestOffset,
    OrderTime,
    StreamLimits,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import (
    LogCursor,
    PlaceVerdict,
    ResumePoint,
    SnapshotScan,
    decide_resume_point,
    gone_back,
    reached_by,
)
from common.core.subscription.replay import QueuedReplay
from common.core.subscription.replay_queue import REPLAYS_MAX
from common.core.subscription.source import Serving
from common.core.subscription.withheld import served_parts
from common.journal.entity_history import history_reader
from common.journal.entity_pages import entity_page
from common.journal.feeds import Feeds
from common.journal.order_time import position_at
from common.journal.stores.journal import Journal
from common.transport.codec import query as query_codec
from common.transport.codec.subscription import decode_from_consumer
from common.transport.link.live_peers import LivePeer, check_trusted
from common.transport.link.live_streams import LiveStreams
from common.transport.stream import Caller, MessageStream, Methods, PeerInfo, StreamMethod, UnaryMethod
from common.transport.subscription.catalogue import StreamCatalogue, StreamDefinition, invalid_consumer, no_such_stream
from common.transport.subscription.sender import ConsumerStream
from common.transport.subscription.source_stream import LaneSettings, SourceStream, filter_of, protocol_error
from common.transport.subscription.stall import SelfStallClock

_log = structlog.get_logger()

_BEHIND = "behind"
_UNSTATED = "unstated"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Bounds and times (seconds) of all subscriptions a node serves."""

    limits: StreamLimits
    hello_timeout_s: float
    heartbeat_s: float
    progress_timeout_s: float
    require_identity: bool
    """Whether the consumer id must be a name in the peer's certificate (always, with TLS)."""
    policy: Callable[[], Policy] = lambda: EVERYTHING
    """The policy that holds now."""
    trust: TrustNow = always_trusted
    """Who may be connected now; looked at for every call, and by the watch over live streams."""


class SubscriptionEndpoint:
    """All consumers of one node."""

    def __init__(
        self,
        journal: Journal,
        feeds: Feeds,
        catalogue: StreamCatalogue,
        settings: SourceSettings,
        now_us: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._feeds = feeds
        self._catalogue = catalogue
        self._settings = settings
        self._now_us = now_us
        self._live: LiveStreams[tuple[str, str], SourceStream] = LiveStreams("consumer")
        self._policy = settings.policy()

    @property
    def methods(self) -> Methods:
        """What is served, by path."""
        return {
            SUBSCRIBE_PATH: StreamMethod(self.serve),
            LATEST_OFFSET_PATH: UnaryMethod(self.latest_offset),
            ENTITY_EVENTS_PATH: UnaryMethod(self.entity_events),
            EVENT_PATH: UnaryMethod(self.event),
        }

    @property
    def streams(self) -> list[ConsumerStream]:
        """Who is connected to this node now."""
        return [live.state for live in self._live.values()]

    def live_peers(self) -> list[LivePeer]:
        """The consumers that are connected to this node now, for the watch over their certificates."""
        return [live.live_peer for live in self._live.values()]

    async def run(self) -> NoReturn:
        """Watch over all streams, until cancelled. Started by its owner."""
        look_s = self._settings.progress_timeout_s / 3
        own_time = SelfStallClock(look_s)
        while True:
            await trio.sleep(look_s)
            still_s, now_s = own_time.look(), trio.current_time()
            for live in self._live.values():
                live.look(now_s, still_s)
            self._look_at_policy()

    async def drain(self, redial_within_s: float) -> None:
        """Ask every consumer, also those that still come, to leave; returns when none is left."""
        await self._live.leave(redial_within_s, SourceStream.drain)

    async def serve(self, stream: MessageStream) -> None:
        """One stream, from Subscribe to its end. Raises BackhaulError for what the consumer must learn."""
        asked = await self._receive_subscribe(stream)
        with structlog.contextvars.bound_contextvars(
            consumer_id=asked.consumer_id, stream_id=asked.stream_id, peer=stream.peer.address
        ):
            served, allowed = self._authorise(asked.stream_id, asked.consumer_id, stream.peer)
            subscribed, serving = await self._open(asked, served, wall_version(allowed))
            state = ConsumerStream(
                asked.consumer_id,
                asked.stream_id,
                asked.subscription,
                stream.peer.address,
                self._now_us(),
                subscribed.resume,
                subscribed.place.live.position,
                filter_version=subscribed.place.applied.version,
            )
            live = SourceStream(
                stream,
                serving,
                state,
                journal=self._journal,
                feeds=self._feeds,
                served=served,
                allowed=allowed,
                # Who may have been led on by snapshots lacks what they stood for: the log alone would not bring it back.
                start=Begin.SNAPSHOTS if asked.snapshots_if_behind else asked.start,
                past=asked.past,
                settings=LaneSettings(self._settings.heartbeat_s, self._settings.progress_timeout_s),
                now_us=self._now_us,
            )
            if subscribed.resume == PlaceVerdict.FIRST.value:
                live.state_starts(filter_of(subscribed.place.applied.criteria))
            await self._run(live, subscribed)

    async def _run(self, live: SourceStream, subscribed: Subscribed) -> None:
        state = live.state
        key = (state.consumer_id, state.subscription)
        if key in self._live:
            self._live[key].replaced()
        if self._live.drain:
            live.drain(self._live.drain)
        _log.info(
            "consumer.connected",
            subscription=state.subscription,
            resume=state.resume,
            position=state.position,
            behind=subscribed.history.head_position - state.position,
            filter_version=state.filter_version,
        )

        def ended(code: str, reason: str) -> None:
            _log.info(
                "consumer.disconnected",
                subscription=state.subscription,
                code=code,
                reason=reason,
                position=state.position,
                deliveries=state.deliveries,
                acked_deliveries=state.acked_deliveries,
                events=state.events,
                replays=state.replays,
            )

        await self._live.run(key, live, live.run(subscribed), ended)

    # -- who may ---------------------------------------------------------------------------------------------------
    async def _receive_subscribe(self, stream: MessageStream) -> Subscribe:
        with trio.move_on_after(self._settings.hello_timeout_s):
            asked = decode_from_consumer(await stream.receive())
            if not isinstance(asked, Subscribe):
                raise protocol_error(f"{type(asked).__name__} came before Subscribe")
            if asked.protocol_version != PROTOCOL_VERSION:
                raise BackhaulError(
                    "subscription.version",
                    f"the consumer speaks protocol {asked.protocol_version}, this node {PROTOCOL_VERSION}",
                    "update the older side",
                )
            if text_problem(asked.subscription, NAME_MAX_BYTES):
                raise protocol_error("the subscription's name is not plain text")
            return asked
        raise BackhaulError("link.timeout", "no Subscribe came", "send Subscribe at once after opening the stream")

    def _authorise(self, stream_id: str, consumer_id: str, peer: PeerInfo) -> tuple[StreamDefinition, Filter]:
        """The stream, and what this consumer may see of it. Asked before anything is looked up for it."""
        problem = (
            (text_problem(consumer_id, NAME_MAX_BYTES) or invisible_problem(consumer_id)) if consumer_id else "is empty"
        )
        if problem:
            raise invalid_consumer(problem)
        if self._settings.require_identity:
            peer.must_be(consumer_id, "consumer")
        check_trusted(self._settings.trust, consumer_id, peer, self._now_us() / 1e6)
        rights = self._settings.policy().rights_of(consumer_id)
        wall = rights.wall_of(stream_id)
        if wall is None:
            audit.refused(
                who=consumer_id,
                source=peer.address,
                what=f"read {stream_id}",
                rule=rights.rule.name,
                result="subscription.no_such_stream",
            )
            raise no_such_stream(stream_id)
        return self._catalogue.find(stream_id), wall.filter_for(consumer_id)

    def _look_at_policy(self) -> None:
        """End the streams of consumers that may no longer see what they see: their next dial is judged anew."""
        policy = self._settings.policy()
        if policy is self._policy:
            return
        before, self._policy = self._policy, policy
        for live in self._live.values():
            consumer_id, stream_id = live.state.consumer_id, live.state.stream_id
            wall = policy.rights_of(consumer_id).wall_of(stream_id)
            if wall is None:
                live.end(no_such_stream(stream_id))
            elif wall != before.rights_of(consumer_id).wall_of(stream_id):
                live.end(_policy_changed(stream_id))

    # -- from where ------------------------------------------------------------------------------------------------
    async def _open(self, asked: Subscribe, served: StreamDefinition, wall: str) -> tuple[Subscribed, Serving]:
        for wanted in (asked.requested, asked.place.applied, asked.place.next):
            if wanted is not None:
                filter_of(wanted.criteria)
        stats = await self._journal.log.stats()
        own = self._journal.log.history
        history = History(own.journal_id, own.generations, stats.head_position)
        digest = await self._digest_at(asked.place)
        verdict = decide_resume_point(asked.place, history, stats.deleted_through, digest)
        place, resume = asked.place, verdict.value
        if verdict in (PlaceVerdict.RESUME, PlaceVerdict.TRIMMED):
            place = gone_back(place, history)
        behind = history.head_position - place.live.position
        if verdict is PlaceVerdict.FIRST:
            scan = await self._scan(served, history) if asked.start is Begin.SNAPSHOTS else None
            begin = await self._begin(asked.start, history.head_position)
            requested = replace(asked.requested, wall=wall)
            place = ResumePoint(history.journal_id, "", LogCursor(begin, scan=scan), requested, begin=begin)
        elif verdict is not PlaceVerdict.RESUME and not (
            verdict is PlaceVerdict.TRIMMED and asked.on_trimmed is not Begin.STOP
        ):
            raise _refusal_of(verdict, asked.place, history, stats.deleted_through)
        elif place is not asked.place:
            resume = _UNSTATED
        elif _begins_with_snapshots(asked, behind):
            place = replace(place, live=replace(place.live, scan=await self._scan(served, history)))
            resume = _BEHIND
        limits = _narrower(self._settings.limits, asked.limits)
        serving = Serving(
            place,
            asked.requested,
            limits,
            ack_target_s=self._settings.progress_timeout_s / 3,
            now_s=trio.current_time(),
            wall=wall,
        )
        subscribed = Subscribed(
            history, stats.deleted_through, resume, place, limits.window_bytes, REPLAYS_MAX, self._now_us()
        )
        return subscribed, serving

    async def _begin(self, start: Begin | OrderTime, head: int) -> int:
        if isinstance(start, OrderTime):
            return min(await position_at(self._journal.log, start.timestamp_us), head)
        return head if start is Begin.NOW else 0

    async def _scan(self, served: StreamDefinition, history: History) -> SnapshotScan:
        head = history.head_position
        low = await self._journal.snapshots.uncovered_after(head, entity_types=served.entity_types)
        return SnapshotScan(head, low, "")

    async def _digest_at(self, place: ResumePoint) -> str:
        position = place.live.position
        if not position or place.journal_id != self._journal.log.history.journal_id:
            return ""
        page = await self._journal.log.read(position - 1, max_events=1, max_bytes=1)
        events = page.events
        if events.position != [position]:
            return ""
        identity = (events.timestamp_us[0], events.persistence_id[0], events.seq_nr[0])
        return place_digest(self._journal.log.place_key, *identity)

    # -- asked once ------------------------------------------------------------------------------------------------
    async def latest_offset(self, request: bytes, caller: Caller) -> bytes:
        """How far the log of a stream goes."""
        query = query_codec.decode_latest_offset_request(request)
        self._authorise(query.stream_id, query.consumer_id, caller.peer)
        stats, history = await self._journal.log.stats(), self._journal.log.history
        offset = LatestOffset(
            history.journal_id,
            history.generation_at(stats.head_position),
            stats.head_position,
            stats.deleted_through,
            stats.head_timestamp_us,
        )
        return query_codec.encode_latest_offset(offset)

    async def entity_events(self, request: bytes, caller: Caller) -> bytes:
        """Events of one entity that this consumer may see; a snapshot first when the first ones are gone."""
        query = query_codec.decode_entity_events_request(request)
        return query_codec.encode_entity_events(await self._entity_events(query, caller.peer))

    async def event(self, request: bytes, caller: Caller) -> bytes:
        """One event."""
        query = query_codec.decode_event_request(request)
        found = await self._entity_events(query, caller.peer)
        if found.events.seq_nr != [query.from_seq_nr] or found.begins_with_snapshot or has_marks(found.events):
            raise BackhaulError(
                "subscription.no_such_event",
                f"no event {query.from_seq_nr} of {query.persistence_id[:80]!r} is in this stream",
                "it does not exist, was deleted, or is not for this consumer",
                kind=ErrorKind.NOT_FOUND,
            )
        return query_codec.encode_event_reply(found.events)

    async def _entity_events(self, query: EntityQuery, peer: PeerInfo) -> EntityEvents:
        served, allowed = self._authorise(query.stream_id, query.consumer_id, peer)
        name, first, last = query.persistence_id, query.from_seq_nr, query.to_seq_nr
        problem = persistence_id_problem(name)
        if problem or first < 1 or (last and last < first):
            raise BackhaulError(
                "subscription.invalid_query",
                problem or f"numbers {first} to {last} are no stretch",
                "name an entity as EntityType|entityId, and numbers from 1 on",
            )
        if served.entity_types and entity_type_of(name) not in served.entity_types:
            return EntityEvents(EventBatch())
        limits = self._settings.limits
        parts, rest = await entity_page(
            history_reader(self._journal),
            QueuedReplay(name, first, first - 1),
            within(allowed, EVERY_ENTITY),
            Past.FULL,
            2**62,
            limits.batch_events,
            limits.batch_bytes,
            last or 2**62,
        )
        events, begins_with_snapshot = EventBatch(), False
        ranges: list[StatedRange] = []
        for part in parts:
            message = Deliver(
                DeliveryLane.REPLAY, 0, 0, events=part.events, ranges=part.ranges, snapshots=part.snapshots
            )
            transform = served.transform if part.events else None
            for one in served_parts(message, transform) if transform else [message]:
                ranges += one.ranges
                begins_with_snapshot = begins_with_snapshot or one.snapshots > 0
                events.extend(one.events)
        return EntityEvents(events, begins_with_snapshot, tuple(ranges), rest.from_seq_nr if rest else 0)


def _policy_changed(stream_id: str) -> BackhaulError:
    return BackhaulError(
        "subscription.policy_changed",
        f"what may be seen of {stream_id[:80]!r} has changed",
        "nothing is to be done: the next connection is under the new policy",
        retry_after_s=1.0,
    )


def _begins_with_snapshots(asked: Subscribe, behind: int) -> bool:
    """Whether a consumer is so far behind that snapshots bring it on; never what was before its beginning."""
    is_far = 0 < asked.snapshots_if_behind < behind
    return is_far and asked.place.live.scan is None and not asked.place.begin


def _narrower(own: StreamLimits, theirs: StreamLimits) -> StreamLimits:
    return StreamLimits(
        min(own.window_bytes, theirs.window_bytes),
        min(own.batch_bytes, theirs.batch_bytes, own.window_bytes, theirs.window_bytes),
        min(own.batch_events, theirs.batch_events),
    )


def _refusal_of(verdict: PlaceVerdict, place: ResumePoint, history: History, floor: int) -> BackhaulError:
    position, reached, head = place.live.position, reached_by(place), history.head_position
    details = {"position": position, "reached": reached, "head": head, "floor": floor}
    match verdict:
        case PlaceVerdict.TRIMMED:
            return BackhaulError(
                "subscription.trimmed",
                f"events after position {position} have been deleted, up to {floor}",
                "set on_trimmed = snapshots to go on with snapshots in their place",
                kind=ErrorKind.CONFLICT,
                details=details,
            )
        case PlaceVerdict.OTHER_JOURNAL:
            return BackhaulError(
                "subscription.other_journal",
                "the place is one in another journal than the one that is served here now",
                "look whether the address is right and what became of the source's storage; "
                "on_diverged = restart begins anew",
                kind=ErrorKind.CONFLICT,
                details=details,
            )
        case PlaceVerdict.BEYOND_HEAD:
            return BackhaulError(
                "subscription.beyond_head",
                f"the consumer knows of events up to position {reached}, the log ends at {head}",
                "the source was restored from a backup, or the place is made up; on_diverged = restart begins anew",
                kind=ErrorKind.CONFLICT,
                details=details,
            )
        case _:
            return BackhaulError(
                "subscription.diverged",
                f"the source's history is another one below position {reached}",
                "the source has lost what this consumer has seen; on_diverged = restart begins anew",
                kind=ErrorKind.CONFLICT,
                details=details,
            )
