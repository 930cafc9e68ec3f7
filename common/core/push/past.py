"""The past of entities on the way up: what comes before the event with which one enters what is pushed.

What the past is says ``core.filters.past``, what it is made of ``core.subscription.replay``, the same rule as on the way
down. Before a page that brings entities in is sent, the edge asks the cloud up to which number it knows each of them, and
sends what lies between in the past lane; then the page follows. Nothing is kept for it: until the page is
acknowledged the entities have not entered, so a cut or a kill asks again and goes on at the number that is known by then.
The cloud passes over numbers that it knows, so what is sent twice is stored once. The live lane is judged strictly and may
come under another filter before it gets further, so a past brings only events that the live lane has passed: a page in
which an entity comes in behind other events of its own ends before it.

The live and backfill lanes state what comes before an entering event as withheld, as they do without a past: of what
was brought that says nothing, and of what may not be seen it is the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.core.events.batch import EventBatch
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.push.deletions import RANGE_BYTES
from common.core.push.filter_transition import Entry
from common.core.subscription.replay import WITHHELD, QueuedReplay, ReplayPart

UNWANTED = -1
"""Said of an entity in the place of a number: another owns it, or the edge may not write it; nothing is to be brought."""
QUESTION_MAX = 1_000
"""Entities in one question."""
OWED_MAX = 10_000
"""Entities whose past is held back from retention."""
_KNOWN_MAX = 4_096


def known_of(origin_id: str, owner: str | None, origin_seq_nr: int | None, parked_to: int | None) -> int:
    """What a receiver answers of an entity: the last number stored, stated or parked; ``owner`` is None if there is none."""
    if owner is not None and owner != origin_id:
        return UNWANTED
    return max(origin_seq_nr or 0, parked_to or 0)


def owed_past(entry: Entry, known: int) -> QueuedReplay | None:
    """What is to be replayed before an entry to a receiver that knows the entity up to ``known``; None when it is nothing."""
    first = max(known + 1, entry.start)
    if known == UNWANTED or first >= entry.seq_nr:
        return None
    return QueuedReplay(entry.persistence_id, first, first - 1, entry.seq_nr)


class OwedPasts:
    """Entities whose past an edge must keep: they come in with events that are not acknowledged yet; bounded.

    Its user looks through what is not acknowledged, from ``looked_through`` on, and adds what it finds.
    """

    def __init__(self) -> None:
        self._owed: dict[str, int] = {}
        self.looked_through = 0

    @property
    def persistence_ids(self) -> frozenset[str]:
        """The entities."""
        return frozenset(self._owed)

    @property
    def is_full(self) -> bool:
        """Whether no more can be remembered: then nothing at all is to be deleted."""
        return len(self._owed) >= OWED_MAX

    def acknowledged(self, position: int) -> None:
        """All up to here has come in."""
        self._owed = {name: at for name, at in self._owed.items() if at > position}
        self.looked_through = max(self.looked_through, position)

    def add(self, entries: Sequence[Entry], through: int) -> None:
        """These come in with events up to ``through``."""
        self._owed.update((entry.persistence_id, through) for entry in entries)
        self.looked_through = through

    def restart(self, position: int) -> None:
        """Another filter decides who comes in, or less is acknowledged than was: look again from ``position`` on."""
        self._owed.clear()
        self.looked_through = position


class KnownEntities:
    """Up to which number the cloud knows entities, as far as one stream has heard it or sent it; bounded.

    Those that left what is sent are noted with the number that took them out: when they come back it need not ask.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def note(self, numbers: Iterable[tuple[str, int]]) -> None:
        """So much is known over there, or was handed to the line."""
        for persistence_id, seq_nr in numbers:
            self._known.pop(persistence_id, None)
            self._known[persistence_id] = seq_nr
        while len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def forget(self, persistence_ids: Iterable[str]) -> None:
        """Events of these were parked: what becomes of them is an operator's decision, and nobody tells this stream."""
        for persistence_id in persistence_ids:
            self._known.pop(persistence_id, None)

    def number_of(self, persistence_id: str) -> int | None:
        """The number that was noted last."""
        return self._known.get(persistence_id)


