"""A projection over given events: the handler that a service would run, on a journal in memory, with its offset.

    async with projecting(OVERVIEW, registry=registry) as overview:
        await overview.given("Drone", "d1", Moved("a1"), Moved("a2"))
        assert await overview.rows("SELECT drone, cell FROM overview") == [("d1", "a2")]

Events pass through their codecs, and types that the registry does not know come as ``Unknown``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from random import Random
from typing import Any

import trio

from common import border
from common.core.errors import ConfigurationError
from common.core.events.batch import join_tags, new_events
from common.core.events.ids import persistence_id
from common.core.events.types import EventTypes
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.statement import check_portable
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.projection.handler_executor import call_inline
from common.projection.handlers import Handler
from common.projection.progress import ProjectionProgress, ProjectionSettings
from common.projection.projection import run_projections
from common.runtime.stream_serving import open_firehose
from common.testing.faults import why
from common.testing.world import now_us


class ProjectionKit:
    """One projection under test; made by ``projecting``."""

    def __init__(self, journal: Journal, registry: EventTypes, progress: Sequence[ProjectionProgress]) -> None:
        self.journal = journal
        self._registry = registry
        self._progress = progress

    async def given(self, entity_type: str, entity_id: str, *events: object, tags: Iterable[str] = ()) -> None:
        """These happened to an entity, each with these tags; returns when the projection has seen them."""
        rows = [self._registry.encode_checked(event)[0] for event in events]
        types, codecs, payloads, metadata = (list(column) for column in zip(*rows, strict=True))
        batch = new_events(
            [persistence_id(entity_type, entity_id)] * len(rows),
            types,
            payloads,
            codec=codecs,
            metadata=metadata,
            tags=[join_tags(tags)] * len(rows),
        )
        [outcome] = await self.journal.log.append_group([LocalAppend(batch)])
        assert isinstance(outcome, Appended), outcome
        await self.seen()

    async def seen(self, at_most_s: float = 60.0) -> None:
        """Wait until the projection has seen the whole log.

        Raises:
            AssertionError: with the error that it fails with, and what the handler raised as its cause.
        """
        until_s = trio.current_time() + at_most_s
        while True:
            head = (await self.journal.log.stats()).head_position
            if all(one.position >= head for one in self._progress):
                return
            for one in self._progress:
                if one.failures > 2 and one.fault is not None:
                    raise AssertionError(f"the projection fails: {why(one.fault)}") from one.fault
            assert trio.current_time() < until_s, f"it has not come to position {head} in {at_most_s:g} s"
            await trio.sleep(0.01)

    async def rows(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the projection's tables."""
        return await self.journal.projections.query(sql, args)


@asynccontextmanager
async def projecting(
    handler: Handler, *, registry: EventTypes | None = None, journal: str = "memory"
) -> AsyncIterator[ProjectionKit]:
    """Run one projection on a journal of its own while the block runs; for a mock clock or a real one.

    ``journal`` is ``memory``, whose tables are SQLite's and which refuses definitions that PostgreSQL lacks, or the URL of an
    empty database, ``postgresql://…``, for a real clock.

    Raises:
        BackhaulError: ``projection.not_portable``.
        ConfigurationError: ``testing.journal`` for a database with events; what opening a database raises.
    """
    types = registry or EventTypes()
    async with _opened(journal, handler) as opened:
        async with open_firehose(opened, poll_s=0.05) as firehose, trio.open_nursery() as nursery:
            progress: list[ProjectionProgress] = await nursery.start(
                partial(
                    run_projections,
                    opened,
                    firehose,
                    [handler],
                    owner="test",
                    settings=ProjectionSettings(poll_s=0.05),
                    now_us=now_us,
                    random=Random(1),
                    decode=types.decode_event,
                    plain_calls=lambda: call_inline,
                )
            )
            yield ProjectionKit(opened, types, progress)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _opened(journal: str, handler: Handler) -> AsyncIterator[Journal]:
    begun_us = now_us()  # an empty database may have been opened before
    ids = (f"{begun_us}-{number:08d}" for number in count(1))
    if journal == "memory":
        check_portable([*handler.migrations, handler.reset])
        async with open_memory_journal(MemoryDatabase(), now_us=now_us, new_id=lambda: next(ids)) as opened:
            yield opened
        return
    if not journal.startswith(("postgresql://", "postgres://")):
        raise _unfit(f"{journal[:80]!r} is neither memory nor the URL of a database")
    from common.journal.postgres import open_postgres_journal  # noqa: PLC0415  an edge has no driver of PostgreSQL

    async with (
        border.open_loop(),
        open_postgres_journal(journal, now_us=now_us, new_id=lambda: next(ids)) as opened,
    ):
        is_empty = not (await opened.log.stats()).head_position
        if is_empty:
            yield opened
    if not is_empty:
        raise _unfit("the database has events already")


def _unfit(why: str) -> ConfigurationError:
    return ConfigurationError("testing.journal", why, "give an empty database, made for this test, or memory")
