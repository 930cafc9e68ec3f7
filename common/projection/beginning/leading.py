"""What a range is led over before it reads the log: the latest snapshots, and numbers that are deleted.

Snapshots are paged by persistence id, as for a consumer of a stream: all of them where the projection starts from snapshots, else
those of entities that have lost events. Then, in the order of their positions, what is deleted and has no snapshot. Each
takes effect as an event does, and once: a range that begins again passes over what its rows say (``covered``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.deleted import deleted_mark
from common.core.events.ids import entity_type_of, slice_of
from common.core.events.stated_range import StatedRange
from common.core.journal.snapshot import LeadOver, Snapshot, lead_over, snapshot_batch
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.projection.beginning import covered
from common.projection.beginning.covered import Covered
from common.projection.handlers import SNAPSHOTS, Handler

_PAGE_ROWS: Final = 1_000
_PAGE_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class LeadingPage:
    """Events that lead their entities on: those of ``replaced`` by a snapshot, the others by a deleted mark.

    It may hold none, so that the range has a moment to renew its lease.
    """

    events: EventBatch = field(default_factory=EventBatch)
    replaced: frozenset[str] = frozenset()


@dataclass(slots=True)
class Leading:
    """One range on its way to the log. ``snapshots``, ``marks`` and ``passed`` count what it was led over."""

    journal: Journal
    handler: Handler
    lease: ProjectionLease
    deleted_through: int
    takes_all: bool
    low: int
    """From there the log is read."""
    through: int = 0
    """Up to there it may have numbers that were led over."""
    snapshots: int = 0
    marks: int = 0
    passed: int = 0
    first_passed: StatedRange | None = None
    _waiting: deque[tuple[EventBatch, bool]] = field(default_factory=deque)
    _after_name: str | None = ""
    _after_position: int = -1

    async def next(self, max_events: int) -> LeadingPage | None:
        """The next events, at most so many; None when that was all.

        Raises:
            BackhaulError: ``projection.takes_no_snapshots``, ``projection.trimmed``, and what the journal raises.
        """
        if not self._waiting and not await self._read():
            return None
        events, replaced = EventBatch(), set[str]()
        while self._waiting and len(events) < max_events:
            event, is_snapshot = self._waiting.popleft()
            events.extend(event)
            if is_snapshot:
                replaced.update(event.persistence_id)
        return LeadingPage(events, frozenset(replaced))

    async def _read(self) -> bool:
        """Read one more page of the journal; False when there is none."""
        if self._after_name is not None and self.handler.snapshots:
            if await self._read_snapshots(self._after_name):
                return True
            self._after_name = None
        if self._after_position < 0:
            self._after_position = min([self.lease.position, *(one.position for one in self.lease.ahead)])
        rows = await self.journal.log.deleted_entities(self._after_position, self.deleted_through, max_rows=_PAGE_ROWS)
        if rows:
            await self._take_deleted(rows)
            self._after_position = rows[-1][1]
            return True
        if (
            self.low > self.lease.position
        ):  # a snapshot that was deleted meanwhile may have covered what none covers now
            types = self.handler.entity_types
            covered_to = await self.journal.snapshots.uncovered_after(self.low, entity_types=types)
            self.low = max(self.lease.position, min(self.low, covered_to))
        self.through = max((await self.journal.log.stats()).head_position, self.deleted_through)
        return False

    # -- snapshots ---------------------------------------------------------------------------------------------------
    async def _read_snapshots(self, after: str) -> bool:
        types = self.handler.entity_types
        if not after and self.takes_all:
            # Before the first page: what is covered now is covered by each snapshot that is read later.
            head = (await self.journal.log.stats()).head_position
            covered_to = await self.journal.snapshots.uncovered_after(head, entity_types=types)
            self.low = max(self.lease.position, covered_to)
        page = await self.journal.snapshots.page(after, max_rows=_PAGE_ROWS, max_bytes=_PAGE_BYTES, entity_types=types)
        if page:
            self._after_name = page[-1].persistence_id
            await self._take_snapshots(page)
        return bool(page)

    async def _take_snapshots(self, page: list[Snapshot]) -> None:
        page = [one for one in page if slice_of(one.persistence_id) in self.lease.slices]
        names = [one.persistence_id for one in page]
        deleted_to: Mapping[str, int] = {}
        if page and self.deleted_through:
            deleted_to = {
                stated.persistence_id: stated.to_seq_nr for stated, _ in await self.journal.log.deleted_of(names)
            }
        if not self.takes_all:
            page = [one for one in page if one.persistence_id in deleted_to]
        known = await self._covered.find(one.persistence_id for one in page)
        for one in page:
            name, gone_to = one.persistence_id, deleted_to.get(one.persistence_id, 0)
            if one.seq_nr < max(gone_to, known.get(name, 0) + 1):
                continue
            position = one.position or await self._deleted_position(name)
            if position > self._done_to(name):
                self._waiting.append((snapshot_batch([replace(one, position=position)]), True))
                self.snapshots += 1

    async def _deleted_position(self, name: str) -> int:
        """Where the event of a snapshot stood that was deleted before the snapshot was stored: it was the last deleted one."""
        head = await self.journal.log.entity_head(name)
        return head.deleted_position if head else 0

    # -- what is deleted -----------------------------------------------------------------------------------------------
    async def _take_deleted(self, rows: list[tuple[StatedRange, int]]) -> None:
        types, slices = self.handler.entity_types, self.lease.slices
        lost = [
            (stated, position)
            for stated, position in rows
            if slice_of(stated.persistence_id) in slices
            and (not types or entity_type_of(stated.persistence_id) in types)
            and position > self._done_to(stated.persistence_id)
        ]
        known = await self._covered.find(stated.persistence_id for stated, _ in lost)
        for stated, position in lost:
            if known.get(stated.persistence_id, 0) >= stated.to_seq_nr:
                continue
            match how_to_lead_over(self.handler, stated, 0):
                case LeadOver.MARK:
                    mark = deleted_mark(stated)
                    mark.position[0] = position
                    self._waiting.append((mark, False))
                    self.marks += 1
                case LeadOver.PASSED:
                    self.passed += 1
                    self.first_passed = self.first_passed or stated
                case _:
                    snapshot = await self.journal.snapshots.get(stated.persistence_id)
                    raise refused(self.handler, stated, snapshot.seq_nr if snapshot else 0)

    @property
    def _covered(self) -> Covered:
        return Covered(self.journal.projections, self.handler.name)

    def _done_to(self, name: str) -> int:
        """The position up to which the entity's slice has been read."""
        slice_ = slice_of(name)
        return max(self.lease.position, *(one.position for one in self.lease.ahead if slice_ in one.slices), 0)


