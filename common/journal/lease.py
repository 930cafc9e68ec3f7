"""The right to commit for a range of a projection or a subscription, and the statements that are run in such a commit."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.errors import BackhaulError, ErrorKind
from common.core.ids import SliceRange
from common.core.statement import Statement

__all__ = ["LEASE_MARK", "ProjectionLease", "Statement", "fenced"]

# In a name it says: held only for its lease, not a projection with an offset that retention must respect.
LEASE_MARK = ":"


@dataclass(frozen=True, slots=True)
class ProjectionLease:
    """The right to commit for one projection's range until somebody takes it: ``epoch`` guards every commit."""

    name: str
    slices: SliceRange
    epoch: int
    position: int


def fenced(lease: ProjectionLease) -> BackhaulError:
    """Somebody else has the lease, or it was paused: nothing is written any more under this one."""
    return BackhaulError(
        "projection.fenced",
        f"{lease.name} {lease.slices} is paused, or somebody else has gone on from {lease.position}",
        "nothing to do: the present owner goes on",
        kind=ErrorKind.CONFLICT,
    )
