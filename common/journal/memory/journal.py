"""A journal in memory: the fake that tests and the simulation use, held to the same contract as the real ones.

``MemoryDatabase`` is what a disk would be: it outlives the services that open it, and several nodes may share one. A
change is computed on a copy of its state, waits as long as a commit would take, and is published by one assignment:
who is cancelled before that changed nothing, who is cancelled after it has changed everything. Written to be obviously
right, not fast: every commit copies the lists of references that make up the state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from common.core.journal.history import (
    begin_generation,
)
from common.journal.memory import members
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.fleet import MemoryFleet
from common.journal.memory.leases import MemoryAges, MemoryLeases
from common.journal.memory.log import MemoryLog
from common.journal.memory.members import MemoryMembers
from common.journal.memory.origins import MemoryIdentities, MemoryOrigins
from common.journal.memory.parked import MemoryParked
from common.journal.memory.projections import MemoryProjections
from common.journal.memory.push_filters import MemoryPushFilters
from common.journal.memory.snapshots import MemorySnapshots
from common.journal.memory.state import MemoryDatabase
from common.journal.memory.subscriptions import MemorySubscriptions
from common.journal.stores.journal import Journal


@asynccontextmanager
async def open_memory_journal(
    database: MemoryDatabase,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    commit_delay_s: float = 0.0,
) -> AsyncIterator[Journal]:
    """A journal over ``database`` that begins a new generation; every commit takes ``commit_delay_s``."""
    async with database.lock:
        draft = database.state.draft()
        draft.journal_id = draft.journal_id or new_id()
        draft.generations = begin_generation(draft.generations, new_id(), draft.head_position)
        database.state = draft
    connections = MemoryConnections(database, now_us, commit_delay_s)
    database.head_signals.append(connections.head_signal)
    journal = compose(connections)
    try:
        yield journal
    finally:
        database.head_signals.remove(connections.head_signal)
        members.disconnect(connections)


def compose(connections: MemoryConnections) -> Journal:
    """A journal over an open database, with no generation of its own."""
    return Journal(
        log=MemoryLog(connections),
        origins=MemoryOrigins(connections),
        parked=MemoryParked(connections),
        projections=MemoryProjections(connections),
        leases=MemoryLeases(connections),
        ages=MemoryAges(connections),
        members=MemoryMembers(connections),
        subscriptions=MemorySubscriptions(connections),
        snapshots=MemorySnapshots(connections),
        push_filters=MemoryPushFilters(connections),
        identities=MemoryIdentities(connections),
        fleet=MemoryFleet(connections),
    )
