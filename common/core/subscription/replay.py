"""What is sent of one entity when a consumer asks for it again, or asks about it once.

Each event follows the one before: what is deleted is replaced by a snapshot or stated as trimmed, what may not be seen is
stated as withheld. With an event that enters comes its past (``core.filters.past``); what a filter does not select
behind the last selected event is not sent, and not stated either: a later event may enter and bring it.

A replay is read in pages. Where an entity is not selected for longer than a page, the event that enters shows only later
that the pages before it are its past: then the replay goes back to the last number that was sent, and knows up to where
everything is to be brought.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.core.events.batch import EventBatch, predecessor_tags
from common.core.events.leaving import marked
from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.filters.permission import match_batch, may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.journal.snapshot import Snapshot, reached_by_snapshots, snapshot_batch

WITHHELD = "withheld"
TRIMMED = "trimmed"
BEFORE_START = "before_start"


@dataclass(frozen=True, slots=True)
class QueuedReplay:
    """A replay that is not over: numbers from ``from_seq_nr`` on are still to be read; up to ``covered`` all is settled.

    Up to ``brings_through``, the number of an event that enters, everything is its past.
    """

    persistence_id: str
    from_seq_nr: int
    covered: int
    brings_through: int = 0


@dataclass(frozen=True, slots=True)
class ReplayPart:
    """One message of a replay: ``ranges`` hold before its first event; the first ``snapshots`` events are snapshots.

    ``reached`` is the highest position of what snapshots and ranges stand for, where that is not an event's of the part.
    """

    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()
    leaving: tuple[int, ...] = ()
    snapshots: int = 0
    reached: int = 0


@dataclass(frozen=True, slots=True)
class EntityPage:
    """What a journal has of one entity from a number on.

    ``events`` are consecutive; ``first_stored`` is the first number from there on that is not deleted, ``is_last`` whether
    nothing follows them that is to be replayed. ``last_tags`` are those of the last deleted event and
    ``deleted_position`` its place; ``tag_sets`` are the tags of the events that the snapshot folds, None where not known.
    """

    events: EventBatch
    first_stored: int
    is_last: bool
    last_tags: str = ""
    deleted_position: int = 0
    snapshot: Snapshot | None = None
    tag_sets: frozenset[str] | None = None


def replay_page(
    replay: QueuedReplay, page: EntityPage, wanted: EntityPredicate, past: Past
) -> tuple[list[ReplayPart], QueuedReplay | None]:
    """The messages that a page makes for a consumer of ``wanted``, and the rest of the replay (None = that was all).

    Of an entity of which nothing is selected nothing is said.
    """
    events, matched = page.events, match_batch(wanted, page.events)
    writer = _PageWriter(replay, page, wanted, past, frozenset(matched.leaving), frozenset(matched.marks))
    for index in matched.indexes:
        seq_nr = events.seq_nr[index]
        if seq_nr <= writer.covered:
            continue  # a snapshot stands for it
        if writer.covered < seq_nr - 1:
            writer.bring_past(seq_nr)
            if writer.must_go_back(seq_nr):
                back = QueuedReplay(replay.persistence_id, writer.covered + 1, writer.covered, seq_nr)
                return writer.parts(), back
        if seq_nr > writer.covered:
            writer.add(index)
    last_read = events.seq_nr[-1] if events else 0
    if replay.brings_through > max(writer.covered, last_read):
        writer.bring_past(replay.brings_through)
    writer.end()
    following = max(last_read, writer.covered) + 1
    rest = None if page.is_last else replace(replay, from_seq_nr=following, covered=writer.covered)
    return writer.parts(), rest


@dataclass(slots=True)
class _Run:
    """One message in the making: indexes into the page, and the range that holds before them."""

    indexes: list[int]
    ranges: tuple[StatedRange, ...] = ()


@dataclass(slots=True)
class _PageWriter:
    """The messages of a page while they are put together; up to ``covered`` every number is sent or stated."""

    replay: QueuedReplay
    page: EntityPage
    wanted: EntityPredicate
    past: Past
    leaving: frozenset[int]
    marks: frozenset[int]
    covered: int = field(init=False)
    _made: list[ReplayPart | _Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.covered = self.replay.covered

    @property
    def _gone_to(self) -> int:
        """The last deleted number in front of the page, 0 if none is."""
        return self.page.first_stored - 1 if self.replay.from_seq_nr < self.page.first_stored else 0

    def add(self, index: int) -> None:
        """The event at ``index`` follows; numbers between are stated if it follows a withheld one, else there is a gap."""
        name, seq_nr, made = self.replay.persistence_id, self.page.events.seq_nr[index], self._made
        is_next = seq_nr == self.covered + 1
        if is_next and made and isinstance(made[-1], _Run):
            made[-1].indexes.append(index)
        else:
            states = not is_next and self._follows_withheld(index)
            made.append(_Run([index], (StatedRange(name, 1, seq_nr - 1, WITHHELD),) if states else ()))
        self.covered = seq_nr

    def _follows_withheld(self, index: int) -> bool:
        events = self.page.events
        name, before = events.persistence_id[index], predecessor_tags(events.tags[index], events.prev_tags[index])
        return not (self.wanted.matches if self.past is Past.NONE else self.wanted.permits)(name, before)

    def bring_past(self, seq_nr: int) -> None:
        """What comes before the selected event ``seq_nr``, as far as this page has it.

        A snapshot at or above it may stand for it only if it is selected itself.
        """
        if self.covered < self._gone_to:
            self._replace_gone(seq_nr)
        if self.past is Past.NONE:
            return
        snapshot = self.page.snapshot
        if self.past is Past.SNAPSHOT and snapshot is not None and self._may_stand(snapshot, self.covered + 1, seq_nr):
            self._take(snapshot)
        if self.must_go_back(seq_nr):
            return
        events = self.page.events
        for index, number in enumerate(events.seq_nr):
            if self.covered < number < seq_nr and self.wanted.permits(events.persistence_id[index], events.tags[index]):
                self.add(index)

    def must_go_back(self, seq_nr: int) -> bool:
        """Whether pages before this one turn out to be the past of the selected event ``seq_nr``."""
        if self.past is Past.NONE or seq_nr <= self.replay.brings_through:
            return False
        return self.covered + 1 < self.replay.from_seq_nr

    def end(self) -> None:
        """The page is over: what is deleted is told although nothing of it follows, if it may be named."""
        snapshot = self.page.snapshot
        if self._made or self.covered >= self._gone_to:
            return
        tags = {self.page.last_tags, snapshot.tags if snapshot else self.page.last_tags}
        if any(self.wanted.matches(self.replay.persistence_id, one) for one in tags):
            self._replace_gone(0)

    def _replace_gone(self, seq_nr: int) -> None:
        """The deleted numbers, before the selected event ``seq_nr`` (0 = none follows)."""
        name, gone_to, snapshot = self.replay.persistence_id, self._gone_to, self.page.snapshot
        before = seq_nr if self.past is not Past.NONE else 0
        if snapshot is not None and self._may_stand(snapshot, max(self.covered + 1, gone_to), before):
            self._take(snapshot)
            return
        trimmed = StatedRange(name, 1, gone_to, TRIMMED)
        self._made.append(ReplayPart(EventBatch(), (trimmed,), reached=self.page.deleted_position))
        self.covered = gone_to

    def _may_stand(self, snapshot: Snapshot, from_seq_nr: int, before: int) -> bool:
        """Whether a snapshot from that number on may be sent: it is below the selected event, or selected itself."""
        if snapshot.seq_nr < from_seq_nr:
            return False
        name = self.replay.persistence_id
        is_shown = snapshot.seq_nr < before or self.wanted.matches(name, snapshot.tags)
        return is_shown and may_see_folded(self.wanted, name, self.page.tag_sets)

    def _take(self, snapshot: Snapshot) -> None:
        batch = snapshot_batch([snapshot])
        self._made.append(ReplayPart(batch, snapshots=1, reached=reached_by_snapshots([snapshot])))
        self.covered = snapshot.seq_nr

    def parts(self) -> list[ReplayPart]:
        """What was put together."""
        return [made if isinstance(made, ReplayPart) else self._part(made) for made in self._made]

    def _part(self, run: _Run) -> ReplayPart:
        events, indexes = self.page.events, run.indexes
        gone = tuple(events.position[index] for index in indexes if index in self.leaving)
        is_all = len(indexes) == len(events) and not self.marks
        some = events if is_all else events.select(indexes)
        shown = marked(some, [at for at, index in enumerate(indexes) if index in self.marks])
        return ReplayPart(shown, run.ranges, gone)
