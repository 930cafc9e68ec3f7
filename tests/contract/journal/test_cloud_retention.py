"""Retention of a cloud's journal by age and size, on every storage it may have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
import trio

from cloud_service.retention import LEASE, CloudRetention, CloudRetentionSettings
from common.core.events.ids import ALL_SLICES
from common.core.journal.append import Appended
from common.core.journal.retention import STRETCH_POSITIONS
from common.core.journal.snapshot import NewSnapshot
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import append, local, pass_age

DAY_S = 86_400.0


def kept(
    age_s: float | None = None,
    max_bytes: int | None = None,
    least_age_s: float = 0.0,
    covered_types: frozenset[str] = frozenset(),
) -> CloudRetentionSettings:
    return CloudRetentionSettings(0.02, age_s, max_bytes, least_age_s, DAY_S, covered_types)


def retention(
    storage: Storage, journal: Journal, settings: CloudRetentionSettings, owner: str = "node-1"
) -> CloudRetention:
    return CloudRetention(journal, settings, owner=owner)


async def positions(journal: Journal) -> list[int]:
    return (await journal.log.read(0, max_events=10_000, max_bytes=10**8)).events.position


async def project(journal: Journal, name: str, position: int) -> None:
    """A projection that has come so far, and runs nowhere now."""
    lease = await journal.projections.acquire(name, ALL_SLICES, "node-1", 60)
    assert lease is not None
    await journal.projections.release(await journal.projections.commit(lease, position, [], 60))


async def until_empty(journal: Journal) -> None:
    left = await positions(journal)
    while left:
        await trio.sleep(0.01)
        left = await positions(journal)


class TestAge:
    """What is old enough goes, and followers of the log learn of it as trimmed."""

    async def test_old_events_go_and_leave_a_floor(self, storage: Storage, journal: Journal) -> None:
        await append(journal, local(*["Order|1"] * 6))
        await pass_age(journal, DAY_S)
        await append(journal, local("Order|1", "Order|1"))
        keeper = retention(storage, journal, kept(age_s=DAY_S / 2))
        await keeper.round()
        assert await positions(journal) == [7, 8]
        assert keeper.trimmed == 6
        stats = await journal.log.stats()
        assert (stats.deleted_through, stats.first_position, stats.head_position) == (6, 7, 8)
        assert [(stated.to_seq_nr, stated.reason) for stated in await journal.log.deleted_ranges(0, 8)] == [
            (6, "trimmed")
        ]

    async def test_without_a_limit_nothing_ever_goes(self, storage: Storage, journal: Journal) -> None:
        await append(journal, local("Order|1"))
        await pass_age(journal, 100 * DAY_S)
        await retention(storage, journal, kept()).round()
        assert await positions(journal) == [1]

    async def test_nothing_goes_that_a_projection_has_not_seen_also_a_paused_one(
        self, storage: Storage, journal: Journal
    ) -> None:
        await append(journal, local(*["Order|1"] * 9))
        await project(journal, "quick", 9)
        await project(journal, "slow", 4)
        await journal.projections.set_paused("slow", True)
        await pass_age(journal, DAY_S)
        keeper = retention(storage, journal, kept(age_s=1, max_bytes=1))
        with structlog.testing.capture_logs() as logs:
            await keeper.round()
        assert await positions(journal) == [5, 6, 7, 8, 9]
        assert keeper.held_by == "slow"
        assert [(line["projection"], line["paused"]) for line in logs if line["event"] == "retention.held_back"] == [
            ("slow", True)
        ]
        await journal.projections.forget("slow", [])
        await keeper.round()
        assert await positions(journal) == []
        assert keeper.held_by == ""

    async def test_what_is_younger_than_the_least_age_stays_also_under_an_age_limit(
        self, storage: Storage, journal: Journal
    ) -> None:
        await append(journal, local("Order|1"))
        await pass_age(journal, 10)
        keeper = retention(storage, journal, kept(age_s=1, least_age_s=60))
        await keeper.round()
        assert await positions(journal) == [1]
        await pass_age(journal, 51)
        await keeper.round()
        assert await positions(journal) == []

    async def test_keys_are_remembered_for_their_time_also_where_no_event_ever_goes(
        self, storage: Storage, journal: Journal
    ) -> None:
        request = local("Order|1", append_id="k")
        await append(journal, request)
        await pass_age(journal, DAY_S - 1)
        await retention(storage, journal, kept()).round()
        assert await append(journal, request) == Appended(1, [1], repeated=True)
        await pass_age(journal, 2)
        await retention(storage, journal, kept()).round()
        assert await append(journal, request) == Appended(2, [2])

    async def test_a_lease_that_is_no_projection_holds_nothing_back(self, storage: Storage, journal: Journal) -> None:
        await append(journal, local("Order|1"))
        assert await journal.leases.acquire("subscription:orders", "node-1", 60) is not None
        await pass_age(journal, DAY_S)
        await retention(storage, journal, kept(age_s=1)).round()
        assert await positions(journal) == []

    async def test_of_covered_types_only_what_a_snapshot_replaces_goes(
        self, storage: Storage, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Small stretches and chunks: what must stay lies in the way of what goes.
        monkeypatch.setattr("cloud_service.retention._STRETCH_POSITIONS", 3)
        monkeypatch.setattr("cloud_service.retention._CHUNK_EVENTS", 2)
        await append(journal, local(*["Order|1", "Sensor|1", "Order|2"] * 5))
        await journal.snapshots.put([NewSnapshot("Order|1", 3, "State", "json", b"{}")])
        await pass_age(journal, DAY_S)
        keeper = retention(storage, journal, kept(age_s=1, covered_types=frozenset({"Order"})))
        await keeper.round()
        assert await positions(journal) == [3, 6, 9, 10, 12, 13, 15]
        await journal.snapshots.put([NewSnapshot("Order|2", 5, "State", "json", b"{}")])
        await keeper.round()
        assert await positions(journal) == [10, 13]


class TestSize:
    """The newest events stay, as many as weigh the limit; in stretches, so the log may be long."""

    async def test_the_oldest_stretches_go_until_the_rest_fits(self, storage: Storage, journal: Journal) -> None:
        stretch = ["Order|1"] * STRETCH_POSITIONS
        for _ in range(4):
            await append(journal, local(*stretch))
        await append(journal, local("Order|2"))
        weight = await journal.log.event_bytes(0, STRETCH_POSITIONS)
        assert weight == (await journal.log.read(0, max_events=STRETCH_POSITIONS, max_bytes=10**8)).events.byte_size()
        keeper = retention(storage, journal, kept(max_bytes=2 * weight + 1_000))
        await pass_age(journal, 1)
        await keeper.round()
        assert (await journal.log.stats()).first_position == 2 * STRETCH_POSITIONS + 1
        await append(journal, local(*stretch))
        await pass_age(journal, 1)
        await keeper.round()
        assert (await journal.log.stats()).first_position == 3 * STRETCH_POSITIONS + 1

    async def test_what_is_too_young_stays_whatever_it_weighs(self, storage: Storage, journal: Journal) -> None:
        for _ in range(3):
            await append(journal, local(*["Order|1"] * STRETCH_POSITIONS))
        await pass_age(journal, 10)
        keeper = retention(storage, journal, kept(max_bytes=1, least_age_s=60))
        await keeper.round()
        assert (await journal.log.stats()).first_position == 1
        await pass_age(journal, 60)
        await keeper.round()
        assert (await journal.log.stats()).first_position == 2 * STRETCH_POSITIONS + 1

    async def test_too_heavy_a_log_keeps_what_a_projection_has_not_seen(
        self, storage: Storage, journal: Journal
    ) -> None:
        for _ in range(2):
            await append(journal, local(*["Order|1"] * STRETCH_POSITIONS))
        await project(journal, "slow", 4)
        await pass_age(journal, 1)
        await retention(storage, journal, kept(max_bytes=1)).round()
        assert (await journal.log.stats()).first_position == 5

    async def test_of_covered_types_too_heavy_a_log_loses_only_what_a_snapshot_replaces(
        self, storage: Storage, journal: Journal
    ) -> None:
        for _ in range(2):
            await append(journal, local(*["Order|1", "Order|2"] * (STRETCH_POSITIONS // 2)))
        await journal.snapshots.put([NewSnapshot("Order|1", 3, "State", "json", b"{}")])
        await pass_age(journal, 1)
        await retention(storage, journal, kept(max_bytes=1, covered_types=frozenset({"Order"}))).round()
        assert (await positions(journal))[:3] == [2, 4, 6]


class TestOneNode:
    """While one node is at it, the others leave it alone; none keeps the right for longer than it works."""

    async def test_the_lease_of_a_node_that_died_lapses_after_its_time(
        self, storage: Storage, journal: Journal
    ) -> None:
        dead = retention(storage, journal, replace(kept(age_s=1), lease_s=0.3))
        assert await dead._lease.is_ours()
        assert await journal.leases.acquire(LEASE, "node-2", 10) is None
        await storage.pass_time(0.4)
        assert await journal.leases.acquire(LEASE, "node-2", 10) is not None

    async def test_a_node_that_is_alone_does_not_take_the_lease_for_each_round(
        self, storage: Storage, journal: Journal
    ) -> None:
        for keeps_lease, least, most in ((True, 1, 1), (False, 3, 1_000)):
            keeper = retention(storage, journal, replace(kept(), keeps_lease=keeps_lease))
            taken = 0
            while taken < 3:
                await keeper._if_ours()
                taken += 1
            [lease] = await journal.leases.rows()
            assert least <= lease.epoch <= most, "each release and taking is an epoch, and a synced commit"

    async def test_a_node_waits_while_another_holds_the_lease(self, storage: Storage, journal: Journal) -> None:
        await append(journal, local("Order|1"))
        await pass_age(journal, DAY_S)
        other = await journal.leases.acquire(LEASE, "node-2", 10)
        assert other is not None
        keeper = retention(storage, journal, kept(age_s=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            await trio.sleep(0.2)
            assert await positions(journal) == [1]
            await journal.leases.release(other)
            await until_empty(journal)
            nursery.cancel_scope.cancel()
        assert await journal.leases.acquire(LEASE, "node-2", 60) is not None
