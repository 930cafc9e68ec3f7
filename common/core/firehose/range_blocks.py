"""Blocks of the log for ranges of slices that are behind the ring: each is read once and taken by every range it concerns.

All ranges of a node read the same log, each a part of it, so a block is read whole and kept until every range has come to
the end. Blocks end at fixed places, so ranges that are near each other meet. What is kept is bounded: the rearmost blocks
go first, so a range that is slower than the others reads for itself, and holds up nobody. Two blocks are read ahead of
the foremost range, as far as the ring does not read there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.firehose.catch_up import ReadPlan
from common.core.firehose.ring import LogStretch

_AHEAD_BLOCKS = 2
# A block of few types covers so many blocks' worth of positions.
_SPARSE_BLOCKS = 8


@dataclass(eq=False, slots=True)
class RangeCursor:
    """One range's place in the log. ``generation`` is the history that its lease was taken in: it takes no other's blocks."""

    slices: SliceRange
    generation: str
    position: int = 0
    selection: Selection = EVERYTHING
    in_hand: LogStretch | None = None
    head: int | None = None
    """The log's last position, when the answer was that nothing follows."""
    error: BackhaulError | None = None

    def is_served_by(self, block: LogStretch) -> bool:
        """Whether the block holds what follows this place."""
        return block.after <= self.position < block.through and block.is_of(self.generation)


