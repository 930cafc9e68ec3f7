"""Cursors in a journal that the firehose serves: what sessions of consumers and ranges of projections need of it.

They are siblings of the firehose and do not import it: a composition root hands them ``Feeds`` and ``RangeFeeds``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from common.core.events.ids import SliceRange
from common.core.filters.predicates import EntityPredicate
from common.core.filters.selection import Selection
from common.core.firehose.demotion import SubscriberTier
from common.core.firehose.fetch_result import FetchResult
from common.journal.entity_history import EntityHistory, HistoryRequest
from common.journal.stores.log import LogPage

__all__ = ["Feed", "Feeds", "RangeFeed", "RangeFeeds", "SubscriberTier"]


class Feed(Protocol):
    """One cursor. ``next`` is called by one task at a time; cancelled, it has handed over nothing."""

    @property
    def position(self) -> int:
        """Everything up to here was handed over."""

    @property
    def lag(self) -> int:
        """Positions between here and the head, as far as it is known here."""

    @property
    def standing(self) -> SubscriberTier:
        """Where it is served from now."""

    async def next(self, *, max_events: int, max_bytes: int, at_most_s: float) -> FetchResult | None:
        """The next stretch with something in it, or after ``at_most_s`` what was withheld meanwhile, or None.

        At least one event when there is one, whatever ``max_bytes``. Raises ``firehose.log_changed`` when the log is
        no longer the one this cursor was opened on, and what the journal raises when it must not be used any more.
        """

    def next_nowait(self, *, max_events: int, max_bytes: int, now_s: float) -> FetchResult | None:
        """The same, when it is in memory now: events, or None."""

    serve: Callable[[float], bool] | None
    """With it, what is in memory is not for ``next`` to return: this is called instead, while a task waits there.

    It gets the time, takes by ``next_nowait``, must not wait nor raise, and answers whether it is to be called again for
    what is left; if not, it has seen to it that the task gets on (cancelled its wait), unless nothing is left.
    """

    def change(self, predicate: EntityPredicate) -> None:
        """Select by ``predicate`` from the present position on."""


class Feeds(Protocol):
    """Who serves cursors: a ``firehose.Firehose``. A feed ends with its ``with`` block."""

    def subscribe(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        after: int,
        *,
        states_past: bool = True,
    ) -> AbstractContextManager[Feed]:
        """A cursor that follows the log: from memory near its head, from the journal behind. No types: all of them.

        With ``states_past`` the numbers before an event with which an entity enters are stated as withheld; else nothing is
        said, and the follower sees a gap.
        """

    def scan(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        after: int,
        through: Callable[[], int],
        *,
        states_past: bool = True,
    ) -> AbstractContextManager[Feed]:
        """A cursor that reads the journal up to ``through()``, wherever that is when it is asked, and no further."""

    async def history(self, asked: HistoryRequest, position: int) -> EntityHistory:
        """What the journal has of one entity, of the events up to ``position`` at least.

        Read for others a moment ago, perhaps: the same object, which is not to be changed.
        """

    async def read_ahead(self, asked: Sequence[HistoryRequest], position: int, *, soon: int) -> None:
        """Have histories of different entities read together if one of the first ``soon`` was not yet.

        ``history`` has those that are short at once then, most likely.
        """

    async def turn(self) -> None:
        """Wait for a turn to do much at a time, beside following the log: one consumer after the other."""


class RangeFeed(Protocol):
    """The log as one range of a projection reads it. One task uses it at a time; cancelled, nothing is handed over."""

    async def read(self, after: int, *, max_events: int, max_bytes: int, selection: Selection) -> LogPage:
        """As ``Journal.read`` for the range's slices, but that events outside of ``selection`` may be among them.

        The page may end before its bounds where the log does not: ``through`` says where. ``head`` is never what was only
        heard of. Raises what the journal raises.
        """

    async def wait_beyond(self, position: int, at_most_s: float) -> None:
        """Return when the log is known to have events of the range beyond ``position``, or after ``at_most_s`` seconds."""


class RangeFeeds(Protocol):
    """Who reads the log for a node's ranges: a ``firehose.Firehose``. Reading costs the same for any number of them."""

    def expect(self, is_expected: bool) -> None:
        """Ranges near the head are to come, or no more: the log is followed beforehand, so that they go on at once."""

    def follow(self, slices: SliceRange) -> AbstractContextManager[RangeFeed]:
        """A feed of the log as its history is now known here; opened after the range's lease was taken.

        Nothing that was read under another history is ever given: its positions name other events.
        """
