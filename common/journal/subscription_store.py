"""What a journal keeps of other services' logs: places in them, known numbers, and inboxes for local programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.core.append import PushedAppend
from common.core.batch import Envelope, EventBatch
from common.core.subscription import FilterState, Place, Subscription
from common.journal.lease import ProjectionLease, Statement


@dataclass(frozen=True, slots=True)
class ReceivedCommit:
    """What one stretch received from another log changes here, all or nothing, together with the new place.

    ``known`` and ``awaiting`` hold what changes: an entity's last known number, and whether it waits for a replay.
    ``inbox`` are events for programs to fetch; ``leaving`` and ``replaces`` name, by index in it, an entity's last event
    before it leaves the filter, and snapshots. ``append`` stores events in this journal, its guards (session and position
    of the origin) set here: lease and revision are the guard. ``statements`` are a handler's.
    """

    place: Place
    known: Mapping[str, int] = field(default_factory=dict)
    awaiting: Mapping[str, bool] = field(default_factory=dict)
    inbox: EventBatch | None = None
    leaving: frozenset[int] = frozenset()
    replaces: frozenset[int] = frozenset()
    append: PushedAppend | None = None
    statements: Sequence[Statement] = ()
    received: int = 0
    """Events that take effect with this commit, for the count."""


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event that waits for a local program. ``id`` is the inbox's own number: 1, 2, 3 … without holes.

    ``event`` keeps the source's numbers and positions. ``leaving``: its entity has left the filter with it.
    ``replaces``: it is a snapshot, in the place of all the entity's events up to its number.
    """

    id: int
    event: Envelope
    leaving: bool
    replaces: bool


@dataclass(frozen=True, slots=True)
class InboxStats:
    """How full an inbox is: rows ``first_id`` … ``last_id`` wait (first = last + 1 when none), up to ``acked_id`` are gone."""

    rows: int
    bytes: int
    first_id: int
    last_id: int
    acked_id: int


class SubscriptionStore(Protocol):
    """What this service has received of other services' logs, and its places in them; a part of every journal."""

    async def subscription(self, name: str) -> Subscription | None:
        """The stored state, or None before the first commit or filter."""

    async def subscriptions(self) -> list[Subscription]:
        """All of them, by name."""

    async def set_desired(self, name: str, criteria: str) -> FilterState:
        """Keep what filter is wanted from now on; its version goes up by one if the criteria are others."""

    async def forget_subscription(self, name: str) -> bool:
        """Remove state, known numbers, inbox and lease; a consumer that still runs is fenced. False when unknown."""

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """Last known numbers of those entities that have one."""

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """Entities that wait for a replay, each with its known number, by persistence id."""

    async def commit_received(
        self,
        name: str,
        lease: ProjectionLease,
        revision: int,
        commit: ReceivedCommit,
        lease_s: float,
        *,
        inbox_max_bytes: int | None = None,
    ) -> int:
        """Store all of ``commit`` in one synced transaction and renew the lease; the new revision.

        ``lease`` is of the name ``subscription:<name>``. Raises, with nothing written: ``projection.fenced`` when the
        lease is not ours any more; ``subscription.out_of_step`` when the stored revision is another, also when a commit
        whose outcome was not known is repeated (look at the stored place); ``inbox.full`` when the inbox is not empty
        and would hold more than ``inbox_max_bytes``; ``journal.full``; ``subscription.blocked`` when ``append`` would
        park more than its ``parked_max``; ``projection.statement_failed``.
        """

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """The next rows with id > ``after_id``, at least one if there is one."""

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """Remove the rows up to ``through_id``; how many. Beyond the last id: ``inbox.ack_beyond``, nothing removed."""

    async def inbox_stats(self, name: str) -> InboxStats:
        """How full it is; all 0 for an unknown name."""
