"""Cursors in a journal that somebody serves: what a session needs to know of the firehose.

Both are siblings that do not know each other; a composition root hands ``Feeds`` to whoever serves a consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from common.core.filters.predicates import EntityPredicate
from common.core.firehose.demotion import SubscriberTier
from common.core.firehose.fetch_result import FetchResult

__all__ = ["Feed", "Feeds", "SubscriberTier"]


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

    It is told the time, takes by ``next_nowait``, must not wait nor raise, and answers whether it is to be called again for
    what is left; if not, it has seen to it that the task gets on (cancelled its wait), unless nothing is left.
    """

    def change(self, predicate: EntityPredicate) -> None:
        """Select by ``predicate`` from the present position on."""


class Feeds(Protocol):
    """Who serves cursors: a ``firehose.Firehose``. A feed ends with its ``with`` block."""

    def subscribe(
        self, name: str, predicate: EntityPredicate, entity_types: frozenset[str], after: int
    ) -> AbstractContextManager[Feed]:
        """A cursor that follows the log: from memory near its head, from the journal behind. No types: all of them."""

    def scan(
        self,
        name: str,
        predicate: EntityPredicate,
        entity_types: frozenset[str],
        after: int,
        through: Callable[[], int],
    ) -> AbstractContextManager[Feed]:
        """A cursor that reads the journal up to ``through()``, wherever that is when it is asked, and no further."""
