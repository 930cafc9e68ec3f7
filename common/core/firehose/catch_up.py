"""Who reads the journal when: pages for cursors behind the ring, one at a time for each, first come first served.

Cursors that no index helps read the same blocks of the log, so one page serves all whose place is in it: those who wait
for it, and those who come while it is still on the shelf. Pages get smaller the more cursors wait, so what all of them
have in hand together stays bounded. A cursor asks again only when it has taken what it was given; one that is not read
from asks for nothing and holds nobody up. While nobody waits, the block behind the one last asked for is read too, and
put on the shelf: who catches up alone then waits for the journal as little as may be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.core.errors import BackhaulError
from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import entity_type_of
from common.core.events.stated_range import StatedRange
from common.core.filters.permission import may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.filters.selection import EVERYTHING, Selection
from common.core.firehose.fetch_builder import Stated
from common.core.firehose.fetch_result import Encode
from common.core.firehose.ring import LogStretch

# Below this a page is not worth a look at the journal.
PAGE_LEAST_BYTES = 65_536
# Selections by type that are remembered to be most of the log.
_READ_WHOLE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeletedEntity:
    """An entity of which events were removed within a page: what is gone, and what is left to judge and to tell.

    ``tags`` are those of its last removed event, as far as they can be known. ``snapshot`` is one event, or none;
    ``reached`` the highest position of what it stands for, ``tag_sets`` the tags of the events that it folds, if known.
    """

    gone: StatedRange
    tags: str
    snapshot: EventBatch
    reached: int = 0
    tag_sets: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page of the journal with what was deleted in it; ``head`` is the log's at that time.

    ``unstated_to`` is the highest deleted position when that is beyond the page, and the page may lack events of entities
    whose last deleted event lies there: their ranges come with the page that reaches it. 0 = nothing is missing so.
    """

    page: LogStretch
    deleted: Sequence[DeletedEntity]
    head: int
    unstated_to: int = 0


@dataclass(eq=False, slots=True)
class CatchUpRequest:
    """One cursor's wish for a page that begins at or before ``after``; ``bound`` is where it must end at the latest."""

    selection: Selection
    is_narrow: bool
    after: int
    bound: int | None
    max_events: int
    max_bytes: int
    wake: Callable[[], object]
    """To be called when there is an answer."""
    found: FoundPage | None = None
    error: BackhaulError | None = None
    is_unwanted: bool = False
    is_of_another_log: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether there is an answer."""
        return self.found is not None or self.error is not None

    def is_answered_by(self, selection: Selection, page: LogStretch) -> bool:
        """Whether this page is what it wants."""
        if self.selection != selection or not page.after <= self.after < page.through:
            return False
        return self.bound is None or page.through <= self.bound


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What to read for a request: positions after ``after``, up to ``through`` if that is not None.

    ``selection`` may be wider than the request's, which then still has to choose.
    """

    selection: Selection
    after: int
    through: int | None
    max_events: int
    max_bytes: int


@dataclass(slots=True)
class Counts:
    """How often the journal was read for cursors behind, what it gave, and how many pages served another one too."""

    reads: int = 0
    events: int = 0
    shared: int = 0


