"""What every journal promises about logs of others: pushed batches, ownership, parked events, stated ranges.

The rules are ``common.core.history`` and ``common.core.judge`` (tested there); here they meet rows, transactions and
restarts. PostgreSQL judges in SQL, so each rule has its case.
"""

from __future__ import annotations

import pytest
import trio

from common.core.append import (
    Appended,
    AppendRefused,
    Fenced,
    OriginBlocked,
    OutOfStep,
    ParkedEvent,
    Pushed,
    StatedRange,
)
from common.core.errors import BackhaulError
from common.core.judge import EntityHead
from common.journal.interface import Journal
from tests.contract.journals import Storage
from tests.support.builders import Origin, append, appended, local, seq_nrs, whole_log


async def head_of(journal: Journal, persistence_id: str) -> EntityHead:
    head = await journal.entity_head(persistence_id)
    assert head is not None
    return head


async def stated(journal: Journal, persistence_id: str) -> list[StatedRange]:
    return [kept.stated for kept in await journal.stored_ranges(persistence_id)]


class TestPushedBatches:
    """A batch is stored with the origin's position, or refused as a whole and changes nothing."""

    async def test_accepted_events_get_numbers_of_this_journal_and_keep_their_own(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await appended(journal, local("L|1"))
        outcome = await append(journal, edge.batch(("A|1", 1), ("A|2", 1), ("A|1", 2), payload=b"p"))
        assert outcome == Pushed(3, 3)
        log = await whole_log(journal)
        assert seq_nrs(log) == [("L|1", 1), ("A|1", 1), ("A|2", 1), ("A|1", 2)]
        assert log.origin_seq_nr == [0, 1, 1, 2]
        assert log.payload[1:] == [b"p0", b"p1", b"p2"]
        head = await head_of(journal, "A|1")
        assert (head.owner, head.seq_nr, head.origin_seq_nr, head.branch) == ("edge-1", 2, 2, 1)
        [state] = await journal.origins()
        assert state.stored == edge.batch(("A|1", 1), ("A|2", 1), ("A|1", 2)).through

    async def test_an_older_session_is_fenced(self, journal: Journal) -> None:
        edge, newer = Origin(), Origin(instance="process-2")
        await edge.dial(journal)
        await newer.dial(journal)
        assert await append(journal, edge.batch(("A|1", 1))) == Fenced(2)
        assert len(await whole_log(journal)) == 0
        assert await newer.push(journal, ("A|1", 1)) == Pushed(1, 1)

    async def test_an_origin_that_never_dialled_is_fenced(self, journal: Journal) -> None:
        assert await append(journal, Origin(session=1, branch=1).batch(("A|1", 1))) == Fenced(0)
        assert await journal.origins() == []

    async def test_a_batch_that_does_not_begin_at_the_stored_position_is_out_of_step(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        for begins_at in (0, 1, 3):
            edge.position = begins_at
            assert await append(journal, edge.batch(("A|1", 3))) == OutOfStep(2)
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2)]

    async def test_repeating_a_batch_whose_outcome_was_unknown_stores_it_once(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            batch = edge.batch(("A|1", 1), ("A|1", 2))
            await append(journal, batch)
            outcome = await append(journal, batch)
            assert outcome == OutOfStep(batch.through.position)
        async with storage.open() as journal:
            assert await append(journal, batch) == OutOfStep(2)
            assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2)]

    async def test_a_stretch_without_events_moves_the_position(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        assert await edge.push(journal, withheld=5) == Pushed(5, 0)
        assert (await edge.dial(journal)).state.stored.position == 5
        assert (await journal.stats()).head_position == 0

    async def test_pushes_and_appends_of_one_group_do_not_touch_each_other(self, journal: Journal) -> None:
        first, second, gone = Origin("edge-1"), Origin("edge-2"), Origin("edge-3")
        for edge in (first, second):
            await edge.dial(journal)
        outcomes = await journal.append_group(
            [
                first.batch(("A|1", 1), ("A|2", 3)),
                local("L|1", expected={"L|1": 4}),
                gone.batch(("C|1", 1)),
                second.batch(("B|1", 1)),
                local("L|2"),
            ]
        )
        assert outcomes[0] == Pushed(2, 1, (ParkedEvent(2, "A|2", 3, "parked.gap"),))
        assert isinstance(outcomes[1], AppendRefused)
        assert outcomes[2:] == [Fenced(0), Pushed(1, 1), Appended(3, [1])]
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("B|1", 1), ("L|2", 1)]

    async def test_a_cancelled_push_is_whole_or_absent(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        for number in range(1, 21):
            batch = edge.batch(("A|1", number), ("A|2", number), ("P|1", 2, 9))
            with trio.move_on_after(number * 0.000_2):
                await append(journal, batch)
            again = await append(journal, batch)
            assert isinstance(again, (Pushed, OutOfStep)), again
            assert again.position == batch.through.position
            edge.position = again.position
        wanted = [(name, number) for number in range(1, 21) for name in ("A|1", "A|2")]
        assert seq_nrs(await whole_log(journal)) == wanted
        assert [row.event.position for row in await journal.parked()] == [3 * number for number in range(1, 21)]


class TestParking:
    """Refused events are set aside with code and payload; the position moves on, other entities flow."""

    @pytest.fixture
    async def edge(self, journal: Journal) -> Origin:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        return edge

    async def test_a_gap_is_parked_and_later_events_of_the_entity_queue_behind_it(
        self, storage: Storage, journal: Journal, edge: Origin
    ) -> None:
        outcome = await edge.push(journal, ("A|1", 4), ("A|2", 1), ("A|1", 5), payload=b"kept")
        assert outcome == Pushed(
            5, 1, (ParkedEvent(3, "A|1", 4, "parked.gap"), ParkedEvent(5, "A|1", 5, "parked.behind"))
        )
        assert (await edge.push(journal, ("A|1", 6))).parked == (ParkedEvent(6, "A|1", 6, "parked.behind"),)
        rows = await journal.parked()
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
        assert (await journal.stats()).parked == 3
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
        assert await journal.entity_head("A|2") is None
        assert (await journal.origins())[0].stored.position == edge.position
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
        rows = await journal.parked()
        assert [row.origin_id for row in rows] == ["edge-1", "edge-1", "edge-2"]
        assert sorted(row.id for row in rows) == [row.id for row in rows]
        assert await journal.parked(origin_id="edge-2") == rows[2:]
        assert await journal.parked(max_rows=1) == rows[:1]
        assert await journal.parked(after_id=rows[0].id, max_rows=1) == rows[1:2]
        assert await journal.parked_row(rows[1].id) == rows[1]
        assert await journal.parked_row(10_000) is None

    async def test_parked_events_survive_a_restart(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            await edge.push(journal, ("A|1", 9))
            rows = await journal.parked()
        async with storage.open() as journal:
            assert await journal.parked() == rows


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
        first, second, _ = await journal.parked()
        with pytest.raises(BackhaulError) as refused:
            await journal.discard_parked(second.id)
        assert refused.value.code == "parked.not_first"
        assert await journal.discard_parked(first.id)
        assert not await journal.discard_parked(first.id)
        assert await stated(journal, "A|1") == [StatedRange("A|1", 2, 2, "discarded")]
        assert (await head_of(journal, "A|1")).parked == 2

        assert await journal.retry_parked("A|1", accept_gap=False) == (2, "")
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr, log.payload[1:]) == ([1, 2, 3], [1, 3, 4], [b"p1", b"p2"])
        assert await journal.parked() == []
        assert (await journal.stats()).parked == 0
        assert (await head_of(journal, "A|1")).parked == 0
        assert journal.prompt.position == 3
        assert (await edge.push(journal, ("A|1", 5))).stored == 1

    async def test_a_gap_stays_until_it_is_accepted(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 4), ("A|1", 5), ("A|1", 8))
        assert await journal.retry_parked("A|1", accept_gap=False) == (0, "parked.gap")
        assert len(await journal.parked()) == 3
        # One decision accepts one gap.
        assert await journal.retry_parked("A|1", accept_gap=True) == (2, "parked.gap")
        assert await stated(journal, "A|1") == [StatedRange("A|1", 2, 3, "accepted")]
        assert await journal.retry_parked("A|1", accept_gap=True) == (1, "")
        assert await stated(journal, "A|1") == [
            StatedRange("A|1", 2, 3, "accepted"),
            StatedRange("A|1", 6, 7, "accepted"),
        ]
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr) == ([1, 2, 3, 4], [1, 4, 5, 8])

    async def test_poison_that_fits_is_stored_when_an_operator_retries_it(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 2), ("A|1", 3), poison={0: "events.too_large"})
        assert await journal.retry_parked("A|1", accept_gap=False) == (2, "")
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2), ("A|1", 3)]

    async def test_a_range_stated_while_events_are_parked_is_passed_over_after_them(
        self, journal: Journal, edge: Origin
    ) -> None:
        """The sender counts a range from 1: it deleted what it had sent, and more."""
        await edge.push(journal, ("A|1", 2), ("A|1", 3), poison={0: "events.invalid"})
        await edge.push(journal, ranges=[StatedRange("A|1", 1, 9, "dropped")], withheld=6)
        assert await journal.retry_parked("A|1", accept_gap=False) == (2, "")
        assert (await edge.push(journal, ("A|1", 10))).stored == 1

    async def test_a_range_stated_while_an_event_is_parked_is_passed_over_when_that_is_discarded(
        self, journal: Journal, edge: Origin
    ) -> None:
        await edge.push(journal, ("A|1", 2), poison={0: "events.invalid"})
        await edge.push(journal, ranges=[StatedRange("A|1", 1, 9, "dropped")], withheld=7)
        assert await journal.discard_parked((await journal.parked())[0].id)
        assert (await edge.push(journal, ("A|1", 10))).stored == 1

    async def test_a_conflict_can_only_be_discarded(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        assert await journal.retry_parked("A|1", accept_gap=True) == (0, "parked.conflict")
        assert await journal.discard_parked((await journal.parked())[0].id)
        assert await journal.retry_parked("A|1", accept_gap=False) == (1, "")
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2)]

    async def test_discarding_after_a_gap_does_not_hide_the_gap(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 4), ("A|1", 5))
        assert await journal.discard_parked((await journal.parked())[0].id)
        assert await journal.retry_parked("A|1", accept_gap=False) == (0, "parked.gap")
        assert await journal.retry_parked("A|1", accept_gap=True) == (1, "")

    async def test_another_origins_events_have_a_queue_of_their_own(self, journal: Journal, edge: Origin) -> None:
        other = Origin("edge-2")
        await other.dial(journal)
        await other.push(journal, ("A|1", 1))
        await edge.push(journal, ("A|1", 2), poison={0: "events.invalid"})
        foreign, own = await journal.parked()
        assert await journal.retry_parked("A|1", accept_gap=False) == (1, "")
        assert await journal.parked() == [foreign]
        assert await journal.retry_parked("A|1", accept_gap=True) == (0, "parked.foreign_owner")
        assert own.event.seq_nr == 2
        assert await journal.discard_parked(foreign.id)
        head = await head_of(journal, "A|1")
        assert (head.seq_nr, head.origin_seq_nr, head.parked) == (2, 2, 0)

    async def test_nothing_parked_is_no_error(self, journal: Journal, edge: Origin) -> None:
        assert await journal.retry_parked("A|1", accept_gap=True) == (0, "")
        assert await journal.retry_parked("X|9", accept_gap=True) == (0, "")
        assert not await journal.discard_parked(77)

    async def test_a_quota_has_room_again_after_a_discard(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 9), parked_max=1)
        assert await append(journal, edge.batch(("A|1", 10), parked_max=1)) == OriginBlocked(1, 1)
        await journal.discard_parked((await journal.parked())[0].id)
        assert len((await edge.push(journal, ("A|1", 10), parked_max=1)).parked) == 1
        assert await journal.retry_parked("A|1", accept_gap=True) == (1, "")
        assert len((await edge.push(journal, ("A|2", 10), parked_max=1)).parked) == 1