@dataclass(slots=True)
class PastBatch:
    """One message of the past lane in the making: events and ranges of several entities, each in the order of its numbers."""

    events: EventBatch = field(default_factory=EventBatch)
    ranges: list[StatedRange] = field(default_factory=list)
    size: int = 0
    """Bytes that events and ranges count for."""

    def __bool__(self) -> bool:
        return bool(self.events or self.ranges)

    @property
    def may_be_cut(self) -> bool:
        """Whether two messages could say the same."""
        return len(self.events) > 1 or len({*self.events.persistence_id, *_names(self.ranges)}) > 1

    def begin(self, entry: Entry, known: int) -> None:
        """State what is not wanted of an entity."""
        if known + 1 < entry.start:
            self._state(StatedRange(entry.persistence_id, known + 1, entry.start - 1, WITHHELD))

    def add(self, part: ReplayPart, covered: int) -> int:
        """Take in a part of one entity, of which all is sent or stated up to ``covered``; answers up to where it is now.

        The ranges of a replay count from 1, also over events before them in the same message: here they begin behind those.
        """
        for stated in part.ranges:
            if stated.to_seq_nr > covered:
                self._state(stated._replace(from_seq_nr=covered + 1))
                covered = stated.to_seq_nr
        events = part.events
        for persistence_id, seq_nr in zip(events.persistence_id[: part.snapshots], events.seq_nr, strict=False):
            if covered + 1 < seq_nr:
                self._state(StatedRange(persistence_id, covered + 1, seq_nr - 1, REPLACED))
            covered = seq_nr
        self.events.extend(events)
        self.size += events.byte_size()
        return max(covered, events.seq_nr[-1]) if events else covered

    def _state(self, stated: StatedRange) -> None:
        self.ranges.append(stated)
        self.size += _weight(stated)

    def halves(self) -> tuple[PastBatch, PastBatch]:
        """The same as two messages, the first before the second; a range goes before the first event that is above it."""
        if len(self.events) < 2:
            return self._halves_of_entities()
        middle = len(self.events) // 2
        first, second = self.events.slice(0, middle), self.events.slice(middle, len(self.events))
        last = dict(zip(first.persistence_id, first.seq_nr, strict=True))
        later = set(second.persistence_id)
        early, late = list[StatedRange](), list[StatedRange]()
        for stated in self.ranges:
            is_late = stated.persistence_id in later and stated.to_seq_nr > last.get(stated.persistence_id, 0)
            (late if is_late else early).append(stated)
        return _batch_of(first, early), _batch_of(second, late)

    def _halves_of_entities(self) -> tuple[PastBatch, PastBatch]:
        """Some entities whole, then the others."""
        names = list(dict.fromkeys([*_names(self.ranges), *self.events.persistence_id]))
        early = set(names[: len(names) // 2])
        is_early = [name in early for name in self.events.persistence_id]
        first = self.events.select([index for index, one in enumerate(is_early) if one])
        second = self.events.select([index for index, one in enumerate(is_early) if not one])
        return (
            _batch_of(first, [stated for stated in self.ranges if stated.persistence_id in early]),
            _batch_of(second, [stated for stated in self.ranges if stated.persistence_id not in early]),
        )


def _batch_of(events: EventBatch, ranges: list[StatedRange]) -> PastBatch:
    return PastBatch(events, ranges, events.byte_size() + sum(map(_weight, ranges)))


def _names(ranges: Iterable[StatedRange]) -> Iterable[str]:
    return (stated.persistence_id for stated in ranges)


def weight_of(part: ReplayPart) -> int:
    """Bytes that a part counts for in a message; before each of its snapshots a range is stated."""
    events = part.events
    replaced = sum(len(name.encode()) + RANGE_BYTES for name in events.persistence_id[: part.snapshots])
    return events.byte_size() + replaced + sum(map(_weight, part.ranges))


def _weight(stated: StatedRange) -> int:
    return len(stated.persistence_id.encode()) + RANGE_BYTES
