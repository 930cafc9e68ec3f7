"""What every journal promises about logs of others: pushed batches, ownership, stated ranges, new branches.

The rules are ``common.core.journal.log.history`` and ``common.core.journal.admission`` (tested there); here they meet rows,
transactions and restarts. PostgreSQL judges in SQL, so each rule has its case.
"""

from __future__ import annotations

import trio

from common.core.events.stated_range import StatedRange
from common.core.journal.append import Appended, AppendRefused, Fenced, OriginBlocked, OutOfStep, ParkedEvent, Pushed
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import Origin, append, appended, head_of, local, seq_nrs, stated, whole_log


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
        [state] = await journal.origins.rows()
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
        assert await journal.origins.rows() == []

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
        assert (await journal.log.stats()).head_position == 0

    async def test_pushes_and_appends_of_one_group_do_not_touch_each_other(self, journal: Journal) -> None:
        first, second, gone = Origin("edge-1"), Origin("edge-2"), Origin("edge-3")
        for edge in (first, second):
            await edge.dial(journal)
        outcomes = await journal.log.append_group(
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
        assert [row.event.position for row in await journal.parked.rows()] == [3 * number for number in range(1, 21)]


class TestStatedRanges:
    """A jump is legal only over numbers that were stated never to come."""

    async def test_an_event_after_a_stated_range_is_accepted(
        self, storage: Storage, journal: Journal, edge: Origin
    ) -> None:
        withheld = StatedRange("A|1", 3, 5, "withheld")
        assert await edge.push(journal, ("A|1", 6), ranges=[withheld]) == Pushed(3, 1)
        [kept] = await journal.origins.stored_ranges("A|1")
        assert (kept.origin_id, kept.stated, kept.received_us) == ("edge-1", withheld, storage.clock.us)
        log = await whole_log(journal)
        assert (log.seq_nr, log.origin_seq_nr) == ([1, 2, 3], [1, 2, 6])
        assert await journal.origins.stored_ranges("A|2") == []

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

    async def test_ranges_that_lead_to_many_entities_come_again_and_with_one_that_does_not_fit(
        self, journal: Journal, edge: Origin
    ) -> None:
        leading = [StatedRange(f"N|{number}", 1, number, "snapshot") for number in range(1, 9)]
        assert (await edge.push(journal, withheld=8, ranges=leading)).stored == 0
        further = [*(one._replace(to_seq_nr=4) for one in leading[:6]), StatedRange("A|1", 1, 3, "snapshot")]
        outcome = await edge.push(journal, ("N|4", 5), ("N|3", 5), ("A|1", 4), ("A|2", 1), ranges=further)
        assert (outcome.stored, outcome.parked) == (4, ())
        numbers = [(await head_of(journal, one.persistence_id)).origin_seq_nr for one in leading]
        assert numbers == [4, 4, 5, 5, 5, 6, 7, 8]
        assert await stated(journal, "N|3") == [leading[2], StatedRange("N|3", 4, 4, "snapshot")]
        assert await stated(journal, "N|8") == [leading[7]]
        assert await stated(journal, "A|1") == [StatedRange("A|1", 3, 3, "snapshot")]
        gap = [StatedRange("N|1", 1, 9, "snapshot"), StatedRange("N|2", 7, 9, "snapshot")]
        outcome = await edge.push(journal, ("N|1", 10), ("N|2", 10), ranges=gap)
        assert [(one.persistence_id, one.code) for one in outcome.parked] == [("N|2", "parked.gap")]
        assert (await head_of(journal, "N|1")).origin_seq_nr == 10
        assert await stated(journal, "N|2") == [leading[1], StatedRange("N|2", 3, 4, "snapshot")]

    async def test_ranges_of_entities_that_are_all_new_make_them_known(self, journal: Journal, edge: Origin) -> None:
        new = [StatedRange(f"N|{number}", 1, number, "snapshot") for number in range(1, 6)]
        assert (await edge.push(journal, withheld=5, ranges=new)).stored == 0
        for one in new:
            head = await head_of(journal, one.persistence_id)
            assert (head.seq_nr, head.origin_seq_nr, head.owner, head.branch) == (0, one.to_seq_nr, "edge-1", 1)
            assert await stated(journal, one.persistence_id) == [one]
        with_gap = [StatedRange("M|1", 1, 3, "snapshot"), StatedRange("M|2", 2, 3, "snapshot")]
        await edge.push(journal, withheld=2, ranges=with_gap)
        assert await stated(journal, "M|1") == with_gap[:1]
        assert await stated(journal, "M|2") == []
        assert (await head_of(journal, "M|2")).origin_seq_nr == 0
        some_known = [StatedRange("N|1", 1, 4, "snapshot"), StatedRange("M|3", 1, 2, "snapshot")]
        await edge.push(journal, withheld=2, ranges=some_known)
        assert await stated(journal, "N|1") == [new[0], StatedRange("N|1", 2, 4, "snapshot")]
        outcome = await edge.push(journal, ("N|5", 6), ("N|1", 5), ("M|1", 4), ("M|2", 1), ("M|3", 3))
        assert (outcome.stored, outcome.parked) == (5, ())

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
        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")
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

    async def test_an_event_that_was_stated_as_gone_and_comes_from_a_copy_of_the_log_is_stored(
        self, journal: Journal
    ) -> None:
        edge = Origin()
        await edge.dial(journal)
        gone = [StatedRange("A|1", 2, 3, "trimmed"), StatedRange("A|1", 4, 5, "dropped")]
        await edge.push(journal, ("A|1", 1), withheld=1, ranges=gone)
        assert await edge.push(journal, ("A|1", 3), ("A|1", 4)) == Pushed(4, 2)
        assert await stated(journal, "A|1") == [StatedRange("A|1", 2, 2, "trimmed")]
        head = await head_of(journal, "A|1")
        assert (head.seq_nr, head.origin_seq_nr) == (3, 4)
        [conflict] = (await edge.push(journal, ("A|1", 4))).parked
        assert conflict.code == "parked.conflict"

    async def test_only_what_was_stated_as_gone_may_come_back_once_and_with_all_behind_it(
        self, journal: Journal
    ) -> None:
        edge = Origin()
        await edge.dial(journal)
        ranges = [
            StatedRange("A|1", 1, 3, "withheld"),
            StatedRange("A|2", 1, 3, "dropped"),
            StatedRange("A|3", 1, 3, "dropped"),
            StatedRange("A|4", 1, 3, "dropped"),
        ]
        await edge.push(journal, ("A|3", 4), withheld=1, ranges=ranges)
        outcome = await edge.push(journal, ("A|1", 3), ("A|2", 2), ("A|2", 2), ("A|3", 3), ("A|4", 4), ("A|4", 4))
        assert [(parked.persistence_id, parked.code) for parked in outcome.parked] == [
            ("A|1", "parked.conflict"),
            ("A|2", "parked.conflict"),
            ("A|3", "parked.conflict"),
            ("A|4", "parked.conflict"),
        ]
        assert await stated(journal, "A|2") == [StatedRange("A|2", 1, 1, "dropped")]

    async def test_what_was_stated_as_replaced_comes_back_unless_the_snapshot_came(self, journal: Journal) -> None:
        """A copy of the log may not know that a snapshot was to come."""
        edge = Origin()
        await edge.dial(journal)
        ranges = [StatedRange("A|1", 1, 3, "snapshot"), StatedRange("A|2", 1, 3, "snapshot")]
        await edge.push(journal, ("A|2", 4), withheld=1, ranges=ranges)
        outcome = await edge.push(journal, ("A|1", 2), ("A|1", 3), ("A|2", 3))
        assert [(parked.persistence_id, parked.code) for parked in outcome.parked] == [("A|2", "parked.conflict")]
        assert await stated(journal, "A|1") == [StatedRange("A|1", 1, 1, "snapshot")]
        assert await stated(journal, "A|2") == [StatedRange("A|2", 1, 3, "snapshot")]

    async def test_an_event_that_comes_back_unfit_is_parked_and_those_behind_it_wait(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, withheld=1, ranges=[StatedRange("A|1", 1, 3, "dropped")])
        await edge.push(journal, ("A|1", 1), ("A|1", 2), poison={0: "events.invalid"})
        assert await stated(journal, "A|1") == []
        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")
        assert await edge.push(journal, ("A|1", 3)) == Pushed(4, 1)

    async def test_over_the_quota_nothing_comes_back(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        gone = StatedRange("A|1", 1, 3, "dropped")
        await edge.push(journal, withheld=1, ranges=[gone])
        batch = edge.batch(("A|1", 2), ("A|2", 1), poison={1: "events.invalid"}, parked_max=0)
        assert isinstance(await append(journal, batch), OriginBlocked)
        assert await stated(journal, "A|1") == [gone]
        assert (await head_of(journal, "A|1")).origin_seq_nr == 3

    async def test_ranges_without_positions_leave_the_stored_event_the_one_it_is(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        [before] = await journal.origins.rows()
        gone = StatedRange("A|2", 1, 3, "dropped")
        assert await append(journal, edge.batch(ranges=[gone])) == Pushed(1, 0)
        assert await stated(journal, "A|2") == [gone]
        [after] = await journal.origins.rows()
        assert after.stored == before.stored
        assert await edge.push(journal, ("A|2", 4)) == Pushed(2, 1)

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

    async def test_a_range_that_opens_the_new_branch_begins_where_it_says(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        dropped = StatedRange("A|1", 1, 3, "dropped")
        assert (await replaced.push(journal, ("A|1", 4), ranges=[dropped])).stored == 1
        assert await stated(journal, "A|1") == [dropped]

    async def test_parked_events_of_the_old_branch_are_retried_before_those_of_the_new(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), poison={1: "events.invalid"}, payload=b"old")
        replaced = Origin(journal_id="journal-2", instance="process-2")
        await replaced.dial(journal)
        outcome = await replaced.push(journal, ("A|1", 1), ("A|1", 2), payload=b"new")
        assert [parked.code for parked in outcome.parked] == ["parked.behind", "parked.behind"]
        assert await journal.parked.retry("A|1", accept_gap=False) == (4, "")
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
        assert await journal.parked.retry("A|1", accept_gap=False) == (0, "parked.gap")
