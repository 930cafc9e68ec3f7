"""The past lane of one push stream: what comes before the events with which entities come into what is pushed.

What of an entity is owed is decided by ``core.push.past``, and what it is made of by ``core.subscription.replay``. Used by
the sending task alone, between two pages of the lane that is served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.journal.append import PushLane
from common.core.push.filter_transition import Entry
from common.core.push.messages import PastKnown, PastQuestion, PushBatch
from common.core.push.past import QUESTION_MAX, UNWANTED, KnownEntities, PastBatch, owed_past, weight_of
from common.core.push.producer import Producer
from common.core.subscription.replay import QueuedReplay, ReplayPart
from common.fail_points import fail_point
from common.journal.entity_history import history_reader
from common.journal.entity_pages import entity_page
from common.journal.stores.journal import Journal
from common.transport.codec import push as codec
from common.transport.stream import PeerGone

_log = structlog.get_logger()

_ANYWHERE = 2**62


class PastLane:
    """Asks how far entities are known, and sends what is missing before they come in. Times in seconds."""

    def __init__(
        self,
        journal: Journal,
        producer: Producer,
        known: KnownEntities,
        heard: trio.lowlevel.ParkingLot,
        send: Callable[[bytes], Awaitable[None]],
        send_batch: Callable[[PushBatch, bytes], Awaitable[None]],
        *,
        batch_max_events: int,
        answer_timeout_s: float,
        on_push: Callable[[EventBatch], Transformed] | None,
    ) -> None:
        self._journal = journal
        self._producer = producer
        self._noted = known
        self._heard = heard
        self._send = send
        self._send_batch = send_batch
        self._batch_max_events = batch_max_events
        self._answer_timeout_s = answer_timeout_s
        self._on_push = on_push
        self._asked = 0
        """Entities in the question that waits for its answer; 0 when none does."""
        self._known: tuple[int, ...] = ()

    async def bring(self, entries: Sequence[Entry], page: PushBatch) -> int | None:
        """Send what comes before the entries of a page and the cloud lacks, and wait for room for the page.

        Answers the position up to which the page may go now: it ends before an entity that comes in behind events of its
        own that the live lane has not passed. None when something else is to be done first: then it is not to be sent.
        """
        events, batch, noted = 0, PastBatch(), list[tuple[str, int]]()
        passed = page.after_position if page.lane is PushLane.LIVE else _ANYWHERE
        through = page.through_position
        for entry, known in zip(entries, await self._known_of(entries), strict=True):
            rest = owed_past(entry, known)
            if rest is None:
                continue
            covered, is_begun = rest.covered, False
            while rest is not None and through == page.through_position:
                room = await self._room()
                if not room:
                    return None
                parts, rest = await self._read(rest, entry, room)
                for part in parts:
                    # Of what is deleted the place may not be known; before the entering event it is.
                    if max((min(part.reached, entry.position - 1), *part.events.position)) > passed:
                        through = entry.position - 1
                        break
                    if batch and not self._fits(batch, part, room):
                        if not await self._send_past(batch):
                            return None
                        batch = PastBatch()
                    if not is_begun:
                        batch.begin(entry, known)
                        is_begun = True
                    covered = batch.add(part, covered)
                    events += len(part.events)
            if through < page.through_position:
                noted.append((entry.persistence_id, covered if is_begun else known))
                break
        if batch and not await self._send_past(batch):
            return None
        self._noted.note(noted)
        if events:
            _log.debug("push.past_sent", entities=len(entries), events=events)
        return through if await self._room() else None

    async def _read(
        self, replay: QueuedReplay, entry: Entry, room: int
    ) -> tuple[list[ReplayPart], QueuedReplay | None]:
        """The entering event follows in the page, so no snapshot may stand for it."""
        lanes, last = self._producer.lanes, entry.seq_nr - 1
        return await entity_page(
            history_reader(self._journal),
            replay,
            lanes.predicate,
            lanes.past,
            _ANYWHERE,
            self._batch_max_events,
            room,
            last,
            snapshots_to=last,
            as_events=True,
        )

    def hear(self, answer: PastKnown) -> None:
        """The answer to the question that waits for it. Raises ``link.protocol``."""
        numbers = answer.seq_nrs
        if not self._asked or len(numbers) != self._asked or min(numbers) < UNWANTED:
            raise BackhaulError(
                "link.protocol",
                f"{len(numbers)} numbers came in answer to a question about {self._asked} entities",
                "this is a fault of the peer: report it",
            )
        self._asked, self._known = 0, numbers

    def _fits(self, batch: PastBatch, part: ReplayPart, room: int) -> bool:
        size, count = batch.size + weight_of(part), len(batch.events) + len(part.events)
        return size <= room and count <= self._batch_max_events

    async def _room(self) -> int:
        """How large the next batch may be, once there is room for one; 0 when no more is to be sent in this lane now."""
        producer = self._producer
        while not (room := producer.room_bytes()):
            if producer.draining or producer.lanes.is_change_wanted:
                return 0
            await self._heard.park()
        return room

    async def _send_past(self, past: PastBatch) -> bool:
        producer = self._producer
        if not await self._room():
            return False
        events, ranges = past.events, tuple(past.ranges)
        if self._on_push is not None and events:
            transformed = self._on_push(events)
            events, ranges = transformed.events, (*ranges, *transformed.ranges)
        count, generation_id = producer.past_sent, self._journal.log.history.generation_id
        batch = PushBatch(count, count + 1, generation_id, events, ranges, PushLane.PAST)
        message = codec.encode_from_edge(batch)
        if len(message) > producer.message_bytes and past.may_be_cut:
            # Tags, metadata and ranges can outweigh the payloads by which it was filled.
            first, second = past.halves()
            return await self._send_past(first) and await self._send_past(second)
        await self._send_batch(batch, message)
        fail_point("push.in_past")
        return True

    async def _known_of(self, entries: Sequence[Entry]) -> list[int]:
        """Up to which number the cloud knows these entities; of those that left on this stream it need not be asked."""
        known = [self._noted.number_of(entry.persistence_id) for entry in entries]
        unknown = [index for index, number in enumerate(known) if number is None]
        for at in range(0, len(unknown), QUESTION_MAX):
            asked = unknown[at : at + QUESTION_MAX]
            answer = await self._ask([entries[index].persistence_id for index in asked])
            for index, number in zip(asked, answer, strict=True):
                known[index] = number
        return [number or 0 for number in known]

    async def _ask(self, persistence_ids: Sequence[str]) -> tuple[int, ...]:
        self._asked = len(persistence_ids)
        await self._send(codec.encode_from_edge(PastQuestion(tuple(persistence_ids))))
        with trio.move_on_after(self._answer_timeout_s) as deadline:
            while self._asked:
                await self._heard.park()
        if deadline.cancelled_caught:
            raise PeerGone(
                "link.stalled", "the cloud did not say what it knows", "look at the cloud's log; dialling again"
            )
        return self._known
