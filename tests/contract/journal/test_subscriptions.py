"""What every journal promises to subscriptions: place and effect together or not at all, one consumer, a bounded inbox."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.lowlevel

from common.core.errors import BackhaulError
from common.core.events.stated_range import StatedRange
from common.core.journal.statement import Statement
from common.core.subscription.place import NO_FILTER, NO_RESUME_POINT, FilterState, LogCursor, ResumePoint, SnapshotScan
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import InboxStats, ReceivedCommit, lease_name
from tests.contract.journals import Storage
from tests.support.builders import events
from tests.support.subscription.received import NAME, at, commit, refused, stretch, take

HERE = ResumePoint(
    "cloud-1",
    "g1",
    LogCursor(12, "d12", 99),
    FilterState(1, '[{"exclude_all":true}]'),
    LogCursor(5, scan=SnapshotScan(12, 3, "Order|ä")),
    FilterState(2, "[]"),
    12,
)


def brought(
    *ids: str,
    position: int = 0,
    payload: bytes = b"{}",
    leaving: frozenset[int] = frozenset(),
    replaces: frozenset[int] = frozenset(),
) -> ReceivedCommit:
    """A commit that brings events of these entities into the inbox."""
    batch = events(*ids, payload=payload)
    batch.position = list(range(position + 1, position + 1 + len(ids)))
    batch.seq_nr = [7 + index for index in range(len(ids))]
    batch.prev_seq_nr = [6 + index for index in range(len(ids))]
    batch.tags = ["t:site/1\x1fred"] * len(ids)
    batch.metadata = ["k\x1fv"] * len(ids)
    return ReceivedCommit(at(position + len(ids)), inbox=batch, received=len(ids), leaving=leaving, replaces=replaces)


async def inbox_ids(journal: Journal, after: int = 0, name: str = NAME) -> list[int]:
    return [row.id for row in await journal.subscriptions.inbox(name, after, max_rows=100, max_bytes=10**6)]


class TestState:
    """The stored place is the one that was committed last, with all that belongs to it."""

    async def test_it_is_nowhere_before_the_first_commit(self, journal: Journal) -> None:
        assert await journal.subscriptions.get(NAME) is None
        assert await journal.subscriptions.rows() == []
        assert await journal.subscriptions.known(NAME, ["Order|1"]) == {}
        assert await journal.subscriptions.awaiting(NAME, 10) == []
        assert await inbox_ids(journal) == []
        assert await journal.subscriptions.inbox_stats(NAME) == InboxStats(0, 0, 0, 0, 0)

    async def test_a_commit_stores_place_and_numbers_and_counts(self, storage: Storage) -> None:
        async with storage.open() as journal:
            lease = await take(journal)
            first = ReceivedCommit(at(3), {"Order|1": 4, "Order|2": 1}, received=5)
            assert await commit(journal, lease, 0, first) == 1
            second = ReceivedCommit(HERE, {"Order|1": 6, "Order|ä": 2}, received=2)
            assert await commit(journal, lease, 1, second) == 2
        async with storage.open() as journal:
            [state] = await journal.subscriptions.rows()
            assert state == await journal.subscriptions.get(NAME)
            assert (state.name, state.place, state.requested) == (NAME, HERE, NO_FILTER)
            assert (state.revision, state.received, state.updated_us) == (2, 7, storage.clock())
            asked = ["Order|1", "Order|3", "Order|ä", "Order|1"]
            assert await journal.subscriptions.known(NAME, asked) == {"Order|1": 6, "Order|ä": 2}
            assert await journal.subscriptions.known("other", asked) == {}

    async def test_entities_that_wait_for_a_replay_are_told_until_they_do_not(self, journal: Journal) -> None:
        lease = await take(journal)
        waiting = ReceivedCommit(at(1), {"Order|1": 4}, {"Order|2": True, "Order|1": True})
        await commit(journal, lease, 0, waiting)
        assert await journal.subscriptions.awaiting(NAME, 10) == [("Order|1", 4), ("Order|2", 0)]
        assert await journal.subscriptions.awaiting(NAME, 1) == [("Order|1", 4)]
        await commit(journal, lease, 1, ReceivedCommit(at(1), {"Order|1": 9}, {"Order|1": False}))
        assert await journal.subscriptions.awaiting(NAME, 10) == [("Order|2", 0)]
        assert await journal.subscriptions.known(NAME, ["Order|1"]) == {"Order|1": 9}
        assert await journal.subscriptions.awaiting("other", 10) == []

    async def test_what_sources_had_deleted_is_kept_by_entity(self, storage: Storage) -> None:
        def gone(*ranges: tuple[str, int, int]) -> list[StatedRange]:
            return [StatedRange(name, first, last, "trimmed") for name, first, last in ranges]

        async with storage.open() as journal:
            lease, other = await take(journal), await take(journal, name="other")
            assert await journal.subscriptions.deleted_of("Order|1") == []
            what = gone(("Order|1", 1, 2), ("Order|2", 1, 9), ("Order|1", 3, 3))
            await commit(journal, lease, 0, ReceivedCommit(at(1), deleted=what))
            await commit(journal, other, 0, ReceivedCommit(at(1), deleted=gone(("Order|1", 1, 7))), "other")
        async with storage.open() as journal:
            found = await journal.subscriptions.deleted_of("Order|1")
            assert found == list(zip([NAME, "other"], gone(("Order|1", 1, 3), ("Order|1", 1, 7)), strict=True))
            await commit(journal, lease, 1, ReceivedCommit(at(2), deleted=gone(("Order|1", 4, 5), ("Order|2", 12, 13))))
            assert (await journal.subscriptions.deleted_of("Order|1"))[0] == (NAME, *gone(("Order|1", 1, 5)))
            assert await journal.subscriptions.deleted_of("Order|2") == [(NAME, *gone(("Order|2", 12, 13)))]
            assert await journal.subscriptions.restart(NAME, lease)
            await journal.subscriptions.forget("other")
            assert await journal.subscriptions.deleted_of("Order|1") == []
            assert await journal.subscriptions.deleted_of("Order|2") == []

    async def test_a_wanted_filter_gets_a_version_when_it_is_another(self, journal: Journal) -> None:
        assert await journal.subscriptions.set_requested(NAME, "[1]") == FilterState(1, "[1]")
        assert await journal.subscriptions.set_requested(NAME, "[1]") == FilterState(1, "[1]")
        assert await journal.subscriptions.set_requested(NAME, "[2]") == FilterState(2, "[2]")
        assert await journal.subscriptions.set_requested("another", "") == NO_FILTER
        state = await journal.subscriptions.get(NAME)
        assert state is not None
        assert (state.place, state.revision, state.requested) == (NO_RESUME_POINT, 0, FilterState(2, "[2]"))
        # A consumer in the middle of its work is not disturbed by it.
        assert await commit(journal, await take(journal), 0, ReceivedCommit(HERE)) == 1
        assert await journal.subscriptions.set_requested(NAME, "[3]") == FilterState(3, "[3]")
        assert await commit(journal, await take(journal), 1, ReceivedCommit(at(20))) == 2
        state = await journal.subscriptions.get(NAME)
        assert state is not None
        assert state.requested == FilterState(3, "[3]")

    async def test_a_first_filter_does_not_replace_what_was_asked_for_meanwhile(self, journal: Journal) -> None:
        assert await journal.subscriptions.set_requested(NAME, "[2]", if_new=True) == FilterState(1, "[2]")
        assert await journal.subscriptions.set_requested(NAME, "[3]", if_new=True) == FilterState(1, "[2]")
        await commit(journal, await take(journal, name="other"), 0, ReceivedCommit(HERE), "other")
        assert await journal.subscriptions.set_requested("other", "[2]", if_new=True) == NO_FILTER
        assert await journal.subscriptions.set_requested("other", "[2]") == FilterState(1, "[2]")

    async def test_forgetting_leaves_nothing_and_fences_who_still_runs(self, journal: Journal) -> None:
        lease, other = await take(journal), await take(journal, name="other")
        await commit(journal, lease, 0, replace(brought("Order|1"), known={"Order|1": 7}))
        await commit(journal, other, 0, brought("Order|1"), "other")
        assert await journal.subscriptions.forget(NAME)
        assert not await journal.subscriptions.forget(NAME)
        assert [state.name for state in await journal.subscriptions.rows()] == ["other"]
        assert await journal.subscriptions.known(NAME, ["Order|1"]) == {}
        assert await inbox_ids(journal) == []
        assert await inbox_ids(journal, name="other") == [1]
        assert await refused(journal, lease, 1, brought("Order|1")) == "lease.fenced"
        assert await commit(journal, await take(journal), 0, brought("Order|1")) == 1
        assert await inbox_ids(journal) == [1]

    async def test_beginning_anew_keeps_the_wanted_filter_and_the_inbox(self, storage: Storage) -> None:
        async with storage.open() as journal:
            lease, other = await take(journal), await take(journal, name="other")
            assert not await journal.subscriptions.restart(NAME, lease)
            await journal.subscriptions.set_requested(NAME, "[1]")
            await journal.subscriptions.set_requested(NAME, "[2]")
            numbers = {"Order|1": 7, "Order|2": 8}
            waiting = replace(brought("Order|1", "Order|2"), known=numbers, awaiting={"Order|3": True})
            await commit(journal, lease, 0, waiting)
            await commit(journal, other, 0, brought("Order|1"), "other")
            assert await journal.subscriptions.ack_inbox(NAME, 1) == 1
            before = await journal.subscriptions.inbox_stats(NAME)
            assert await journal.subscriptions.restart(NAME, lease)
            assert await refused(journal, lease, 1, brought("Order|1")) == "subscription.out_of_step"
        async with storage.open() as journal:
            state = await journal.subscriptions.get(NAME)
            assert state is not None
            assert (state.place, state.requested, state.revision) == (NO_RESUME_POINT, FilterState(2, "[2]"), 2)
            assert state.received == 2
            assert await journal.subscriptions.known(NAME, list(numbers)) == {}
            assert await journal.subscriptions.awaiting(NAME, 10) == []
            assert await journal.subscriptions.inbox_stats(NAME) == before
            assert (before.rows, before.acked_id) == (1, 1)
            assert await inbox_ids(journal, name="other") == [1]
            assert await commit(journal, await take(journal), 2, brought("Order|1")) == 3
            assert await inbox_ids(journal) == [2, 3]
            assert await journal.subscriptions.ack_inbox(NAME, 3) == 2
            assert await journal.subscriptions.inbox_stats(NAME) == InboxStats(0, 0, 4, 3, 3)

    async def test_only_who_holds_the_lease_begins_anew(self, storage: Storage, journal: Journal) -> None:
        old = await take(journal, lease_s=0.05)
        await storage.pass_time(0.1)
        await commit(journal, await take(journal, "edge-2"), 0, brought("Order|1"))
        with pytest.raises(BackhaulError, match=r"lease\.fenced"):
            await journal.subscriptions.restart(NAME, old)
        assert await inbox_ids(journal) == [1]

    async def test_its_lease_is_no_projection(self, journal: Journal) -> None:
        await take(journal)
        assert await journal.projections.rows() == []


class TestGuards:
    """One consumer writes, each of its commits goes on from the one before, and what fails leaves no trace."""

    async def test_a_repeat_after_an_unknown_outcome_changes_nothing(self, journal: Journal) -> None:
        lease = await take(journal)
        what = replace(brought("Order|1"), known={"Order|1": 7})
        await commit(journal, lease, 0, what)
        assert await refused(journal, lease, 0, what) == "subscription.out_of_step"
        state = await journal.subscriptions.get(NAME)
        assert state is not None
        assert (state.revision, state.received) == (1, 1)
        assert await inbox_ids(journal) == [1]

    async def test_a_revision_that_is_not_there_yet_is_out_of_step(self, journal: Journal) -> None:
        assert await refused(journal, await take(journal), 1, brought("Order|1")) == "subscription.out_of_step"
        assert await journal.subscriptions.get(NAME) is None

    async def test_who_lost_the_lease_is_fenced(self, storage: Storage, journal: Journal) -> None:
        old = await take(journal, lease_s=0.05)
        await storage.pass_time(0.1)
        new = await take(journal, "edge-2")
        assert new.epoch > old.epoch
        assert await refused(journal, old, 0, brought("Order|1")) == "lease.fenced"
        assert await journal.subscriptions.get(NAME) is None
        assert await commit(journal, new, 0, brought("Order|1")) == 1

    async def test_a_commit_renews_the_lease(self, storage: Storage, journal: Journal) -> None:
        lease = await take(journal, lease_s=0.05)
        await commit(journal, lease, 0, brought("Order|1"))
        await storage.pass_time(0.1)
        assert await journal.leases.acquire(lease_name(NAME), "edge-2", 60) is None

    async def test_two_consumers_at_once_store_it_once(self, storage: Storage) -> None:
        if not storage.shared:
            return
        async with storage.open() as one, storage.open() as two:
            lease = await take(one)
            codes: list[str] = []

            async def try_it(journal: Journal) -> None:
                try:
                    await commit(journal, lease, 0, brought("Order|1"))
                except BackhaulError as error:
                    codes.append(error.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(try_it, one)
                nursery.start_soon(try_it, two)
            assert codes == ["subscription.out_of_step"]
            assert await inbox_ids(one) == [1]

    async def test_a_failing_statement_takes_everything_back(self, journal: Journal) -> None:
        lease = await take(journal)
        await journal.projections.migrate("orders", [["CREATE TABLE seen (name TEXT PRIMARY KEY)"]])
        insert = Statement("INSERT INTO seen VALUES ($1)", [("Order|1",)])
        good = replace(brought("Order|1"), known={"Order|1": 7}, awaiting={"Order|2": True}, statements=[insert])
        await commit(journal, lease, 0, good)
        again = replace(brought("Order|1", position=1), known={"Order|1": 8}, statements=[insert])
        appending = replace(again, append=stretch(("Order|9", 1)))
        assert await refused(journal, lease, 1, appending) == "projection.statement_failed"
        state = await journal.subscriptions.get(NAME)
        assert state is not None
        assert (state.revision, state.place) == (1, at(1))
        assert await journal.subscriptions.known(NAME, ["Order|1"]) == {"Order|1": 7}
        assert await inbox_ids(journal) == [1]
        assert await journal.log.entity_head("Order|9") is None
        # and what it had touched can be stored by the next commit
        assert await commit(journal, lease, 1, replace(appending, statements=[])) == 2
        assert await journal.projections.query("SELECT name FROM seen") == [("Order|1",)]
        assert (await journal.log.stats()).head_position == 1


class TestInbox:
    """Rows have dense numbers of their own, come in order, and are gone when they are acknowledged."""

    async def test_rows_are_the_events_as_the_source_numbered_them(self, journal: Journal) -> None:
        lease = await take(journal)
        what = brought("Order|1", "Order|2", "Order|3", position=40, leaving=frozenset({1}), replaces=frozenset({2}))
        assert what.inbox is not None
        await commit(journal, lease, 0, what)
        rows = await journal.subscriptions.inbox(NAME, 0, max_rows=10, max_bytes=10**6)
        assert [row.event for row in rows] == list(what.inbox.envelopes())
        assert rows[0].event.tags == ("t:site/1", "red")
        assert [(row.id, row.leaving, row.replaces) for row in rows] == [
            (1, False, False),
            (2, True, False),
            (3, False, True),
        ]

    async def test_numbers_are_dense_for_each_inbox_and_never_used_twice(self, journal: Journal) -> None:
        lease, other = await take(journal), await take(journal, name="other")
        await commit(journal, lease, 0, brought("Order|1", "Order|2"))
        await commit(journal, other, 0, brought("Order|1"), "other")
        await commit(journal, lease, 1, ReceivedCommit(at(9)))
        assert await journal.subscriptions.ack_inbox(NAME, 2) == 2
        await commit(journal, lease, 2, brought("Order|3"))
        assert await inbox_ids(journal) == [3]
        assert await inbox_ids(journal, name="other") == [1]

    async def test_pages_keep_to_rows_and_bytes_but_always_have_one(self, journal: Journal) -> None:
        await commit(journal, await take(journal), 0, brought(*["Order|1"] * 5, payload=b"x" * 999))

        async def page(after: int, max_rows: int, max_bytes: int) -> list[int]:
            return [
                row.id for row in await journal.subscriptions.inbox(NAME, after, max_rows=max_rows, max_bytes=max_bytes)
            ]

        assert await page(0, 2, 10**6) == [1, 2]
        assert await page(2, 9, 10**6) == [3, 4, 5]
        assert await page(0, 9, 10) == [1]
        assert await page(0, 9, 2_500) == [1, 2]
        assert await page(5, 9, 10**6) == []
        assert await page(2**62, 9, 10**6) == []

    async def test_an_ack_frees_rows_and_is_told(self, journal: Journal) -> None:
        lease = await take(journal)
        await commit(journal, lease, 0, brought(*["Order|1"] * 5, payload=b"x" * 999))
        full = await journal.subscriptions.inbox_stats(NAME)
        assert (full.rows, full.first_id, full.last_id, full.acked_id) == (5, 1, 5, 0)
        assert full.bytes == 5 * (1_000 + 120)
        assert await journal.subscriptions.ack_inbox(NAME, 3) == 3
        assert await journal.subscriptions.ack_inbox(NAME, 3) == 0
        assert await journal.subscriptions.ack_inbox(NAME, 1) == 0
        assert await inbox_ids(journal) == [4, 5]
        assert await journal.subscriptions.inbox_stats(NAME) == InboxStats(2, 2 * 1_120, 4, 5, 3)
        assert await journal.subscriptions.ack_inbox(NAME, 5) == 2
        assert await journal.subscriptions.inbox_stats(NAME) == InboxStats(0, 0, 6, 5, 5)

    async def test_acks_while_rows_come_leave_the_count_of_bytes_right(self, journal: Journal) -> None:
        lease = await take(journal)
        is_over = False

        async def receive() -> None:
            nonlocal is_over
            for revision in range(40):
                await commit(journal, lease, revision, brought("Order|1", "Order|2"))
            is_over = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            while not is_over:
                await journal.subscriptions.ack_inbox(NAME, (await journal.subscriptions.inbox_stats(NAME)).last_id)
                await trio.lowlevel.checkpoint()
        await journal.subscriptions.ack_inbox(NAME, 80)
        assert await journal.subscriptions.inbox_stats(NAME) == InboxStats(0, 0, 81, 80, 80)

    async def test_an_ack_of_what_was_never_there_is_refused(self, journal: Journal) -> None:
        await commit(journal, await take(journal), 0, brought("Order|1"))
        for name, beyond in ((NAME, 2), ("other", 1)):
            with pytest.raises(BackhaulError) as error:
                await journal.subscriptions.ack_inbox(name, beyond)
            assert error.value.code == "inbox.ack_beyond"
        assert await inbox_ids(journal) == [1]

    async def test_a_full_inbox_refuses_until_an_ack_makes_room(self, journal: Journal) -> None:
        lease = await take(journal)
        big = brought("Order|1", payload=b"x" * 3_000)
        assert await commit(journal, lease, 0, big, inbox_max_bytes=1_000) == 1  # an empty one takes any
        assert await refused(journal, lease, 1, big, max_bytes=5_000) == "inbox.full"
        # without events it goes on
        assert await commit(journal, lease, 1, ReceivedCommit(at(7)), inbox_max_bytes=1_000) == 2
        await journal.subscriptions.ack_inbox(NAME, 1)
        assert await commit(journal, lease, 2, big, inbox_max_bytes=1_000) == 3
        assert await inbox_ids(journal) == [2]
