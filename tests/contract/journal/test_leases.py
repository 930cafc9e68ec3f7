"""What every journal promises about leases that belong to no projection: one owner at a time, and old owners are known."""

from __future__ import annotations

from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease, LeaseRow
from tests.contract.journals import Storage


async def take(journal: Journal, owner: str, lease_s: float = 60.0) -> Lease:
    """The lease, which must be free or the owner's."""
    lease = await journal.leases.acquire("retention", owner, lease_s)
    assert lease is not None
    return lease


class TestOneOwner:
    async def test_a_new_lease_has_epoch_one_and_is_refused_to_others(self, journal: Journal) -> None:
        assert await take(journal, "node-1") == Lease("retention", 1)
        assert await journal.leases.acquire("retention", "node-2", 60) is None
        assert await journal.leases.acquire("another", "node-2", 60) == Lease("another", 1)

    async def test_its_owner_renews_it_with_the_same_epoch(self, storage: Storage, journal: Journal) -> None:
        assert await take(journal, "node-1", 0.2) == await take(journal, "node-1", 60)
        await storage.pass_time(0.3)
        assert await journal.leases.acquire("retention", "node-2", 60) is None

    async def test_who_takes_over_what_has_lapsed_raises_the_epoch(self, storage: Storage, journal: Journal) -> None:
        await take(journal, "node-1", 0.05)
        await storage.pass_time(0.1)
        assert await take(journal, "node-2") == Lease("retention", 2)

    async def test_a_lease_that_lasts_longer_than_it_may_is_not_respected(self, journal: Journal) -> None:
        await take(journal, "node-1", 3_600)
        assert await take(journal, "node-2", 10) == Lease("retention", 2)


class TestRelease:
    async def test_it_is_free_at_once_with_another_epoch(self, journal: Journal) -> None:
        await journal.leases.release(await take(journal, "node-1"))
        assert await journal.leases.rows() == [LeaseRow("retention", "", 1, 0.0)]
        assert await take(journal, "node-2") == Lease("retention", 2)

    async def test_an_old_owner_releases_nothing_of_the_present_one(self, storage: Storage, journal: Journal) -> None:
        old = await take(journal, "node-1", 0.05)
        await storage.pass_time(0.1)
        await take(journal, "node-2")
        await journal.leases.release(old)
        assert await journal.leases.acquire("retention", "node-3", 60) is None


async def test_the_rows_say_who_holds_what_and_are_no_projections(journal: Journal) -> None:
    await take(journal, "node-1")
    await journal.leases.acquire("another", "node-2", 60)
    rows = await journal.leases.rows()
    assert [(row.name, row.owner, row.epoch) for row in rows] == [("another", "node-2", 1), ("retention", "node-1", 1)]
    assert all(50 < row.left_s <= 60 for row in rows)
    assert await journal.projections.rows() == []


async def test_what_was_forgotten_and_taken_again_is_not_the_old_owners(journal: Journal) -> None:
    old = await journal.leases.acquire("subscription:orders", "node-1", 60)
    await journal.subscriptions.set_requested("orders", "[1]")
    assert await journal.subscriptions.forget("orders")
    new = await journal.leases.acquire("subscription:orders", "node-1", 60)
    assert old is not None
    assert new is not None
    assert new.epoch > old.epoch
