"""What a source reads beside the log for one consumer: snapshots by the page, and entities to send again."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

from common.core.events.batch import EventBatch
from common.core.events.ids import entity_type_of
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.journal.snapshot import folded_by, reached_by_snapshots, snapshot_batch
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.replay import BEFORE_START, WITHHELD, QueuedReplay, ReplayPart
from common.core.subscription.source import Serving
from common.fail_points import fail_point, is_aimed_at
from common.journal.entity_history import EntityHistory, HistoryRequest
from common.journal.entity_pages import entity_page, page_request
from common.journal.feeds import Feeds
from common.journal.stores.journal import Journal
from common.transport.codec.events import encode_batch
from common.transport.subscription.catalogue import StreamDefinition
from common.transport.subscription.sender import Sender

# What leaves in one write: pages of so many replays, up to about so many bytes.
_TOGETHER = 16
_TOGETHER_BYTES = 16_384
_AHEAD = 32


@dataclass(slots=True)
class _HistoryReader:
    """Reads histories up to ``position`` for one consumer, and has the bytes of the last one, perhaps made for another."""

    feeds: Feeds
    position: int
    _last: EntityHistory = field(default_factory=lambda: EntityHistory(EventBatch()))

    async def read(self, asked: HistoryRequest) -> EntityHistory:
        self._last = await self.feeds.history(asked, self.position)
        return self._last

    def encode(self, events: EventBatch) -> bytes:
        return self._last.encoded(events, encode_batch)


async def send_snapshot_page(
    lane: DeliveryLane,
    predicate: EntityPredicate,
    wanted: EntityPredicate,
    serving: Serving,
    sender: Sender,
    journal: Journal,
    feeds: Feeds,
    served: StreamDefinition,
    past: Past,
) -> bool:
    """Send the lane's next snapshots; when there are none left put it where the log is to be read from. False: no scan.

    Of an entity whose snapshot folds what is forbidden the events that are ``wanted`` go, up to there.
    """
    cursor = serving.place.backfill if lane is DeliveryLane.BACKFILL else serving.place.live
    if cursor is None or cursor.scan is None:
        return False
    page = await journal.snapshots.page(
        cursor.scan.after,
        max_rows=serving.limits.batch_events,
        max_bytes=await sender.room(),
        entity_types=served.entity_types,
    )
    chosen = [one for one in page if predicate.matches(one.persistence_id, one.tags)]
    withheld: list[str] = []
    unseen: set[str] = set()
    if predicate.permits_by_tags:
        sets = await journal.log.tag_sets([one.persistence_id for one in page])
        withheld = [
            one.persistence_id
            for one in page
            if not may_see_folded(predicate, one.persistence_id, folded_by(one, sets.get(one.persistence_id)))
        ]
        unseen = {name for name in withheld if not _may_select(wanted, name, sets.get(name))}
        chosen = [one for one in chosen if one.persistence_id not in withheld]
    through, scan = cursor.position, None
    if page:
        scan = replace(cursor.scan, after=page[-1].persistence_id)
    else:
        # A snapshot that was deleted meanwhile may have covered what none covers now.
        low = await journal.snapshots.uncovered_after(cursor.scan.low, entity_types=served.entity_types)
        through = max(min(low, cursor.scan.low), cursor.position)
    for name in withheld:
        if name not in unseen:
            await _send_instead(name, cursor.scan.low, wanted, serving, sender, feeds, past)
    async with sender.send_lock:
        await sender.send_snapshots(lane, snapshot_batch(chosen), through, scan, reached_by_snapshots(chosen))
        fail_point("serving.in_snapshots")
    return True


def _may_select(wanted: EntityPredicate, name: str, tag_sets: frozenset[str] | None) -> bool:
    return tag_sets is None or any(wanted.matches(name, tags) for tags in tag_sets)


async def _send_instead(
    name: str,
    through: int,
    wanted: EntityPredicate,
    serving: Serving,
    sender: Sender,
    feeds: Feeds,
    past: Past,
) -> None:
    """Send the events that may be seen of an entity whose snapshot may not, up to where the log is to be read from."""
    rest: QueuedReplay | None = QueuedReplay(name, 1, 0)
    reader = _HistoryReader(feeds, through)
    while rest is not None:
        batch_bytes = min(await sender.room(), serving.limits.batch_bytes)
        parts, rest = await entity_page(
            reader.read, rest, wanted, past, through, serving.limits.batch_events, batch_bytes
        )
        async with sender.send_lock:
            position = serving.place.live.position
            messages = [_replayed(name, position, part) for part in parts]
            await sender.deliver_together(sender.replayed(messages, reader.encode))


def _replayed(name: str, position: int, part: ReplayPart) -> Deliver:
    return Deliver(
        DeliveryLane.REPLAY,
        0,
        position,
        events=part.events,
        ranges=part.ranges,
        leaving=part.leaving,
        snapshots=part.snapshots,
        replay_of=name,
        reached=part.reached,
    )


async def read_ahead(
    wanted: EntityPredicate, serving: Serving, feeds: Feeds, served: StreamDefinition, past: Past
) -> frozenset[str]:
    """Have the histories of the next replays read together, before the turn that sends them: live goes on meanwhile.

    Answers of whom one turn may send: those that are asked for later would be read there, one by one. Where a consumer began
    in the middle of the log each entity's first number is still to be found, so nothing is read ahead.
    """
    replays = serving.next_replays(_AHEAD)
    if not serving.place.begin:
        asked = []
        for replay in replays:
            name = replay.persistence_id
            if not served.entity_types or entity_type_of(name) in served.entity_types:
                queued = _from_start(replay, wanted.from_seq_nr(name))
                asked.append(page_request(queued, wanted, past, serving.limits.batch_events))
        await feeds.read_ahead(asked, serving.place.live.position, soon=_TOGETHER)
    return frozenset(replay.persistence_id for replay in replays[:_TOGETHER])


def _from_start(replay: QueuedReplay, start: int) -> QueuedReplay:
    """Numbers below ``start`` are stated, and not sent."""
    if replay.covered + 1 >= start:
        return replay
    return QueuedReplay(replay.persistence_id, start, start - 1)


async def send_replay_pages(
    wanted: EntityPredicate,
    serving: Serving,
    sender: Sender,
    journal: Journal,
    feeds: Feeds,
    served: StreamDefinition,
    past: Past,
    ready: Container[str],
) -> int:
    """Send a page each of the next replays, in the turn; short ones that are ``ready`` leave together. How many have ended.

    Live cannot pass meanwhile, so what is read up to its place is the end of each.
    """
    together: list[tuple[Deliver, bytes]] = []
    ended = size = pages = 0
    while (replay := serving.next_replay) is not None and size < _TOGETHER_BYTES and pages < _TOGETHER:
        if pages and replay.persistence_id not in ready:
            break
        messages, rest = await _replay_page(replay, wanted, serving, sender, journal, feeds, served, past)
        if is_aimed_at("serving.in_replay"):
            await sender.deliver_together(messages)
            messages = []
            fail_point("serving.in_replay")
        if rest is not None:  # a long one has a turn for each page, so that the live lane and a change may come between
            together += messages
            serving.replay_goes_on(rest)
            break
        serving.replay_ends()
        together += _ended(replay.persistence_id, serving.place.live.position, messages)
        ended += 1
        pages += 1
        size += sum(len(encoded) for _, encoded in messages)
    await sender.deliver_together(together)
    return ended


def _ended(name: str, position: int, messages: list[tuple[Deliver, bytes]]) -> list[tuple[Deliver, bytes]]:
    """A replay's last message says that it is the last; where nothing is left to send one says that alone."""
    if not messages:
        return [(Deliver(DeliveryLane.REPLAY, 0, position, replay_of=name, replay_done=True), b"")]
    last, encoded = messages[-1]
    return [*messages[:-1], (replace(last, replay_done=True), encoded)]


