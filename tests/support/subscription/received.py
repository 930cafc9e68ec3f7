"""What tests of a consumer's storage do again and again: take the lease, commit what was brought, be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.events.stated_range import StatedRange
from common.core.journal.append import PushedAppend
from common.core.journal.history import Offset
from common.core.subscription.place import NO_RESUME_POINT, LogCursor, ResumePoint
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import ReceivedCommit, lease_name
from tests.support.builders import events

NAME = "orders"


async def take(journal: Journal, owner: str = "edge-1", name: str = NAME, lease_s: float = 60.0) -> Lease:
    """The subscription's lease."""
    lease = await journal.leases.acquire(lease_name(name), owner, lease_s)
    assert lease is not None
    return lease


def at(position: int) -> ResumePoint:
    """Where live is at ``position``."""
    return replace(NO_RESUME_POINT, live=LogCursor(position))


async def commit(
    journal: Journal,
    lease: Lease,
    revision: int,
    what: ReceivedCommit,
    name: str = NAME,
    inbox_max_bytes: int | None = None,
) -> int:
    """The revision after a commit that is accepted."""
    return await journal.subscriptions.commit(name, lease, revision, what, 60.0, inbox_max_bytes=inbox_max_bytes)


async def refused(
    journal: Journal, lease: Lease, revision: int, what: ReceivedCommit, max_bytes: int | None = None
) -> str:
    """The code with which a commit is refused."""
    with pytest.raises(BackhaulError) as error:
        await commit(journal, lease, revision, what, inbox_max_bytes=max_bytes)
    return error.value.code


def stretch(*rows: tuple[str, int], ranges: Sequence[StatedRange] = (), parked_max: int = 100) -> PushedAppend:
    """What a subscription brings for the consumer's own log."""
    batch = events(*(name for name, _ in rows))
    batch.seq_nr = [seq_nr for _, seq_nr in rows]
    batch.prev_seq_nr = [seq_nr - 1 for _, seq_nr in rows]
    batch.position = list(range(101, 101 + len(rows)))
    through = Offset("cloud-1", "g1", 100 + len(rows))
    return PushedAppend("cloud", 0, 1, 0, through, batch, tuple(ranges), {}, parked_max)