class TestStatedRanges:
    """A jump is legal only over numbers that were stated never to come."""

    @pytest.fixture
    async def edge(self, journal: Journal) -> Origin:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        return edge

    async def test_an_event_after_a_stated_range_is_accepted(
        self, storage: Storage, journal: Journal, edge: Origin
    ) -> None:
        withheld = StatedRange("A|1", 3, 5, "withheld")
        assert await edge.push(journal, ("A|1", 6), ranges=[withheld]) == Pushed(3, 1)
        [kept] = await journal.stored_ranges("A|1")
        assert (kept.origin_id, kept.stated, kept.received_us) == ("edge-1", withheld, storage.clock.us)
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr) == ([1, 2, 3], [1, 2, 6])
        assert await journal.stored_ranges("A|2") == []

    async def test_a_range_between_two_events_of_one_batch_is_in_its_place(
        self, journal: Journal, edge: Origin
    ) -> None:
        ranges = [StatedRange("A|1", 4, 5, "withheld"), StatedRange("A|1", 7, 7, "trimmed")]
        assert await edge.push(journal, ("A|1", 3), ("B|1", 1), ("A|1", 6), ("A|1", 8), ranges=ranges) == Pushed(6, 4)
        assert await stated(journal, "A|1") == ranges

    async def test_a_range_at_the_end_of_a_batch_counts_for_the_next(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, ("A|1", 3), ranges=[StatedRange("A|1", 4, 9, "withheld")])
        assert (await head_of(journal, "A|1")).origin_seq_nr == 9
        assert await edge.push(journal, ("A|1", 10)) == Pushed(4, 1)

    async def test_only_what_is_news_of_a_range_is_kept(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, withheld=1, ranges=[StatedRange("A|1", 1, 2, "trimmed")])
        assert await stated(journal, "A|1") == []
        await edge.push(journal, ("A|1", 5), ranges=[StatedRange("A|1", 1, 4, "trimmed")])
        assert await stated(journal, "A|1") == [StatedRange("A|1", 3, 4, "trimmed")]

    async def test_a_range_that_leaves_a_gap_before_it_is_not_believed(self, journal: Journal, edge: Origin) -> None:
        outcome = await edge.push(journal, ("A|1", 6), ranges=[StatedRange("A|1", 4, 5, "withheld")])
        assert outcome.parked == (ParkedEvent(3, "A|1", 6, "parked.gap"),)
        assert await stated(journal, "A|1") == []

    async def test_an_entity_may_begin_with_a_range(self, journal: Journal, edge: Origin) -> None:
        assert await edge.push(journal, ("N|1", 8), ranges=[StatedRange("N|1", 1, 7, "trimmed")]) == Pushed(3, 1)
        head = await head_of(journal, "N|1")
        assert (head.seq_nr, head.origin_seq_nr, head.owner) == (1, 8, "edge-1")

    async def test_an_entity_may_be_known_by_a_range_alone(self, journal: Journal, edge: Origin) -> None:
        await edge.push(journal, withheld=7, ranges=[StatedRange("N|1", 1, 7, "trimmed")])
        head = await head_of(journal, "N|1")
        assert (head.seq_nr, head.origin_seq_nr, head.owner, head.branch) == (0, 7, "edge-1", 1)
        assert len(await whole_log(journal)) == 2
        assert (await edge.push(journal, ("N|1", 8))).stored == 1
        assert (await whole_log(journal)).seq_nr == [1, 2, 1]

    async def test_a_range_about_somebody_elses_entity_is_ignored(self, journal: Journal, edge: Origin) -> None:
        other = Origin("edge-2")
        await other.dial(journal)
        await other.push(journal, withheld=1, ranges=[StatedRange("A|1", 1, 9, "withheld")])
        assert (await head_of(journal, "A|1")).origin_seq_nr == 2
        assert await stated(journal, "A|1") == []

    async def test_a_range_behind_a_parked_event_is_remembered_for_the_retry(
        self, journal: Journal, edge: Origin
    ) -> None:
        withheld = StatedRange("A|1", 4, 5, "withheld")
        outcome = await edge.push(journal, ("A|1", 3), ("A|1", 6), ranges=[withheld], poison={0: "events.invalid"})
        assert [parked.code for parked in outcome.parked] == ["events.invalid", "parked.behind"]
        assert await stated(journal, "A|1") == [withheld]
        assert (await head_of(journal, "A|1")).origin_seq_nr == 2
        assert await journal.retry_parked("A|1", accept_gap=False) == (2, "")
        assert (await whole_log(journal)).origin_seq_nr == [1, 2, 3, 6]
        assert await stated(journal, "A|1") == [withheld]


