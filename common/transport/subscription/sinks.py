"""Where what a subscription brings takes effect: an inbox for local programs, this service's own journal, or a handler.

A sink says what is to be stored; the consumer stores it together with its place, in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

from common.core.events import rules as event_rules
from common.core.events.batch import EventBatch
from common.core.events.deleted import with_deleted
from common.core.events.replacing import as_pushed
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import GONE_REASONS
from common.core.journal.append import PushedAppend
from common.core.journal.history import Offset
from common.core.journal.statement import Statement
from common.core.subscription.place import ResumePoint

_BRANCH = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """What of one or more deliveries takes effect.

    ``leaving`` and ``replaces`` are indexes into ``events``: an entity's last event in the filter, and snapshots.
    ``passed`` are numbers that were led over. ``place`` is where the consumer is after all of it.
    """

    events: EventBatch
    leaving: frozenset[int]
    replaces: frozenset[int]
    passed: tuple[StatedRange, ...]
    place: ResumePoint

    @property
    def deleted(self) -> list[StatedRange]:
        """Those of ``passed`` that the source had deleted."""
        return [stated for stated in self.passed if stated.reason in GONE_REASONS]


@dataclass(frozen=True, slots=True)
class Effect:
    """The parts of a ``ReceivedCommit`` that are a sink's."""

    inbox: EventBatch | None = None
    leaving: frozenset[int] = frozenset()
    replaces: frozenset[int] = frozenset()
    append: PushedAppend | None = None
    statements: Sequence[Statement] = field(default=())


class Sink(Protocol):
    """Says what is to be stored of what was taken in."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Entered for each stream, around all of ``prepare``. Raises what the sink cannot begin with."""

    @property
    def takes_restarts(self) -> bool:
        """Whether entities may begin again here: else what is known stays."""

    async def prepare(self, taken: Taken) -> Effect: ...


class InboxSink:
    """Events wait in the inbox for a local program, with a mark for what the source had deleted."""

    takes_restarts = True

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def prepare(self, taken: Taken) -> Effect:
        events, moved = with_deleted(taken.events, taken.deleted)
        return Effect(
            events or None,
            frozenset(moved[index] for index in taken.leaving),
            frozenset(moved[index] for index in taken.replaces),
        )


class JournalSink:
    """Events go into this service's own journal, owned by the subscription: nobody else writes those entities.

    A snapshot becomes an event of its entity that says that it is one, in the place of those before it. What tags these had is
    not known here, so no wall by tags of this journal's own streams lets it through. What is stored is not stored again.
    """

    takes_restarts = False

    def __init__(self, subscription: str, *, event_max_bytes: int, parked_max: int) -> None:
        self._origin_id = f"subscription:{subscription}"
        self._event_max_bytes = event_max_bytes
        self._parked_max = parked_max

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def prepare(self, taken: Taken) -> Effect:
        events, place = taken.events, taken.place
        if not events and not taken.passed:
            return Effect()
        found = event_rules.problems(events, self._event_max_bytes, may_leave=True)
        poison = {index: code for index, (code, _) in found.items()}
        events = as_pushed(events, dict.fromkeys(taken.replaces, True))
        for index in taken.replaces:
            events.prev_seq_nr[index] = events.seq_nr[index] - 1
        through = Offset(place.journal_id, place.generation_id, place.live.position)
        append = PushedAppend(self._origin_id, 1, _BRANCH, 0, through, events, taken.passed, poison, self._parked_max)
        return Effect(append=append)


def merged(parts: Sequence[Taken]) -> Taken:
    """Several in one, in their order."""
    if len(parts) == 1:
        return parts[0]
    events, leaving, replaces = EventBatch(), set[int](), set[int]()
    passed: list[StatedRange] = []
    for part in parts:
        leaving.update(len(events) + index for index in part.leaving)
        replaces.update(len(events) + index for index in part.replaces)
        passed += part.passed
        events.extend(part.events)
    return replace(
        parts[-1], events=events, leaving=frozenset(leaving), replaces=frozenset(replaces), passed=tuple(passed)
    )
