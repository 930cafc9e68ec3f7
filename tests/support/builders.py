"""Builders with defaults: requests and peers a test can write in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice

from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.ages import AGE_LEASE, JournalAge
from common.core.journal.append import Appended, AppendOutcome, LocalAppend, Pushed, PushedAppend
from common.core.journal.history import Generation, History, Offset, ResumeDecision
from common.journal.stores.journal import Journal

START_US = 1_700_000_000_000_000
FAR_US = 2**60  # later than anything is stored


class SettableClock:
    """``now_us`` of a test: stands still, and goes wherever the test sets it."""

    def __init__(self, us: int = START_US) -> None:
        self.us = us

    def __call__(self) -> int:
        return self.us

    def advance(self, seconds: float) -> None:
        """Set it ``seconds`` on, or back when negative."""
        self.us += round(seconds * 1_000_000)


def ids(prefix: str = "id") -> Iterator[str]:
    """Ids that are unique and the same in every run."""
    return (f"{prefix}-{number}" for number in count(1))


def events(
    *persistence_ids: str, payload: bytes = b"{}", event_type: str = "happened", tags: Sequence[str] = ("",)
) -> EventBatch:
    """New events, one for each id; payloads differ so that a mix-up shows. ``tags`` (joined) are used in turn."""
    n = len(persistence_ids)
    payloads = [payload + b"%d" % index for index in range(n)]
    return new_events(list(persistence_ids), [event_type] * n, payloads, tags=[*islice(cycle(tags), n)])


def local(
    *persistence_ids: str,
    expected: Mapping[str, int] | None = None,
    append_id: str = "",
    payload: bytes = b"{}",
    event_type: str = "happened",
    tags: Sequence[str] = ("",),
) -> LocalAppend:
    """A local append of one event for each id."""
    batch = events(*persistence_ids, payload=payload, event_type=event_type, tags=tags)
    digest = hashlib.sha256(repr(batch).encode()).digest() if append_id else b""
    return LocalAppend(batch, expected or {}, append_id, digest)


def history(*generations: tuple[str, int], head: int = 0, journal_id: str = "journal-1") -> History:
    """A peer's history: (generation id, first position) …"""
    return History(journal_id, tuple(Generation(*pair) for pair in generations), head)


Row = tuple[str, int] | tuple[str, int, int]
"""Persistence id, number at the origin and, when it is not one less, the previous number."""


@dataclass
class Origin:
    """An edge as the journal that receives it sees it: its session, where it is and what it pushes next."""

    origin_id: str = "edge-1"
    journal_id: str = "journal-1"
    instance: str = "process-1"
    session: int = 0
    branch: int = 0
    position: int = 0
    generation: str = "g1"

    async def dial(self, journal: Journal, *generations: tuple[str, int], head: int = 1_000_000) -> ResumeDecision:
        """Say Hello; go on from where the answer says."""
        peer = history(*(generations or ((self.generation, 1),)), head=head, journal_id=self.journal_id)
        decision = await journal.origins.open_session(self.origin_id, self.instance, peer)
        self.session, self.branch = decision.state.session, decision.state.branch
        self.position, self.generation = decision.state.stored.position, peer.generation_id
        return decision

    def batch(
        self,
        *rows: Row,
        ranges: Sequence[StatedRange] = (),
        poison: Mapping[int, str] | None = None,
        parked_max: int = 10_000,
        withheld: int = 0,
        payload: bytes = b"{}",
        tags: Sequence[str] = ("",),
    ) -> PushedAppend:
        """The next stretch of this origin's log: ``rows``, then ``withheld`` positions without an event."""
        n = len(rows)
        batch = events(*(row[0] for row in rows), payload=payload, tags=tags)
        batch.position = list(range(self.position + 1, self.position + 1 + n))
        batch.timestamp_us = [START_US + position for position in batch.position]
        batch.stored_us = list(batch.timestamp_us)
        batch.seq_nr = [row[1] for row in rows]
        batch.prev_seq_nr = [row[2] if len(row) == 3 else row[1] - 1 for row in rows]
        through = Offset(
            self.journal_id,
            self.generation,
            self.position + n + withheld,
            batch.timestamp_us[-1] if rows else 0,
            batch.persistence_id[-1] if rows else "",
            batch.seq_nr[-1] if rows else 0,
        )
        return PushedAppend(
            self.origin_id,
            self.session,
            self.branch,
            self.position,
            through,
            batch,
            tuple(ranges),
            poison or {},
            parked_max,
        )

    async def push(self, journal: Journal, *rows: Row, **more: object) -> Pushed:
        """Push the next stretch, which must not be refused as a whole."""
        outcome = await append(journal, self.batch(*rows, **more))  # type: ignore[arg-type]
        assert isinstance(outcome, Pushed), outcome
        self.position = outcome.position
        return outcome


async def append(journal: Journal, request: LocalAppend | PushedAppend) -> AppendOutcome:
    """A group of one."""
    [outcome] = await journal.log.append_group([request])
    return outcome


async def appended(journal: Journal, request: LocalAppend) -> Appended:
    """A group of one that must be stored."""
    outcome = await append(journal, request)
    assert isinstance(outcome, Appended), outcome
    return outcome


async def pass_age(journal: Journal, seconds: float) -> JournalAge:
    """So much running time passes on the journal, as a service's keeper of ages would count it."""
    lease = await journal.leases.acquire(AGE_LEASE, "keeper", 60)
    assert lease is not None
    head = (await journal.log.stats()).head_position
    await journal.ages.advance(lease, 0, head, 60)
    return await journal.ages.advance(lease, round(seconds * 1e6), head, 60)


async def whole_log(
    journal: Journal, *, selection: Selection = EVERYTHING, page: int = 1_000, through: int | None = None
) -> EventBatch:
    """Every event that is stored and wanted, in pages of so many events."""
    log, position = EventBatch(), 0
    while True:
        found = await journal.log.read(
            position, through=through, max_events=page, max_bytes=100_000_000, selection=selection
        )
        assert len(found.events) <= page
        assert found.through > position or found.through in (found.head, through)
        log.extend(found.events)
        position = found.through
        if position >= (found.head if through is None else min(through, found.head)):
            return log


def seq_nrs(batch: EventBatch) -> list[tuple[str, int]]:
    """Who and which number, in order: what most tests compare."""
    return list(zip(batch.persistence_id, batch.seq_nr, strict=True))


async def head_of(journal: Journal, persistence_id: str) -> EntityHead:
    """The head of an entity that exists."""
    head = await journal.log.entity_head(persistence_id)
    assert head is not None
    return head


async def stated(journal: Journal, persistence_id: str) -> list[StatedRange]:
    """What is stated of an entity."""
    return [kept.stated for kept in await journal.origins.stored_ranges(persistence_id)]