async def _replay_page(
    replay: QueuedReplay,
    wanted: EntityPredicate,
    serving: Serving,
    sender: Sender,
    journal: Journal,
    feeds: Feeds,
    served: StreamDefinition,
    past: Past,
) -> tuple[list[tuple[Deliver, bytes]], QueuedReplay | None]:
    """The messages of a page of one entity up to live's place, each with its events' bytes, and the rest of the replay.

    Numbers below the one from which the filter wants the entity, and those before the consumer's beginning, are stated.
    """
    name, start = replay.persistence_id, wanted.from_seq_nr(replay.persistence_id)
    position = serving.place.live.position
    is_served = not served.entity_types or entity_type_of(name) in served.entity_types
    parts: list[ReplayPart] = []
    states_start = serving.is_start(replay) and start > 1
    if replay.covered + 1 < start:
        replay, states_start = _from_start(replay, start), True
    if states_start:
        parts.append(ReplayPart(EventBatch(), (StatedRange(name, 1, start - 1, WITHHELD),)))
    if is_served and serving.place.begin:
        first = await first_after(journal, name, replay.from_seq_nr, serving.place.begin)
        if first > replay.from_seq_nr:
            replay = QueuedReplay(name, first, first - 1)
            parts.append(ReplayPart(EventBatch(), (StatedRange(name, 1, first - 1, BEFORE_START),)))
    rest: QueuedReplay | None = None
    reader = _HistoryReader(feeds, position)
    if is_served:
        limits = serving.limits
        found, rest = await entity_page(
            reader.read, replay, wanted, past, position, limits.batch_events, limits.batch_bytes
        )
        parts += found
    return sender.replayed([_replayed(name, position, part) for part in parts], reader.encode), rest


async def first_after(journal: Journal, name: str, from_seq_nr: int, position: int) -> int:
    """The first of an entity's numbers from ``from_seq_nr`` on whose event is behind ``position``; found by halving.

    Behind the entity's last number when none is. What was deleted last behind ``position`` counts as behind it.
    """
    head = await journal.log.entity_head(name)
    if head is None:
        return from_seq_nr
    low, high = from_seq_nr, head.seq_nr + 1
    if low <= head.deleted_to:
        if head.deleted_position > position:
            return low
        low = head.deleted_to + 1
    middle = low  # most replays begin behind it
    while low < high:
        [at] = (await journal.log.read_entity(name, middle, middle, max_events=1)).position or [0]
        low, high = (low, middle) if at > position else (middle + 1, high)
        middle = (low + high) // 2
    return low
