"""What a journal keeps of other services' logs: places in them, known numbers, and inboxes for local programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import Envelope, EventBatch
from common.core.events.deleted import DELETED_TYPE
from common.core.events.restart import RESTART_TYPE
from common.core.events.stated_range import StatedRange
from common.core.journal.append import PushedAppend
from common.core.journal.statement import Statement
from common.core.subscription.place import FilterState, ResumePoint, Subscription
from common.journal.stores.leases import Lease

JOIN_DELETED = (
    "from_seq_nr = CASE WHEN t.reason = excluded.reason AND excluded.from_seq_nr <= t.to_seq_nr + 1"
    " THEN {least}(t.from_seq_nr, excluded.from_seq_nr) ELSE excluded.from_seq_nr END,"
    " to_seq_nr = excluded.to_seq_nr, reason = excluded.reason"
)
"""SQL of ``last_of_each`` for the stored stretch ``t`` of an entity and a new one; ``least`` is the function's name."""


@dataclass(frozen=True, slots=True)
class ReceivedCommit:
    """What one stretch received from another log changes here, all or nothing, together with the new place.

    ``known`` and ``awaiting`` hold what changes: an entity's last known number, and whether it waits for a replay.
    ``inbox`` are events for programs to fetch; ``leaving`` and ``replaces`` name, by index in it, an entity's last event
    before it leaves the filter, and snapshots. ``append`` stores events in this journal, its guards (session and position
    of the origin) set here: lease and revision are the guard. ``statements`` are a handler's.
    """

    place: ResumePoint
    known: Mapping[str, int] = field(default_factory=dict)
    awaiting: Mapping[str, bool] = field(default_factory=dict)
    inbox: EventBatch | None = None
    leaving: frozenset[int] = frozenset()
    replaces: frozenset[int] = frozenset()
    append: PushedAppend | None = None
    statements: Sequence[Statement] = ()
    received: int = 0
    """Events that take effect with this commit, for the count."""
    deleted: Sequence[StatedRange] = ()
    """Numbers that the source had deleted before they came; kept for ``deleted_of``."""


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event, or a deleted or restart mark, that waits for a local program.

    ``id`` is the inbox's own number: 1, 2, 3 … without holes.

    ``event`` keeps the source's numbers and positions. ``leaving``: its entity has left the filter with it.
    ``replaces``: it is a snapshot, in the place of all the entity's events up to its number.
    """

    id: int
    event: Envelope
    leaving: bool
    replaces: bool

    @property
    def is_deleted(self) -> bool:
        """It is a deleted mark, no event."""
        return self.event.event_type == DELETED_TYPE

    @property
    def is_restart(self) -> bool:
        """It is a restart mark, no event: the entity's events behind its number come again."""
        return self.event.event_type == RESTART_TYPE


@dataclass(frozen=True, slots=True)
class InboxStats:
    """How full an inbox is: rows ``first_id`` … ``last_id`` wait (first = last + 1 when none), up to ``acked_id`` are gone."""

    rows: int
    bytes: int
    first_id: int
    last_id: int
    acked_id: int


class SubscriptionStore(Protocol):
    """What this service has received of other services' logs, and its places in them."""

    async def get(self, name: str) -> Subscription | None:
        """The stored state, or None before the first commit or filter."""

    async def rows(self) -> list[Subscription]:
        """All of them, by name."""

    async def set_requested(self, name: str, criteria: str, *, if_new: bool = False) -> FilterState:
        """Keep what filter is wanted from now on; its version goes up by one if the criteria are others.

        ``if_new``: only for a subscription nothing is known of yet; what an operator asked for meanwhile stays.
        """

    async def forget(self, name: str) -> bool:
        """Remove state, known numbers, inbox and lease; a consumer that still runs is fenced. False when unknown."""

    async def restart(self, name: str, lease: Lease) -> bool:
        """Have it begin anew, in one transaction: place and known numbers go, all else stays.

        The wanted filter stays, and so do the count, the inbox's rows until they are acknowledged, and its numbering, which
        programs go on from. The revision goes up: a commit that was under way is out of step. False when unknown. Raises
        ``lease.fenced``.
        """

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """Last known numbers of those entities that have one; an id without its entity type names those of all types."""

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """Entities that wait for a replay, each with its known number, by persistence id."""

    async def deleted_of(self, persistence_id: str) -> list[tuple[str, StatedRange]]:
        """What sources had deleted of an entity before it came, by subscription: of each the last stretch of numbers."""

    async def commit(
        self,
        name: str,
        lease: Lease,
        revision: int,
        commit: ReceivedCommit,
        lease_s: float,
        *,
        inbox_max_bytes: int | None = None,
    ) -> int:
        """Store all of ``commit`` in one synced transaction and renew the lease; the new revision.

        ``lease`` is of the name ``subscription:<name>``. Raises, with nothing written: ``lease.fenced`` when the
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


def lease_name(subscription: str) -> str:
    """The name under which the right to commit for a subscription is held."""
    return f"subscription:{subscription}"


def check_revision(name: str, stored: int, given: int) -> None:
    """Refuse a commit that does not go on from what is stored.

    Raises:
        BackhaulError: ``subscription.out_of_step``.
    """
    if stored != given:
        raise BackhaulError(
            "subscription.out_of_step",
            f"subscription {name} is at revision {stored}, not at {given}",
            hint="nothing to do: the consumer reads the stored place and goes on from there",
            kind=ErrorKind.CONFLICT,
            details={"subscription": name, "stored": stored, "given": given},
        )


def check_room(name: str, waiting_bytes: int, more_bytes: int, max_bytes: int | None) -> None:
    """Refuse what an inbox has no room for; an empty one takes any batch, or it would never get on.

    Raises:
        BackhaulError: ``inbox.full``.
    """
    if max_bytes is not None and waiting_bytes and waiting_bytes + more_bytes > max_bytes:
        raise BackhaulError(
            "inbox.full",
            f"{waiting_bytes} bytes wait in the inbox of {name}, {more_bytes} more would be above {max_bytes}",
            hint="fetch and acknowledge its rows, or raise inbox_max_bytes; nothing is lost meanwhile",
            kind=ErrorKind.FULL,
            details={"subscription": name, "inbox_bytes": waiting_bytes, "max_bytes": max_bytes},
        )


def check_ack(name: str, through_id: int, last_id: int) -> None:
    """Refuse to acknowledge what was never there: it is a caller's mistake, and would free what comes later unseen.

    Raises:
        BackhaulError: ``inbox.ack_beyond``.
    """
    if through_id > last_id:
        raise BackhaulError(
            "inbox.ack_beyond",
            f"the last id in the inbox of {name} is {last_id}, not {through_id}",
            hint="acknowledge the id of a row that was fetched",
            kind=ErrorKind.CONFLICT,
            details={"subscription": name, "last_id": last_id, "acknowledged": through_id},
        )


def blocked(name: str, parked: int, parked_max: int) -> BackhaulError:
    """What a subscription brings does not fit this journal's entities, and no more of it may be set aside."""
    return BackhaulError(
        "subscription.blocked",
        f"{parked} events of subscription {name} are parked, the limit is {parked_max}",
        hint="look at the parked events: retry or discard them",
        kind=ErrorKind.FULL,
        details={"subscription": name, "parked": parked, "parked_max": parked_max},
    )
