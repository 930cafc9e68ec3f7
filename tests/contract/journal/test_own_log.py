"""A subscription that brings events into the consumer's own log: judged, numbered and parked as any that are pushed."""

from __future__ import annotations

from collections.abc import Mapping

from common.core.events.stated_range import StatedRange
from common.core.journal.append import PushedAppend
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import ReceivedCommit
from tests.support.builders import local
from tests.support.subscription.received import NAME, at, commit, refused, stretch, take


class TestOwnLog:
    """In the commit that moves the subscription's place."""

    async def appended(self, journal: Journal, revision: int, append: PushedAppend) -> Mapping[str, object]:
        lease = await take(journal)
        await commit(journal, lease, revision, ReceivedCommit(at(revision + 1), append=append))
        log = (await journal.log.read(0, max_events=100, max_bytes=10**6)).events
        return {"ids": log.persistence_id, "seq_nr": log.seq_nr, "origin_seq_nr": log.origin_seq_nr}

    async def test_they_are_numbered_here_and_owned_by_the_source(self, journal: Journal) -> None:
        await journal.log.append_group([local("Sensor|1")])
        log = await self.appended(journal, 0, stretch(("Order|1", 1), ("Order|2", 1), ("Order|1", 2)))
        assert log["ids"] == ["Sensor|1", "Order|1", "Order|2", "Order|1"]
        log = await self.appended(journal, 1, stretch(("Order|1", 3)))
        assert log["seq_nr"] == [1, 1, 1, 2, 3]
        head = await journal.log.entity_head("Order|1")
        assert head is not None
        assert (head.owner, head.seq_nr, head.origin_seq_nr) == ("cloud", 3, 3)
        assert journal.log.head_signal.position == 5

    async def test_a_stated_range_lets_numbers_jump(self, journal: Journal) -> None:
        gone = StatedRange("Order|1", 1, 4, "snapshot")
        log = await self.appended(journal, 0, stretch(("Order|1", 5), ranges=[gone]))
        assert (log["seq_nr"], log["origin_seq_nr"]) == ([1], [5])
        assert [kept.stated for kept in await journal.origins.stored_ranges("Order|1")] == [gone]

    async def test_what_does_not_fit_is_parked_up_to_the_limit(self, journal: Journal) -> None:
        await journal.log.append_group([local("Sensor|1")])
        log = await self.appended(journal, 0, stretch(("Sensor|1", 2), ("Order|1", 1)))
        assert log["ids"] == ["Sensor|1", "Order|1"]
        assert [(row.code, row.event.seq_nr) for row in await journal.parked.rows()] == [("parked.foreign_owner", 2)]
        lease = await take(journal)
        more = ReceivedCommit(at(9), append=stretch(("Sensor|1", 3), parked_max=1))
        assert await refused(journal, lease, 1, more) == "subscription.blocked"
        state = await journal.subscriptions.get(NAME)
        assert state is not None
        assert state.revision == 1

    async def test_appending_goes_on_after_a_refused_commit(self, journal: Journal) -> None:
        lease = await take(journal)
        what = ReceivedCommit(at(1), append=stretch(("Order|1", 1)))
        assert await refused(journal, lease, 5, what) == "subscription.out_of_step"
        assert await journal.log.entity_head("Order|1") is None
        await journal.log.append_group([local("Order|1")])
        assert (await journal.log.read(0, max_events=9, max_bytes=10**6)).events.seq_nr == [1]
