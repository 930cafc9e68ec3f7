"""What the journals hold after every service has stopped, read with the product's own interface."""

from __future__ import annotations

from typing import Final

from common.core.events.batch import EventBatch
from common.core.journal.url import parse_journal_url
from common.journal.stores.journal import Journal
from common.projection.tally import all_tallies, fold_all
from common.runtime.environment import Environment
from tests.crash.proof import CloudContent, JournalContent, Latest, Row

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 8 * 1024 * 1024


async def read_edge(environment: Environment, url: str) -> JournalContent:
    """An edge's journal."""
    async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
        return await _content(journal, await _pages(journal))


async def read_cloud(environment: Environment, url: str) -> CloudContent:
    """The cloud's journal and what was projected from it."""
    async with environment.open_journal(parse_journal_url(url), max_bytes=None, notified=False) as journal:
        pages = await _pages(journal)
        latest = await journal.projections.query("SELECT persistence_id, seq_nr, payload FROM latest")
        return CloudContent(
            journal=await _content(journal, pages),
            folded=fold_all(pages),
            tally=await all_tallies(journal.projections),
            latest={entity: Latest(seq_nr, bytes(payload)) for entity, seq_nr, payload in latest},
        )


async def read_log(journal: Journal) -> JournalContent:
    """An open journal's log."""
    return await _content(journal, await _pages(journal))


async def _content(journal: Journal, pages: list[EventBatch]) -> JournalContent:
    stats = await journal.log.stats()
    return JournalContent(
        [row for page in pages for row in _rows(page)], stats.head_position, stats.deleted_through, stats.parked
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


def _rows(page: EventBatch) -> list[Row]:
    columns = page.position, page.timestamp_us, page.persistence_id, page.seq_nr, page.origin_seq_nr, page.payload
    return [Row(*values) for values in zip(*columns, strict=True)]
