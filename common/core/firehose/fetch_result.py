"""What one cursor takes from the log in one step, ready for the wire and for local code.

A stretch answers for every position after ``after`` up to ``through``: the events among them that the cursor selects,
and what is stated in place of those that can no longer come. The rest is withheld without a word, so a stretch may
hold no event and still move its cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange

Encode = Callable[[EventBatch], bytes]
"""Columns to bytes that may be concatenated with others of their kind."""


class FetchResult:
    """Positions ``after`` < p <= ``through`` as one cursor sees them. Read-only; cursors share it where they can.

    ``ranges`` hold before the first event of the stretch: an entity whose numbers jump inside one begins another. The
    first ``snapshots`` events are not of this stretch of the log: each stands for all numbers of its entity up to its
    own. ``reached`` is the highest position of what snapshots and ranges stand for, where that may be beyond ``through``:
    a page's deletions are all stated with its first stretch. ``leaving`` are positions of events with which their entity
    leaves the selection. ``timestamp_us`` and ``digest`` tell the event at ``through``; 0 and '' when it is not known
    there. ``unstated_to`` is above ``through`` when deleted events of this stretch are stated only with later ones, up to
    there at the latest. ``weight`` is the bytes that count against a step's bound. ``encoded`` and ``events`` are made when
    first asked for, once for all who share the stretch.
    """

    def __init__(
        self,
        after: int,
        through: int,
        head: int,
        *,
        n: int = 0,
        encoded: Callable[[], bytes] = bytes,
        events: Callable[[], EventBatch] = EventBatch,
        snapshots: int = 0,
        leaving: tuple[int, ...] = (),
        ranges: tuple[StatedRange, ...] = (),
        timestamp_us: int = 0,
        digest: str = "",
        from_ring: bool = False,
        reached: int = 0,
        unstated_to: int = 0,
        weight: int = 0,
    ) -> None:
        self.after = after
        self.through = through
        self.head = head
        self.n = n
        self.snapshots = snapshots
        self.leaving = leaving
        self.ranges = ranges
        self.timestamp_us = timestamp_us
        self.digest = digest
        self.from_ring = from_ring
        self.reached = reached
        self.unstated_to = unstated_to
        self.weight = weight
        self._encoded = encoded
        self._events = events
        self._shared: bytes | None = None

    @cached_property
    def encoded(self) -> bytes:
        """The selected events as the bytes of one batch message."""
        return self._encoded()

    @cached_property
    def events(self) -> EventBatch:
        """The selected events in columns."""
        return self._events()

    def shared(self, make: Callable[[FetchResult], bytes]) -> bytes:
        """What ``make``, always the same function, makes of it; made once for all who share the stretch."""
        if self._shared is None:
            self._shared = make(self)
        return self._shared

    @property
    def is_empty(self) -> bool:
        """Whether it only moves the cursor."""
        return self.n == 0 and not self.ranges

    def __repr__(self) -> str:
        return f"Stretch({self.after}..{self.through} of {self.head}, n={self.n})"
