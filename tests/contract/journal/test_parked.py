"""What every journal promises about events of others that do not fit: set aside in order, tried again, discarded."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError
from common.core.events.stated_range import StatedRange
from common.core.journal.append import AppendRefused, OriginBlocked, ParkedEvent, Pushed
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import Origin, append, appended, head_of, local, seq_nrs, stated, whole_log


class TestParking:
    """Refused events are set aside with code and payload; the position moves on, other entities flow."""

    async def test_a_gap_is_parked_and_later_events_of_the_entity_queue_behind_it(
        self, storage: Storage, journal: Journal, edge: Origin
    ) -> None:
        outcome = await edge.push(journal, ("A|1", 4), ("A|2", 1), ("A|1", 5), payload=b"kept")
        assert outcome == Pushed(
            5, 1, (ParkedEvent(3, "A|1", 4, "parked.gap"), ParkedEvent(5, "A|1", 5, "parked.behind"))
        )
        assert (await edge.push(journal, ("A|1", 6))).parked == (ParkedEvent(6, "A|1", 6, "parked.behind"),)
        rows = await journal.parked.rows()
        assert [(row.origin_id, row.code, row.event.seq_nr) for row in rows] == [
            ("edge-1", "parked.gap", 4),
            ("edge-1", "parked.behind", 5),
            ("edge-1", "parked.behind", 6),
        ]
        assert rows[0].parked_us == storage.clock.us
        event = rows[0].event
        assert (event.position, event.persistence_id, event.prev_seq_nr, event.payload) == (3, "A|1", 3, b"kept0")
        assert (event.event_type, event.codec, event.tags) == ("happened", "json", ())
        assert (await head_of(journal, "A|1")).parked == 3
        assert (await journal.log.stats()).parked == 3
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2), ("A|2", 1)]

    @pytest.mark.parametrize(
        ("row", "code"),
        [
            (("A|1", 4), "parked.gap"),
            (("A|1", 3, 1), "parked.gap"),
            (("A|1", 4, 2), "parked.gap"),
            (("A|1", 2), "parked.conflict"),
            (("A|1", 1), "parked.conflict"),
            (("B|1", 2), "parked.gap"),
            (("L|1", 2), "parked.foreign_owner"),
        ],
    )
    async def test_what_does_not_follow_is_parked_with_its_reason(
        self, journal: Journal, edge: Origin, row: tuple[str, int], code: str
    ) -> None:
        await appended(journal, local("L|1"))
        outcome = await edge.push(journal, row)
        assert outcome == Pushed(3, 0, (ParkedEvent(3, row[0], row[1], code),))
        # The next entity in line is not concerned.
        assert (await edge.push(journal, ("N|1", 1))).stored == 1

    async def test_poison_is_parked_with_its_own_code(self, journal: Journal, edge: Origin) -> None:
        outcome = await edge.push(journal, ("A|1", 3), ("A|2", 1), ("A|1", 4), poison={0: "events.too_large"})
        assert outcome == Pushed(
            5, 1, (ParkedEvent(3, "A|1", 3, "events.too_large"), ParkedEvent(5, "A|1", 4, "parked.behind"))
        )

    async def test_nothing_overtakes_a_parked_event_even_where_its_number_would_fit(
        self, journal: Journal, edge: Origin
    ) -> None:
        await edge.push(journal, ("A|1", 3), poison={0: "events.invalid"})
        outcome = await edge.push(journal, ("A|1", 3))
        assert outcome == Pushed(4, 0, (ParkedEvent(4, "A|1", 3, "parked.behind"),))

    async def test_entities_belong_to_the_first_origin_that_pushed_them(self, journal: Journal, edge: Origin) -> None:
        other = Origin("edge-2")
        await other.dial(journal)
        outcome = await other.push(journal, ("A|1", 3), ("A|1", 4))
        assert [parked.code for parked in outcome.parked] == ["parked.foreign_owner"] * 2
        # It is the intruder's trouble only.
        assert (await head_of(journal, "A|1")).parked == 0
        assert (await edge.push(journal, ("A|1", 3))).stored == 1
        assert isinstance(await append(journal, local("A|1")), AppendRefused)
        refused = await append(journal, local("A|1", expected={"A|1": 3}))
        assert isinstance(refused, AppendRefused)
        assert (refused.code, refused.persistence_id) == ("append.foreign_owner", "A|1")

    async def test_an_entity_this_service_wrote_is_its_own(self, journal: Journal, edge: Origin) -> None:
        await appended(journal, local("L|1"))
        outcome = await edge.push(journal, ("L|1", 1), ("L|1", 2))
        assert [parked.code for parked in outcome.parked] == ["parked.foreign_owner"] * 2
        assert (await appended(journal, local("L|1", expected={"L|1": 1}))).seq_nr == [2]

    async def test_a_full_quota_blocks_the_origin_and_stores_nothing(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 9), ("A|1", 10), parked_max=3)
        batch = edge.batch(("A|2", 1), ("A|1", 11), ("A|1", 12), parked_max=3)
        assert await append(journal, batch) == OriginBlocked(2, 3)
        assert await journal.log.entity_head("A|2") is None
        assert (await journal.origins.rows())[0].stored.position == edge.position
        # What parks nothing, and what still fits, goes on; another origin has a quota of its own.
        assert await edge.push(journal, ("A|2", 1), parked_max=2) == Pushed(5, 1)
        assert len((await edge.push(journal, ("A|1", 11), parked_max=3)).parked) == 1
        other = Origin("edge-2")
        await other.dial(journal)
        assert len((await other.push(journal, ("A|1", 1), parked_max=1)).parked) == 1

    async def test_parked_rows_are_listed_in_pages(self, journal: Journal, edge: Origin) -> None:
        other = Origin("edge-2")
        await other.dial(journal)
        await edge.push(journal, ("A|1", 9), ("A|1", 10))
        await other.push(journal, ("A|1", 1))
        rows = await journal.parked.rows()
        assert [row.origin_id for row in rows] == ["edge-1", "edge-1", "edge-2"]
        assert sorted(row.id for row in rows) == [row.id for row in rows]
        assert await journal.parked.rows(origin_id="edge-2") == rows[2:]
        assert await journal.parked.rows(max_rows=1) == rows[:1]
        assert await journal.parked.rows(after_id=rows[0].id, max_rows=1) == rows[1:2]
        assert await journal.parked.row(rows[1].id) == rows[1]
        assert await journal.parked.row(10_000) is None

    async def test_parked_events_survive_a_restart(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            await edge.push(journal, ("A|1", 9))
            rows = await journal.parked.rows()
        async with storage.open() as journal:
            assert await journal.parked.rows() == rows


class TestRetryAndDiscard:
    """What an operator can do with parked events."""

    @pytest.fixture
    async def edge(self, journal: Journal) -> Origin:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        return edge

    async def test_events_behind_a_discarded_one_are_stored_by_a_retry(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 2), ("A|1", 3), ("A|1", 4), poison={0: "events.invalid"}, payload=b"p")
        first, second, _ = await journal.parked.rows()
        with pytest.raises(BackhaulError) as refused:
            await journal.parked.discard(second.id)
        assert refused.value.code == "parked.not_first"
        assert await journal.parked.discard(first.id)
        assert not await journal.parked.discard(first.id)
        assert await stated(journal, "A|1") == [StatedRange("A|1", 2, 2, "discarded")]
        assert (await head_of(journal, "A|1")).parked == 2

        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr, log.payload[1:]) == ([1, 2, 3], [1, 3, 4], [b"p1", b"p2"])
        assert await journal.parked.rows() == []
        assert (await journal.log.stats()).parked == 0
        assert (await head_of(journal, "A|1")).parked == 0
        assert journal.log.head_signal.position == 3
        assert (await edge.push(journal, ("A|1", 5))).stored == 1

    async def test_a_gap_stays_until_it_is_accepted(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 4), ("A|1", 5), ("A|1", 8))
        assert await journal.parked.retry("A|1", accept_gap=False) == (0, "parked.gap")
        assert len(await journal.parked.rows()) == 3
        # One decision accepts one gap.
        assert await journal.parked.retry("A|1", accept_gap=True) == (2, "parked.gap")
        assert await stated(journal, "A|1") == [StatedRange("A|1", 2, 3, "accepted")]
        assert await journal.parked.retry("A|1", accept_gap=True) == (1, "")
        assert await stated(journal, "A|1") == [
            StatedRange("A|1", 2, 3, "accepted"),
            StatedRange("A|1", 6, 7, "accepted"),
        ]
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr) == ([1, 2, 3, 4], [1, 4, 5, 8])

    async def test_poison_that_fits_is_stored_when_an_operator_retries_it(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 2), ("A|1", 3), poison={0: "events.too_large"})
        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2), ("A|1", 3)]

    async def test_a_range_stated_while_events_are_parked_is_passed_over_after_them(
        self, journal: Journal, edge: Origin
    ) -> None:
        """The sender counts a range from 1: it deleted what it had sent, and more."""
        await edge.push(journal, ("A|1", 2), ("A|1", 3), poison={0: "events.invalid"})
        await edge.push(journal, ranges=[StatedRange("A|1", 1, 9, "dropped")], withheld=6)
        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")
        assert (await edge.push(journal, ("A|1", 10))).stored == 1

    async def test_a_range_stated_while_an_event_is_parked_is_passed_over_when_that_is_discarded(
        self, journal: Journal, edge: Origin
    ) -> None:
        await edge.push(journal, ("A|1", 2), poison={0: "events.invalid"})
        await edge.push(journal, ranges=[StatedRange("A|1", 1, 9, "dropped")], withheld=7)
        assert await journal.parked.discard((await journal.parked.rows())[0].id)
        assert (await edge.push(journal, ("A|1", 10))).stored == 1

    async def test_a_conflict_can_only_be_discarded(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        assert await journal.parked.retry("A|1", accept_gap=True) == (0, "parked.conflict")
        assert await journal.parked.discard((await journal.parked.rows())[0].id)
        assert await journal.parked.retry("A|1", accept_gap=False) == (1, "")
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2)]

    async def test_discarding_after_a_gap_does_not_hide_the_gap(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 4), ("A|1", 5))
        assert await journal.parked.discard((await journal.parked.rows())[0].id)
        assert await journal.parked.retry("A|1", accept_gap=False) == (0, "parked.gap")
        assert await journal.parked.retry("A|1", accept_gap=True) == (1, "")

    async def test_another_origins_events_have_a_queue_of_their_own(self, journal: Journal, edge: Origin) -> None:
        other = Origin("edge-2")
        await other.dial(journal)
        await other.push(journal, ("A|1", 1))
        await edge.push(journal, ("A|1", 2), poison={0: "events.invalid"})
        foreign, own = await journal.parked.rows()
        assert await journal.parked.retry("A|1", accept_gap=False) == (1, "")
        assert await journal.parked.rows() == [foreign]
        assert await journal.parked.retry("A|1", accept_gap=True) == (0, "parked.foreign_owner")
        assert own.event.seq_nr == 2
        assert await journal.parked.discard(foreign.id)
        head = await head_of(journal, "A|1")
        assert (head.seq_nr, head.origin_seq_nr, head.parked) == (2, 2, 0)

    async def test_nothing_parked_is_no_error(self, journal: Journal, edge: Origin) -> None:
        assert await journal.parked.retry("A|1", accept_gap=True) == (0, "")
        assert await journal.parked.retry("X|9", accept_gap=True) == (0, "")
        assert not await journal.parked.discard(77)

    async def test_a_quota_has_room_again_after_a_discard(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 9), parked_max=1)
        assert await append(journal, edge.batch(("A|1", 10), parked_max=1)) == OriginBlocked(1, 1)
        await journal.parked.discard((await journal.parked.rows())[0].id)
        assert len((await edge.push(journal, ("A|1", 10), parked_max=1)).parked) == 1
        assert await journal.parked.retry("A|1", accept_gap=True) == (1, "")
        assert len((await edge.push(journal, ("A|2", 10), parked_max=1)).parked) == 1