async def leading_of(
    journal: Journal, handler: Handler, lease: ProjectionLease, head: int, deleted_through: int
) -> tuple[Leading | None, int]:
    """What is to be done before the range reads the log, if anything, and up to where the log may have covered numbers."""
    is_behind = deleted_through > lease.position
    starts = handler.start_from == SNAPSHOTS and not lease.position and head > 0
    if not (is_behind or handler.snapshots):
        return None, 0
    least, most = await covered.settled(journal.projections, handler.name, lease.slices)
    starts = starts and not least
    if not starts and deleted_through <= max(lease.position, least):
        # A wider range may have been led further than these slices were settled, and was split before its log.
        if await covered.any_of(journal.projections, handler.name, lease.slices):
            most = max(most, (await journal.log.stats()).head_position)
        return None, most
    return Leading(journal, handler, lease, deleted_through, starts, lease.position), most


def how_to_lead_over(handler: Handler, stated: StatedRange, snapshot_seq_nr: int) -> LeadOver:
    """``lead_over`` for a handler."""
    return lead_over(
        stated.to_seq_nr,
        snapshot_seq_nr,
        takes_snapshots=handler.snapshots,
        takes_marks=handler.sees_deleted,
        keeps_last=handler.statements is not None,
    )


async def first_refused(journal: Journal, handler: Handler, after: int, through: int) -> BackhaulError | None:
    """Why a projection that begins again behind ``after`` would stop, if it would."""
    after_position = after
    while rows := await journal.log.deleted_entities(after_position, through, max_rows=_PAGE_ROWS):
        for stated, _ in rows:
            if handler.entity_types and entity_type_of(stated.persistence_id) not in handler.entity_types:
                continue
            if how_to_lead_over(handler, stated, 0) is not LeadOver.REFUSED:
                return None  # nothing is refused to this handler
            snapshot = await journal.snapshots.get(stated.persistence_id)
            seq_nr = snapshot.seq_nr if snapshot else 0
            if how_to_lead_over(handler, stated, seq_nr) is LeadOver.REFUSED:
                return refused(handler, stated, seq_nr)
        after_position = rows[-1][1]
    return None


def refused(handler: Handler, stated: StatedRange, snapshot_seq_nr: int) -> BackhaulError:
    """The projection stops: its tables would be wrong without the numbers that are deleted."""
    name, last = stated.persistence_id, stated.to_seq_nr
    details: dict[str, str | int] = {"projection": handler.name, "persistence_id": name, "deleted_to": last}
    if snapshot_seq_nr >= last:
        return takes_no_snapshots(handler.name, name, snapshot_seq_nr, details)
    return BackhaulError(
        "projection.trimmed",
        f"projection {handler.name} needs {name} from its first event on, and 1 to {last} are deleted without a snapshot",
        "declare sees_deleted=True, move the projection to a later position, or accept it: projections reset --accept-trimmed",
        kind=ErrorKind.CONFLICT,
        details=details,
    )


def takes_no_snapshots(
    handler_name: str, persistence_id: str, seq_nr: int, details: Mapping[str, str | int] | None = None
) -> BackhaulError:
    """A snapshot stands for events that are there no more, and the handler does not take it for them."""
    return BackhaulError(
        "projection.takes_no_snapshots",
        f"a snapshot stands for {persistence_id} 1 to {seq_nr}, and the handler {handler_name} does not take snapshots",
        "have it handle Event.replaces and declare snapshots=True",
        kind=ErrorKind.CONFLICT,
        details=dict(details or {"persistence_id": persistence_id, "seq_nr": seq_nr}),
    )
