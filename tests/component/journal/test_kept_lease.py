"""A lease that is kept costs a commit when it is taken and at each third of its length, not at each question."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from common.journal.kept_lease import KeptLease
from common.journal.stores.leases import Lease, LeaseRow


class Leases:
    """Counts what is asked of it; ``holder`` is another owner."""

    def __init__(self) -> None:
        self.asked = 0
        self.released: list[Lease] = []
        self.holder = ""

    async def acquire(self, name: str, owner: str, lease_s: float) -> Lease | None:
        self.asked += 1
        return None if self.holder not in ("", owner) else Lease(name, 1)

    async def release(self, lease: Lease) -> None:
        self.released.append(lease)

    async def rows(self) -> list[LeaseRow]:
        return []


async def test_it_is_renewed_at_a_third_of_its_length(autojump_clock: MockClock) -> None:
    leases = Leases()
    lease = KeptLease(leases, "work", "me", 600.0)
    for _ in range(600):
        assert await lease.is_ours()
        await trio.sleep(1)
    assert leases.asked == 3


async def test_another_owner_is_found_with_the_next_renewal_and_its_end_with_the_next_question(
    autojump_clock: MockClock,
) -> None:
    leases = Leases()
    lease = KeptLease(leases, "work", "me", 600.0)
    assert await lease.is_ours()
    leases.holder = "other"
    await trio.sleep(200)
    assert not await lease.is_ours()
    leases.holder = ""
    assert await lease.is_ours()


async def test_it_is_given_back_once(autojump_clock: MockClock) -> None:
    leases = Leases()
    lease = KeptLease(leases, "work", "me", 600.0)
    await lease.release()
    assert await lease.is_ours()
    await lease.release()
    await lease.release()
    assert leases.released == [Lease("work", 1)]
