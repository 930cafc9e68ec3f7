"""Leases: what one node at a time does, until another takes it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.core.errors import BackhaulError, ErrorKind


@dataclass(frozen=True, slots=True)
class Lease:
    """The right held under ``name`` until another owner takes it: ``epoch`` guards every commit made under it."""

    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as stored. ``owner`` is '' when nobody holds it; ``left_s`` is 0 when it has lapsed."""

    name: str
    owner: str
    epoch: int
    left_s: float


class LeaseStore(Protocol):
    """Leases that belong to no projection: each range of a projection has its own beside its offset."""

    async def acquire(self, name: str, owner: str, lease_s: float) -> Lease | None:
        """Take or renew a lease, made when it is new; None while another owner holds it.

        An owner that is a member holds it as long as it is one (``MemberStore``), whatever ``lease_s``.

        Taking it over from another owner, or after a release, raises the epoch; renewing by the same owner does not.
        Times are the database's. A lease that lasts longer than ``lease_s`` from now is of a clock that has stepped back
        since: it is not respected.
        """

    async def release(self, lease: Lease) -> None:
        """Give the lease up at once (a clean stop), if it is still ours."""

    async def rows(self) -> list[LeaseRow]:
        """All leases that were ever held, by name."""


def lease_fenced(lease: Lease) -> BackhaulError:
    """Another owner has taken the lease: nothing is written any more under this one."""
    return BackhaulError(
        "lease.fenced",
        f"the lease {lease.name} is no longer held with epoch {lease.epoch}",
        "nothing to do: the present owner goes on",
        kind=ErrorKind.CONFLICT,
    )