@dataclass(slots=True)
class RangeBlocks:
    """What to read next, and the blocks that some range has still to take; pure. One block is read at a time."""

    block_events: int
    block_bytes: int
    max_bytes: int
    head: int = 0
    """The highest position known from a read."""
    reads: int = 0
    events: int = 0
    bytes: int = 0
    ring_after: int | None = None
    """After which position the ring has the log and follows it: that is not read here unless a range asks for it."""
    _cursors: dict[RangeCursor, None] = field(default_factory=dict)
    _waiting: dict[RangeCursor, None] = field(default_factory=dict)
    _kept: dict[Selection, list[LogStretch]] = field(default_factory=dict)
    _ahead: tuple[Selection, int] | None = None

    @property
    def cursors(self) -> Iterable[RangeCursor]:
        """The ranges that read here."""
        return self._cursors

    @property
    def waiting(self) -> int:
        """Ranges that wait for a block."""
        return len(self._waiting)

    def add(self, cursor: RangeCursor) -> None:
        """The range reads here from now on."""
        self._cursors[cursor] = None

    def remove(self, cursor: RangeCursor) -> None:
        """It does no longer."""
        self.withdraw(cursor)
        del self._cursors[cursor]
        self._drop_passed()

    def move(self, cursor: RangeCursor, position: int, selection: Selection) -> None:
        """The range goes on from ``position``; when all have caught up nothing is kept."""
        cursor.position, cursor.selection = position, selection
        if cursor.in_hand is not None and not cursor.is_served_by(cursor.in_hand):
            cursor.in_hand = None
        if self._kept:
            self._drop_passed()

    def find(self, cursor: RangeCursor) -> LogStretch | None:
        """A block that holds what follows the cursor, if there is one. A block of everything serves every selection."""
        if cursor.in_hand is not None and cursor.is_served_by(cursor.in_hand):
            return cursor.in_hand
        for selection in {cursor.selection: None, EVERYTHING: None}:
            for block in self._kept.get(selection, ()):
                if cursor.is_served_by(block):
                    cursor.in_hand = block
                    return block
        return None

    def at(self, position: int, generation: str) -> LogStretch | None:
        """A block of everything that holds what follows ``position``."""
        for block in self._kept.get(EVERYTHING, ()):
            if block.after <= position < block.through and block.is_of(generation):
                return block
        return None

    def give(self, block: LogStretch, head: int) -> None:
        """What was read of the log for the ring: ranges that are behind the foremost find it here and need not read it."""
        self.head = max(self.head, head)
        if block.through > block.after and self._has_others():
            self._keep(EVERYTHING, block)

    def ask(self, cursor: RangeCursor) -> None:
        """Have what follows the cursor read."""
        cursor.head = cursor.error = None
        self._waiting[cursor] = None

    def is_asked(self, cursor: RangeCursor) -> bool:
        """Whether the cursor has no answer yet."""
        return cursor in self._waiting

    def withdraw(self, cursor: RangeCursor) -> None:
        """The range does not wait any more."""
        self._waiting.pop(cursor, None)

    @property
    def may_have_work(self) -> bool:
        """Whether ``begin`` is to be asked: a range waits, or a block was to be read ahead."""
        return bool(self._waiting) or self._ahead is not None

    def begin(self) -> ReadPlan | None:
        """What to read now: for the range that has waited longest, else ahead of the foremost; None when nothing is to do."""
        for cursor in self._waiting:
            return self._plan(cursor.selection, cursor.position)
        if self._ahead is None:
            return None
        selection, after = self._ahead
        if self.ring_after is not None and after >= self.ring_after:
            self._ahead = None
            return None
        foremost = max((cursor.position for cursor in self._cursors if cursor.selection == selection), default=-1)
        kept = self._kept.get(selection, ())
        if foremost < 0 or sum(block.after >= foremost for block in kept) >= _AHEAD_BLOCKS:
            return None
        self._ahead = None
        return None if any(block.after <= after < block.through for block in kept) else self._plan(selection, after)

    def answered(self, plan: ReadPlan, block: LogStretch, head: int) -> list[RangeCursor]:
        """What was read for a plan; returns the ranges it answers. An empty block beyond the head says the log ends there."""
        self.reads += 1
        self.events += len(block.events)
        self.head = max(self.head, head)
        answered = []
        for cursor in list(self._waiting):
            if cursor.is_served_by(block) and plan.selection in (cursor.selection, EVERYTHING):
                cursor.in_hand = block
            elif cursor.position == plan.after and block.through <= plan.after:
                cursor.head = head
            else:
                continue
            del self._waiting[cursor]
            answered.append(cursor)
        if block.through > plan.after:
            self._keep(plan.selection, block)
        self._ahead = (plan.selection, block.through) if plan.after < block.through < head else None
        return answered

    def failed(self, plan: ReadPlan, error: BackhaulError) -> list[RangeCursor]:
        """The plan could not be read; returns the ranges that waited for it."""
        self._ahead = None
        through = plan.after + 1 if plan.through is None else plan.through
        failed = [
            cursor
            for cursor in self._waiting
            if cursor.selection == plan.selection and plan.after <= cursor.position < through
        ]
        for cursor in failed:
            del self._waiting[cursor]
            cursor.error = error
        return failed

    def forget(self) -> None:
        """The log is another one: nothing that was read of it holds."""
        self._kept.clear()
        self._waiting.clear()
        self.bytes = self.head = 0
        self._ahead = None
        for cursor in self._cursors:
            cursor.in_hand = None

    def _plan(self, selection: Selection, after: int) -> ReadPlan:
        positions = self.block_events if selection.is_all else _SPARSE_BLOCKS * self.block_events
        through = (after // positions + 1) * positions
        if self.ring_after is not None and after < self.ring_after:
            through = min(through, self.ring_after)
        return ReadPlan(selection, after, through, self.block_events, self.block_bytes)

    def _keep(self, selection: Selection, block: LogStretch) -> None:
        """One range alone leaves nothing here but what is read ahead of it."""
        if not self._has_others() and all(cursor.in_hand is block for cursor in self._cursors):
            return
        kept = self._kept.setdefault(selection, [])
        kept.append(block)
        kept.sort(key=lambda one: one.after)
        self.bytes += block.events_bytes
        while self.bytes > self.max_bytes:
            self._drop_rearmost()

    def _drop_rearmost(self) -> None:
        selection = min(self._kept, key=lambda one: self._kept[one][0].after)
        self._drop(selection, 1)

    def _has_others(self) -> bool:
        """Whether ranges catch up together: then those that begin a little later find what the first ones have passed."""
        return len(self._cursors) > 1 and any(cursor.position < self.head for cursor in self._cursors)

    def _drop_passed(self) -> None:
        if self._has_others():
            return
        lowest: dict[Selection, int] = {}
        for cursor in self._cursors:
            lowest[cursor.selection] = min(cursor.position, lowest.get(cursor.selection, cursor.position))
        for selection, kept in list(self._kept.items()):
            if selection not in lowest:
                self._drop(selection, len(kept))
                continue
            passed = 0
            while passed < len(kept) and kept[passed].through <= lowest[selection]:
                passed += 1
            self._drop(selection, passed)

    def _drop(self, selection: Selection, n: int) -> None:
        kept = self._kept[selection]
        self.bytes -= sum(block.events_bytes for block in kept[:n])
        del kept[:n]
        if not kept:
            del self._kept[selection]