class CatchUps:
    """The queue of requests and the shelf of shared pages; pure. Each request is asked, begun and answered once."""

    def __init__(self, *, in_hand_max_bytes: int, shelf_max_bytes: int, block_events: int) -> None:
        self._in_hand_max_bytes = in_hand_max_bytes
        self._shelf_max_bytes = shelf_max_bytes
        self._block_events = block_events
        self._waiting: dict[CatchUpRequest, None] = {}
        self._running: dict[CatchUpRequest, None] = {}
        self._shelf: OrderedDict[tuple[Selection, int], FoundPage] = OrderedDict()
        self._shelf_bytes = 0
        self._last_asked: CatchUpRequest | None = None
        self._head = 0
        self._event_bytes = EVENT_OVERHEAD_BYTES
        self._read_whole: set[Selection] = set()
        self.counts = Counts()

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._waiting) + len(self._running)

    @property
    def shelf_bytes(self) -> int:
        """Bytes of the pages on the shelf."""
        return self._shelf_bytes

    def ask(self, request: CatchUpRequest) -> bool:
        """Take a request in; True when it is answered from the shelf at once."""
        if not request.is_narrow:
            self._last_asked = request if request.bound is None else None
            found = self._on_shelf(request)
            if found is not None:
                request.found = found
                self.counts.shared += 1
                return True
        self._waiting[request] = None
        return False

    def withdraw(self, request: CatchUpRequest) -> None:
        """Nobody waits for the answer any more."""
        request.is_unwanted = True
        self._waiting.pop(request, None)

    def begin(self) -> tuple[CatchUpRequest, ReadPlan] | None:
        """The next to be read for, and what to read; None when nobody waits, or only for what is being read.

        Then it may be a wish of nobody's, for what will be wanted next.
        """
        for request in self._waiting:
            if not any(self._is_near(request, running) for running in self._running):
                del self._waiting[request]
                self._running[request] = None
                return request, self._look(request)
        return self._begin_ahead()

    def _begin_ahead(self) -> tuple[CatchUpRequest, ReadPlan] | None:
        # What an entity lost is stated with the page that had the last of it: a page that was read before the one in front
        # of it could not tell what retention took between the two.
        last = self._last_asked
        if last is None or not last.is_settled:
            return None
        self._last_asked = None
        after = (last.after // self._block_events + 1) * self._block_events
        if last.is_unwanted or last.found is None or last.found.page.through < after:
            return None
        if after >= self._head or (last.selection, after // self._block_events) in self._shelf:
            return None
        ahead = replace(last, after=after, wake=_nobody, found=None, error=None, is_unwanted=True)
        if any(self._is_near(ahead, running) for running in self._running):
            return None
        self._running[ahead] = None
        return ahead, self._look(ahead)

    def put_back(self, request: CatchUpRequest) -> None:
        """It could not be read now: it is first again."""
        del self._running[request]
        if not request.is_unwanted:
            self._waiting = {request: None, **self._waiting}

    def failed(self, request: CatchUpRequest, error: BackhaulError) -> None:
        """It cannot be read at all."""
        del self._running[request]
        request.error = error

    def answered(self, request: CatchUpRequest, found: FoundPage) -> list[CatchUpRequest]:
        """What was read for it; returns the requests it answers, this one first."""
        del self._running[request]
        self.counts.reads += 1
        self.counts.events += len(found.page.events)
        request.found = found
        if request.is_of_another_log:
            return [request]
        self._head = found.head
        if found.page.events:
            self._event_bytes = found.page.events_bytes // len(found.page.events)
        self._judge_types(request, found.page)
        answered = [request]
        for other in [other for other in self._waiting if other.is_answered_by(request.selection, found.page)]:
            del self._waiting[other]
            other.found = found
            answered.append(other)
        self.counts.shared += len(answered) - 1
        if not request.is_narrow:
            self._put_on_shelf(request.selection, found)
        return answered

    def forget_pages(self) -> None:
        """The log is another one: what is on the shelf, or still being read, is not of it."""
        for request in self._running:
            request.is_of_another_log = True
        self._shelf.clear()
        self._shelf_bytes = 0
        self._last_asked, self._head = None, 0
        self._read_whole.clear()

    def _judge_types(self, request: CatchUpRequest, page: LogStretch) -> None:
        """Types that are most of the log are found by reading it whole, which is quicker an event than asking for them."""
        if request.is_narrow or not request.selection.entity_types:
            return
        if 2 * len(page.events) < page.through - page.after:
            self._read_whole.discard(request.selection)
        elif len(self._read_whole) < _READ_WHOLE_MAX:
            self._read_whole.add(request.selection)

    def _look(self, request: CatchUpRequest) -> ReadPlan:
        selection = EVERYTHING if request.selection in self._read_whole else request.selection
        share = self._in_hand_max_bytes // max(1, self.waiting)
        max_bytes = max(min(request.max_bytes, share), min(request.max_bytes, PAGE_LEAST_BYTES))
        if request.is_narrow:
            # What an index finds beyond the bytes is read in vain, and again with the next page.
            fitting = max_bytes // self._event_bytes + 1
            return ReadPlan(selection, request.after, request.bound, min(request.max_events, fitting), max_bytes)
        # Blocks end at the same places for all, so that those who are near each other meet.
        block_end = (request.after // self._block_events + 1) * self._block_events
        through = block_end if request.bound is None else min(block_end, request.bound)
        return ReadPlan(selection, request.after, through, self._block_events, max_bytes)

    def _is_near(self, request: CatchUpRequest, running: CatchUpRequest) -> bool:
        """Whether what is being read will probably answer it too."""
        if running.is_of_another_log or request.selection != running.selection or request.after < running.after:
            return False
        if request.is_narrow:
            return request.after == running.after and request.bound == running.bound
        block = self._block_events
        return request.after // block == running.after // block and request.bound == running.bound

    def _on_shelf(self, request: CatchUpRequest) -> FoundPage | None:
        block = request.after // self._block_events
        found = self._shelf.get((request.selection, block))
        if found is None or not request.is_answered_by(request.selection, found.page):
            return None
        self._shelf.move_to_end((request.selection, block))
        return found

    def _put_on_shelf(self, selection: Selection, found: FoundPage) -> None:
        key = (selection, found.page.after // self._block_events)
        before = self._shelf.pop(key, None)
        if before is not None:
            self._shelf_bytes -= before.page.weight
        self._shelf[key] = found
        self._shelf_bytes += found.page.weight
        while self._shelf_bytes > self._shelf_max_bytes:
            _, oldest = self._shelf.popitem(last=False)
            self._shelf_bytes -= oldest.page.weight


def _nobody() -> None:
    """Who waits for a page that is read ahead."""


def cap_to_stored(gone: Sequence[StatedRange], events: EventBatch) -> list[StatedRange]:
    """What is gone, but for numbers that were still there when the page was read: those are handed over."""
    entities = {stated.persistence_id for stated in gone}
    first: dict[str, int] = {}
    for entity, seq_nr in zip(events.persistence_id, events.seq_nr, strict=True):
        if entity in entities:
            first.setdefault(entity, seq_nr)
    capped: list[StatedRange] = []
    for stated in gone:
        to_seq_nr = min(stated.to_seq_nr, first.get(stated.persistence_id, stated.to_seq_nr + 1) - 1)
        if to_seq_nr >= stated.from_seq_nr:
            capped.append(StatedRange(stated.persistence_id, stated.from_seq_nr, to_seq_nr, stated.reason))
    return capped


def stated_for(
    predicate: EntityPredicate, entity_types: frozenset[str], deleted: Sequence[DeletedEntity], encode: Encode
) -> Stated:
    """What one cursor gets in place of what was deleted: only of entities it selects.

    A snapshot stands for everything up to its number; without one that reaches so far, is selected itself, and folds nothing
    that is forbidden, the numbers are stated: an entity may have left the filter before it was taken.
    """
    stated = Stated()
    for one in deleted:
        gone, snapshot = one.gone, one.snapshot
        if entity_types and entity_type_of(gone.persistence_id) not in entity_types:
            continue
        if not predicate.matches(gone.persistence_id, one.tags):
            continue
        reaches = snapshot and snapshot.seq_nr[0] >= gone.to_seq_nr
        is_wanted = reaches and predicate.matches(gone.persistence_id, snapshot.tags[0])
        if is_wanted and may_see_folded(predicate, gone.persistence_id, one.tag_sets):
            stated.snapshots.extend(snapshot)
            stated.reached = max(stated.reached, one.reached)
        else:
            stated.ranges.append(gone)
    if stated.snapshots:
        stated.encoded = encode(stated.snapshots)
    return stated
