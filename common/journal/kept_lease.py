"""How long leases last by the kind of journal, and one that is kept over many rounds of a task."""

from __future__ import annotations

from typing import Final

import trio

from common.journal.stores.leases import Lease, LeaseStore
from common.journal.stores.members import MemberStore

# Of a journal that one process has: nobody else can take a lease, and whoever opens the file ends those of the process before.
# Each renewal is a synced commit, which an idle gateway's flash would have every few seconds.
_FILE_LEASE_S: Final = 600.0


def lease_length_s(members: MemberStore, wanted_s: float) -> float:
    """How long leases of a journal last where the settings want ``wanted_s``: longer in a file, so that renewals are rare."""
    return wanted_s if members.holds_leases else max(wanted_s, _FILE_LEASE_S)


class KeptLease:
    """Held from the first ``is_ours`` that answers True to ``release``; renewed at a third of its length."""

    def __init__(self, leases: LeaseStore, name: str, owner: str, lease_s: float) -> None:
        self._leases = leases
        self._name = name
        self._owner = owner
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self._renew_at = 0.0

    async def is_ours(self) -> bool:
        """Take the lease, or renew it when it is time; False when another owner has it. Raises what the store raises."""
        if self._lease is None or trio.current_time() >= self._renew_at:
            self._lease = await self._leases.acquire(self._name, self._owner, self._lease_s)
            self._renew_at = trio.current_time() + self._lease_s / 3
        return self._lease is not None

    async def release(self) -> None:
        """Give it back, if it is held. Raises what the store raises: then it lapses by itself."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._leases.release(lease)