class TestNewBranches:
    """After a rewind or a lost disk, numbers begin again at the fork and go on here."""

    async def test_a_rewound_origin_is_rebased_onto_the_head(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), ("A|2", 1))
        await edge.dial(journal, ("g1", 1), ("g2", 3), head=2)
        assert await edge.push(journal, ("A|1", 3), ("A|2", 1), ("A|1", 4), payload=b"new") == Pushed(5, 3)
        log = await whole_log(journal)
        assert seq_nrs(log)[4:] == [("A|1", 4), ("A|2", 2), ("A|1", 5)]
        assert log.origin_seq_nr[4:] == [3, 1, 4]
        head = await head_of(journal, "A|1")
        assert (head.seq_nr, head.origin_seq_nr, head.branch) == (5, 4, 2)

    async def test_an_entity_the_fork_does_not_touch_goes_on(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|2", 1))
        await edge.dial(journal, ("g1", 1), ("g2", 2), head=1)
        assert await edge.push(journal, ("A|1", 2)) == Pushed(2, 1)
        assert await edge.push(journal, ("A|1", 3)) == Pushed(3, 1)

    async def test_a_new_journal_is_rebased_from_one(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        assert await replaced.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), ("A|3", 1)) == Pushed(4, 4)
        assert seq_nrs(await whole_log(journal))[2:] == [("A|1", 3), ("A|1", 4), ("A|1", 5), ("A|3", 1)]

    async def test_a_new_branch_above_what_was_known_is_a_gap(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3))
        await edge.dial(journal, ("g1", 1), ("g2", 2), head=1)
        # Each alone: a batch in which all else fits is judged another way than one that does not.
        for name, number in (("A|1", 5), ("N|1", 2)):
            outcome = await edge.push(journal, (name, number))
            assert [parked.code for parked in outcome.parked] == ["parked.gap"]

    async def test_within_the_new_branch_numbers_are_judged_as_ever(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, *(("A|1", number) for number in range(1, 6)))
        await edge.dial(journal, ("g1", 1), ("g2", 2), head=1)
        outcome = await edge.push(journal, ("A|1", 2), ("A|1", 4), ("A|1", 3))
        assert [parked.code for parked in outcome.parked] == ["parked.gap", "parked.behind"]

    async def test_a_range_may_open_the_new_branch(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, *(("A|1", number) for number in range(1, 6)))
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        dropped = StatedRange("A|1", 1, 3, "dropped")
        assert (await replaced.push(journal, ("A|1", 4), ranges=[dropped])).stored == 1
        assert await stated(journal, "A|1") == [dropped]
        head = await head_of(journal, "A|1")
        assert (head.seq_nr, head.origin_seq_nr, head.branch) == (6, 4, 2)

    async def test_parked_events_of_the_old_branch_are_retried_before_those_of_the_new(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), poison={1: "events.invalid"}, payload=b"old")
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        outcome = await replaced.push(journal, ("A|1", 1), ("A|1", 2), payload=b"new")
        assert [parked.code for parked in outcome.parked] == ["parked.behind", "parked.behind"]
        assert await journal.retry_parked("A|1", accept_gap=False) == (4, "")
        log = await whole_log(journal)
        assert log.payload == [b"old0", b"old1", b"old2", b"new0", b"new1"]
        assert (log.seq_nr, log.origin_seq_nr) == ([1, 2, 3, 4, 5], [1, 2, 3, 1, 2])
        assert (await replaced.push(journal, ("A|1", 3))).stored == 1

    async def test_a_range_of_the_old_branch_does_not_bridge_a_gap_of_the_new(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 5), ranges=[StatedRange("A|1", 2, 4, "withheld")])
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        outcome = await replaced.push(journal, ("A|1", 1), ("A|1", 5))
        assert [parked.code for parked in outcome.parked] == ["parked.gap"]
        assert await journal.retry_parked("A|1", accept_gap=False) == (0, "parked.gap")
