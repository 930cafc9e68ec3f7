"""Which origin owns an entity, where a retry or an operator decides it. What follows is ``admission``'s.

An owner that gives an entity up keeps a stated range with the reason "transferred": the numbers it had used, so that it can
be given the entity back and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead
from common.core.journal.append import LOCAL_OWNER

TRANSFERRED = "transferred"

MayWrite = Callable[[str], bool]
"""Whether the policy lets an origin write the entity."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer's outcome: the owner before it (None: the entity had no head), and what `retry` answers."""

    old_owner: str | None
    stored: int
    left: str


def owner_for_retry(head: EntityHead | None, origins: Iterable[str], may_write: MayWrite | None) -> str | None:
    """The origin whose parked events may be judged again; None: no one's.

    Without a head it is the first of `origins` (of the parked rows, in order) that may write the entity, and it becomes
    the owner; without `may_write` no one does. An owner that the policy has shut out since then is not judged.
    """
    if head is None:
        return next((origin for origin in origins if may_write is not None and may_write(origin)), None)
    return head.owner if may_write is None or head.owner == LOCAL_OWNER or may_write(head.owner) else None


def transfer_head(
    head: EntityHead, to: str, branch: int, ranges: Sequence[tuple[int, StatedRange]]
) -> StatedRange | None:
    """Make `to` the owner; answers the range to keep for the owner before (on its ``head.branch`` as it was).

    `branch` is the newest of `to`, `ranges` what is kept of the entity from it, each with its branch, oldest first.
    Its own numbering begins at 0, or where it was when it had the entity before.
    """
    gone = None
    if head.owner not in (LOCAL_OWNER, to) and head.origin_seq_nr:
        gone = StatedRange(head.persistence_id, 1, head.origin_seq_nr, TRANSFERRED)
    if head.owner != to:
        before = [(stated.to_seq_nr, of) for of, stated in ranges if stated.reason == TRANSFERRED]
        head.owner, head.parked = to, 0
        head.origin_seq_nr, head.branch = max(before, default=(0, branch))
    return gone


def unknown_origin(origin_id: str) -> BackhaulError:
    """The refusal of an owner that never dialled here."""
    return BackhaulError(
        "origin.unknown",
        f"no edge {origin_id[:80]!r} was ever seen here",
        "list the origins for their ids; let a new edge dial once before it is given entities",
        kind=ErrorKind.NOT_FOUND,
    )
