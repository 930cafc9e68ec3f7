"""What the journals hold in the end, read with the product's own interface after every service has stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from common.core.events.batch import EventBatch, split_tags
from common.core.events.ids import entity_type_of
from common.core.events.leaving import is_mark
from common.core.journal.url import parse_journal_url
from common.journal.stores.journal import Journal
from common.projection.tally import Tally, all_tallies, fold_all
from common.runtime.environment import Environment
from examples.demo.orders.orders import ORDER_TYPE, STREAM
from examples.demo.orders.proof import Delivered, Published, content_of
from examples.demo.proof import Stored
from examples.demo.series import Reading, reading_of
from examples.demo.wall import WALLED_TYPE, WalledEvent

_PAGE_EVENTS: Final = 2_000
_PAGE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CloudStore:
    """The cloud's journal in log order, its `tally` table, and a fold of the journal that the table must equal.

    ``events`` came from edges, ``orders`` are the cloud's own; ``walled`` came from edges through a wall, and are in neither.
    """

    events: list[Stored]
    walled: list[WalledEvent]
    orders: list[Published]
    folded: Mapping[str, Tally]
    tally: Mapping[str, Tally]
    parked: int


@dataclass(frozen=True, slots=True)
class EdgeStore:
    """An edge's own log, in its order, and what its inbox holds."""

    events: list[Stored]
    walled: list[WalledEvent]
    inbox: list[Delivered]


async def read_edge(environment: Environment, path: str) -> EdgeStore:
    """An edge's file."""
    async with environment.open_journal(parse_journal_url(path), max_bytes=None, notified=False) as journal:
        pages = await _pages(journal)
        events = [event for page in pages for event in _stored(page) if entity_type_of(event.entity) != WALLED_TYPE]
        return EdgeStore(events, _walled(pages), await _inbox(journal))


async def read_cloud(environment: Environment, url: str) -> CloudStore:
    """The cloud's journal and what was projected from it."""
    async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
        pages = await _pages(journal)
        return CloudStore(
            events=[
                event
                for page in pages
                for event in _stored(page)
                if entity_type_of(event.entity) not in (ORDER_TYPE, WALLED_TYPE)
            ],
            walled=_walled(pages),
            orders=[event for page in pages for event in _published(page)],
            folded=_not_walled(fold_all(pages)),
            tally=_not_walled(await all_tallies(journal.projections)),
            parked=(await journal.log.stats()).parked,
        )


async def _pages(journal: Journal) -> list[EventBatch]:
    pages: list[EventBatch] = []
    after = 0
    while True:
        page = await journal.log.read(after, max_events=_PAGE_EVENTS, max_bytes=_PAGE_BYTES)
        if page.through <= after:
            return pages
        pages.append(page.events)
        after = page.through


async def _inbox(journal: Journal) -> list[Delivered]:
    found: list[Delivered] = []
    after = 0
    while rows := await journal.subscriptions.inbox(STREAM, after, max_rows=_PAGE_EVENTS, max_bytes=_PAGE_BYTES):
        for row in rows:
            event = row.event
            content = content_of(event.payload)
            found.append(Delivered(event.persistence_id, event.seq_nr, content, row.leaving, row.replaces))
        after = rows[-1].id
    return found


def _walled(pages: Sequence[EventBatch]) -> list[WalledEvent]:
    return [
        WalledEvent(page.seq_nr[index], page.payload[index], is_mark(page, index))
        for page in pages
        for index, entity in enumerate(page.persistence_id)
        if entity_type_of(entity) == WALLED_TYPE
    ]


def _not_walled(tallies: Mapping[str, Tally]) -> dict[str, Tally]:
    """A table of columns does not have marks, so it differs from a fold of all rows there."""
    return {entity: tally for entity, tally in tallies.items() if entity_type_of(entity) != WALLED_TYPE}


def _published(page: EventBatch) -> list[Published]:
    rows = zip(page.persistence_id, page.seq_nr, page.payload, page.tags, page.position, strict=True)
    return [
        Published(entity, seq_nr, content_of(payload), frozenset(split_tags(tags)), position)
        for entity, seq_nr, payload, tags, position in rows
        if entity_type_of(entity) == ORDER_TYPE
    ]


def _stored(page: EventBatch) -> list[Stored]:
    return [
        Stored(entity, _reading(payload), stored_us)
        for entity, payload, stored_us in zip(page.persistence_id, page.payload, page.stored_us, strict=True)
    ]


def _reading(payload: bytes) -> Reading:
    """What an event says; an event that says something else is a reading of no file, which the proof then finds."""
    try:
        return reading_of(orjson.loads(payload))
    except (ValueError, KeyError, TypeError):
        return Reading("", 0, payload[:60].decode(errors="replace"))
