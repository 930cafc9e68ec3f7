"""What every journal promises of members: rows that are renewed, leases that hold while they are, and ranges handed over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES, slice_ranges
from common.core.members.member import Member, MemberReport
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from tests.contract.journals import PostgresStorage, Storage
from tests.support.builders import appended, local

NODE_1 = MemberReport("n1/1", "n1", 17, runs=frozenset({"tally", "latest"}), sessions=12)
NODE_2 = MemberReport("n2/2", "n2", 18, weight=2)
TALLY = ("tally", ALL_SLICES)


async def member(journal: Journal, instance: str) -> Member:
    [found] = [one for one in (await journal.members.look()).members if one.instance == instance]
    return found


async def take(journal: Journal, owner: str = "n1/1") -> ProjectionLease:
    lease = await journal.projections.acquire("tally", ALL_SLICES, owner, 0.01)
    assert lease is not None
    return lease


async def is_fenced(journal: Journal, lease: ProjectionLease) -> bool:
    try:
        await journal.projections.commit(lease, lease.position, [], 0.01)
    except BackhaulError as error:
        return error.code == "projection.fenced"
    return False


@asynccontextmanager
async def another_node(storage: Storage, journal: Journal) -> AsyncIterator[Journal]:
    """Another journal where several may be open, else the same one."""
    if not storage.shared:
        yield journal
        return
    async with storage.open() as other:
        yield other


class TestRows:
    """Each renewal writes the row and sees all of them."""

    async def test_a_renewal_makes_the_row_and_shows_it(self, journal: Journal) -> None:
        seen = await journal.members.renew(NODE_1, 3.0)
        [mine] = seen.members
        assert (mine.report, mine.renewals, mine.has_lock, mine.is_drained) == (NODE_1, 1, True, False)
        assert 2.0 < mine.left_s <= 3.0
        assert mine.is_live
        assert seen.settles_in_s == 0.0
        [mine] = (await journal.members.renew(replace(NODE_1, edges=7), 3.0)).members
        assert (mine.report.edges, mine.renewals) == (7, 2)

    async def test_a_renewal_sees_where_the_log_ends(self, storage: Storage, journal: Journal) -> None:
        if not isinstance(storage, PostgresStorage):
            return
        async with storage.open() as other:
            await appended(other, local("A|1", "A|2"))
            looks = journal.log.head_signal.looks
            await journal.members.renew(NODE_1, 3.0)
            assert (journal.log.head_signal.position, journal.log.head_signal.looks) == (2, looks + 1)

    async def test_every_node_sees_the_others(self, storage: Storage, journal: Journal) -> None:
        async with another_node(storage, journal) as other:
            await journal.members.renew(NODE_1, 3.0)
            seen = await other.members.renew(NODE_2, 3.0)
            assert [one.report for one in seen.members] == [NODE_1, NODE_2]
            assert [one.report for one in (await journal.members.look()).members] == [NODE_1, NODE_2]

    async def test_a_row_that_is_not_renewed_lapses_and_can_be_forgotten(
        self, storage: Storage, journal: Journal
    ) -> None:
        await journal.members.renew(NODE_1, 0.2)
        await journal.members.forget("n1/1")
        assert (await member(journal, "n1/1")).is_live
        await storage.pass_time(0.3)
        lapsed = await member(journal, "n1/1")
        assert not lapsed.is_live
        assert lapsed.silent_s >= 0.3
        await journal.members.forget("n1/1")
        assert (await journal.members.look()).members == []

    async def test_one_is_declared_dead_unless_it_was_renewed_since(self, journal: Journal) -> None:
        await journal.members.renew(NODE_1, 3.0)
        seen = await member(journal, "n1/1")
        await journal.members.renew(NODE_1, 3.0)
        assert not await journal.members.declare_dead(seen)
        assert (await member(journal, "n1/1")).is_live
        assert await journal.members.declare_dead(await member(journal, "n1/1"))
        assert not (await member(journal, "n1/1")).is_live

    async def test_a_drained_node_weighs_nothing_until_it_is_let_work_again(self, journal: Journal) -> None:
        assert await journal.members.set_drained("n1", True)
        assert not await journal.members.set_drained("n1", True)
        [mine] = (await journal.members.renew(NODE_1, 3.0)).members
        assert (mine.is_drained, mine.weight) == (True, 0)
        assert await journal.members.set_drained("n1", False)
        assert not await journal.members.set_drained("n1", False)
        assert (await member(journal, "n1/1")).weight == 1

    async def test_the_lock_of_a_node_that_is_gone_is_free(self, storage: Storage, journal: Journal) -> None:
        if not storage.shared:
            return
        async with storage.open() as other:
            await other.members.renew(NODE_2, 30.0)
            assert (await member(journal, "n2/2")).has_lock
        with trio.fail_after(5):
            while (await member(journal, "n2/2")).has_lock:  # noqa: ASYNC110  the server's
                await trio.sleep(0.02)
        assert (await member(journal, "n2/2")).is_live

    @pytest.mark.parametrize("change", ["join", "drain", "take", "pause", "hand_over", "accept", "leave"])
    async def test_others_are_prompted(self, storage: Storage, journal: Journal, change: str) -> None:
        await journal.members.renew(NODE_1, 3.0)
        lease = await take(journal)
        async with another_node(storage, journal) as other:
            await other.members.renew(NODE_2, 3.0)
            if change == "accept" and storage.shared:
                await journal.projections.hand_over([(lease, "n2/2")])
            elif change == "accept":
                return  # a file has one process: nothing is on its way
            await trio.sleep(0.2 if storage.shared else 0)
            count = journal.members.changed.count
            match change:
                case "join":
                    await other.members.renew(replace(NODE_2, instance="n3/3"), 3.0)
                case "drain":
                    await other.members.set_drained("n1", True)
                case "take":
                    await journal.projections.release(lease)
                    await other.projections.take_all("n2/2", [TALLY], 1.0)
                case "pause":
                    await other.projections.set_paused("tally", True)
                case "hand_over":
                    await other.projections.hand_over([(lease, "n2/2")])
                case "accept":
                    await other.projections.accept("n2/2")
                case "leave":
                    await other.members.leave("n1/1", {TALLY: "n2/2"})
            with trio.fail_after(5):
                while journal.members.changed.count == count:
                    await journal.members.changed.wait_beyond(count, 0.05)


class TestLeases:
    """A lease of a member holds as long as the member does, whatever its own length."""

    async def test_a_members_range_is_kept_without_being_renewed(self, storage: Storage, journal: Journal) -> None:
        if not journal.members.holds_leases:
            return
        await journal.members.renew(NODE_1, 60.0)
        lease = await take(journal)
        await storage.pass_time(0.1)
        assert await journal.projections.acquire("tally", ALL_SLICES, "n2/2", 60) is None
        assert await journal.projections.take_all("n2/2", [TALLY], 60) == []
        [row] = await journal.projections.rows()
        assert row.lease_left_s > 50
        assert not await is_fenced(journal, lease)

    async def test_a_dead_members_leases_are_free(self, storage: Storage, journal: Journal) -> None:
        await journal.members.renew(NODE_1, 0.1)
        held = await journal.leases.acquire("retention", "n1/1", 0.1)
        lease = await journal.projections.commit(await take(journal), 5, [], 0.1)
        await storage.pass_time(0.2)
        assert [row.left_s for row in await journal.leases.rows()] == [0.0]
        taken = await journal.leases.acquire("retention", "n2/2", 60)
        assert held is not None
        assert taken is not None
        assert taken.epoch > held.epoch
        assert await journal.projections.take_all("n2/2", [TALLY], 60) == [TALLY]
        [row] = await journal.projections.rows()
        assert (row.owner, row.position) == ("n2/2", 5)
        assert row.epoch > lease.epoch
        assert await is_fenced(journal, lease)

    async def test_a_member_whose_row_is_of_a_clock_that_has_stepped_back_keeps_nobody_out(
        self, storage: Storage, journal: Journal
    ) -> None:
        if isinstance(storage, PostgresStorage):
            await journal.members.renew(NODE_1, 3.0)
            await take(journal)
            later = "UPDATE backhaul.member SET renewed_at = renewed_at + '1 h', lease_until = lease_until + '1 h'"
            await journal.projections.migrate("step", [[later]])
        else:
            storage.clock.advance(3_600.0)
            await journal.members.renew(NODE_1, 3.0)
            await take(journal)
            storage.clock.advance(-3_600.0)
        assert not (await member(journal, "n1/1")).is_live
        assert await journal.projections.acquire("tally", ALL_SLICES, "n2/2", 60) is not None

    async def test_a_member_declared_dead_keeps_no_other_lease(self, journal: Journal) -> None:
        if not journal.members.holds_leases:
            return
        await journal.members.renew(NODE_1, 60.0)
        await journal.leases.acquire("retention", "n1/1", 60)
        await take(journal)
        assert await journal.leases.acquire("retention", "n2/2", 60) is None
        await journal.members.declare_dead(await member(journal, "n1/1"))
        assert await journal.leases.acquire("retention", "n2/2", 60) is not None
        assert await journal.projections.acquire("tally", ALL_SLICES, "n2/2", 60) is not None


class TestRanges:
    """Taken together, handed over one by one or all at once; each time with a new epoch."""

    async def test_those_that_are_free_are_taken_together(self, journal: Journal) -> None:
        first, second, third, fourth = slice_ranges(4)
        await journal.projections.declare("tally", slice_ranges(4))
        await journal.projections.declare("paused", [ALL_SLICES])
        await journal.projections.set_paused("paused", True)
        await journal.projections.acquire("tally", second, "other", 60)
        await journal.projections.acquire("tally", third, "n1/1", 60)
        before = {row.key: row.epoch for row in await journal.projections.rows()}
        wanted = [("tally", slices) for slices in (first, second, third)]
        taken = await journal.projections.take_all("n1/1", [*wanted, ("paused", ALL_SLICES), ("x", ALL_SLICES)], 60)
        assert taken == [("tally", first)]
        rows = {row.key: row for row in await journal.projections.rows()}
        assert rows["tally", first].epoch == before["tally", first] + 1
        assert rows["tally", first].owner == "n1/1"
        assert rows["tally", fourth].owner == ""
        lease = await journal.projections.acquire("tally", first, "n1/1", 60)
        assert lease is not None
        assert lease.epoch == rows["tally", first].epoch

    async def test_a_range_that_was_handed_over_is_its_successors(self, storage: Storage, journal: Journal) -> None:
        await journal.members.renew(NODE_2, 60.0)
        old = await journal.projections.commit(await take(journal), 9, [], 60)
        await journal.projections.hand_over([(old, "n2/2")])
        assert await is_fenced(journal, old)
        [row] = await journal.projections.rows()
        assert (row.owner, row.epoch, row.position) == ("n2/2", old.epoch + 1, 9)
        if storage.shared:
            assert row.is_directed
            assert row.stayed_s < 5
            assert await journal.projections.acquire("tally", ALL_SLICES, "n1/1", 60) is None
        new = await take(journal, "n2/2")
        assert (new.epoch, new.position) == (old.epoch + 1, 9)
        assert not (await journal.projections.rows())[0].is_directed
        assert not await is_fenced(journal, new)

    async def test_several_go_in_one_statement_and_their_successor_accepts_them_in_another(
        self, storage: Storage, journal: Journal
    ) -> None:
        first, second, third, _ = slice_ranges(4)
        await journal.projections.declare("tally", slice_ranges(4))
        await journal.members.renew(NODE_1, 60.0)
        await journal.members.renew(NODE_2, 60.0)
        keys = [("tally", slices) for slices in (first, second, third)]
        await journal.projections.take_all("n1/1", keys, 60)
        leases = [await journal.projections.acquire(*key, "n1/1", 60) for key in keys]
        moves = list(zip(filter(None, leases), ("n2/2", "n2/2", "n3/3"), strict=True))
        await journal.projections.hand_over(moves)
        rows = {row.key: row for row in await journal.projections.rows()}
        assert [rows[key].owner for key in keys] == ["n2/2", "n2/2", "n3/3"]
        assert [rows[key].epoch for key in keys] == [lease.epoch + 1 for lease, _ in moves]
        await journal.projections.accept("n2/2")
        accepted = {row.key: row for row in await journal.projections.rows()}
        assert [accepted[key].epoch for key in keys] == [rows[key].epoch for key in keys]
        if storage.shared:
            assert [accepted[key].is_directed for key in keys] == [False, False, True]

    async def test_one_that_is_fenced_or_paused_hands_nothing_over(self, journal: Journal) -> None:
        old = await take(journal)
        await journal.projections.set_paused("tally", True)
        await journal.projections.hand_over([(old, "n2/2")])
        await journal.projections.hand_over([(replace(old, epoch=old.epoch + 1), "n2/2")])
        assert [row.owner for row in await journal.projections.rows()] == ["n1/1"]

    async def test_one_that_leaves_hands_over_all_it_has(self, storage: Storage, journal: Journal) -> None:
        first, second, third = slice_ranges(4)[:3]
        await journal.projections.declare("tally", slice_ranges(4))
        await journal.members.renew(NODE_1, 60.0)
        await journal.members.renew(NODE_2, 60.0)
        keys = [("tally", slices) for slices in (first, second, third)]
        await journal.projections.take_all("n1/1", keys[:2], 60)
        await journal.projections.take_all("other", keys[2:], 60)
        leases = [await journal.projections.acquire(*key, "n1/1", 60) for key in keys[:2]]
        assert await journal.members.leave("n1/1", {keys[0]: "n2/2", keys[2]: "n2/2"}) == 2
        owners = {row.key: row.owner for row in await journal.projections.rows()}
        assert [owners[key] for key in keys] == ["n2/2", "", "other"]
        assert [await is_fenced(journal, lease) for lease in leases if lease] == [True, True]
        assert [one.instance for one in (await journal.members.look()).members] == ["n2/2"]
        assert [row.lease_left_s > 0 for row in await journal.projections.rows()][2]
        if storage.shared:
            directed = {row.key: row.is_directed for row in await journal.projections.rows()}
            assert [directed[key] for key in keys] == [True, False, False]
