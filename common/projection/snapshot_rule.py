"""The built-in rule "every N events the last event is the snapshot", for entity types whose events hold the whole state.

One task follows the journal behind a lease, as a projection named ``snapshots``: one node does it, retention waits for
it, and a kill at any moment makes it store some snapshots again, which is no news to the journal. So the offset is saved
now and then and not with each snapshot: at the end of the log that would double the journal's commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from random import Random
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES
from common.core.filters.selection import Selection
from common.core.flow.backoff import Backoff
from common.core.journal.snapshot import NewSnapshot, due_snapshots
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.projection.progress import ProjectionSettings

SNAPSHOT_RULE: Final = "snapshots"
_RELEASE_DEADLINE_S: Final = 2.0

_log = structlog.get_logger()


async def run_snapshot_rule(
    journal: Journal,
    every: Mapping[str, int],
    *,
    owner: str,
    settings: ProjectionSettings,
    random: Random,
    kept: int = 1,
) -> NoReturn:
    """Take snapshots until cancelled; ``every`` maps an entity type to its N. Errors of the storage are tried again.

    Of an entity's snapshots the latest ``kept`` are kept.
    """
    log = _log.bind(projection=SNAPSHOT_RULE)
    backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s)
    while True:
        try:
            lease = await journal.projections.acquire(SNAPSHOT_RULE, ALL_SLICES, owner, settings.lease_s)
            if lease is not None:
                log.info("snapshots.started", position=lease.position, every=dict(every))
                await _follow(journal, every, lease, settings, backoff, kept)
            await trio.sleep(settings.standby_poll_s * (0.5 + random.random() / 2))
        except BackhaulError as error:
            retry_in_s = backoff.next_delay(random.random(), at_least_s=error.retry_after_s or 0.0)
            log.warning(
                "snapshots.failed", code=error.code, reason=error.message, retry_in_s=retry_in_s, repeat_key=error.code
            )
            await trio.sleep(retry_in_s)


async def _follow(
    journal: Journal,
    every: Mapping[str, int],
    lease: ProjectionLease,
    settings: ProjectionSettings,
    backoff: Backoff,
    kept: int,
) -> NoReturn:
    selection = Selection(entity_types=frozenset(every))
    changed = journal.members.changed
    through, held_s, changes = lease.position, trio.current_time(), changed.count
    try:
        while True:
            heard = journal.log.head_signal.position
            page = await journal.log.read(
                through, max_events=settings.page_max_events, max_bytes=settings.page_max_bytes, selection=selection
            )
            wanted = _taken(page.events, every)
            if wanted:
                await journal.snapshots.put(wanted, keep=kept)
            through = max(through, page.through)
            due_s = held_s + min(settings.lease_s / 3, settings.save_s if through > lease.position else inf)
            if page.through < page.head or trio.current_time() >= due_s or changes != changed.count:
                changes = changed.count
                lease = await journal.projections.commit(lease, through, (), settings.lease_s)
                held_s = trio.current_time()
                due_s = held_s + settings.lease_s / 3
                backoff.progressed()
            if page.through >= page.head:
                wait_s = max(0.0, min(settings.poll_s, due_s - trio.current_time()))
                await journal.log.head_signal.wait_above(max(through, heard), wait_s)
    finally:
        with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True):
            await _release(journal, lease, through)


async def _release(journal: Journal, lease: ProjectionLease, through: int) -> None:
    """Give the lease back with the place that was reached; if that fails, the next owner repeats a little."""
    try:
        if through > lease.position:
            lease = await journal.projections.commit(lease, through, (), 0.0)
        await journal.projections.release(lease)
    except BackhaulError as error:
        _log.info("snapshots.release_failed", code=error.code, reason=error.message)


def _taken(events: EventBatch, every: Mapping[str, int]) -> list[NewSnapshot]:
    return [
        NewSnapshot(
            events.persistence_id[index],
            events.seq_nr[index],
            events.event_type[index],
            events.codec[index],
            events.payload[index],
            events.tags[index],
            events.metadata[index],
            says_last_event=True,
        )
        for index in due_snapshots(events, every)
    ]
