"""What every journal promises about filters on the way up: what is asked for, both cursors, and the rule of the backfill lane.

The rule is ``admission.admit_pushed`` (tested there and in ``test_push_lanes``); PostgreSQL judges in SQL, so it has its cases.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.events.stated_range import StatedRange
from common.core.filters.past import Past
from common.core.journal.append import Fenced, LocalAppend, OriginBlocked, OutOfStep, Pushed, PushedAppend, PushLane
from common.core.journal.history import Offset
from common.core.push.filter_transition import NO_FILTER, UNFILTERED, PushFilter, PushFilterApplied, PushFilterState
from common.core.push.past import UNWANTED
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import Origin, Row, append, appended, events, local, seq_nrs, whole_log

NARROW = PushFilter(1, '[{"exclude_all":true}]', '[{"exclude_tags":["secret"]}]')
WIDE = PushFilter(2, "[]", '[{"exclude_tags":["secret"]}]')


def backfill(
    edge: Origin, after: int, through: int, *rows: Row, ranges: tuple[StatedRange, ...] = (), parked_max: int = 10_000
) -> PushedAppend:
    """A stretch of the backfill lane whose events stand at its beginning."""
    batch = edge.batch(*rows, ranges=ranges, parked_max=parked_max)
    batch.events.position = [after + 1 + index for index in range(len(rows))]
    return replace(
        batch, after_position=after, through=Offset(edge.journal_id, edge.generation, through), lane=PushLane.BACKFILL
    )


def past(
    edge: Origin, count: int, *rows: Row, ranges: tuple[StatedRange, ...] = (), parked_max: int = 10_000
) -> PushedAppend:
    """The ``count``-th message of the past lane, its events from anywhere in the log."""
    batch = edge.batch(*rows, ranges=ranges, parked_max=parked_max)
    batch.events.position = [7 - index for index in range(len(rows))]
    through = Offset(edge.journal_id, edge.generation, count)
    return replace(batch, after_position=count - 1, through=through, lane=PushLane.PAST)


async def widened(journal: Journal, edge: Origin) -> None:
    """The edge's filter is narrow, then wide again: positions up to where it is are to be backfilled."""
    narrow = PushFilterApplied(NARROW, edge.position, needs_backfill=False)
    assert await journal.push_filters.change(edge.origin_id, edge.session, narrow) is None
    wide = PushFilterApplied(WIDE, edge.position, needs_backfill=True)
    assert await journal.push_filters.change(edge.origin_id, edge.session, wide) is None


class TestAsked:
    async def test_what_is_asked_is_kept_with_a_version_of_its_own(self, storage: Storage) -> None:
        async with storage.open() as journal:
            assert await journal.push_filters.requested() == []
            first = await journal.push_filters.ask("edge-1", "[1]")
            assert (first.pattern, first.criteria, first.set_us) == ("edge-1", "[1]", storage.clock.us)
            second = await journal.push_filters.ask("edge-*", "[2]")
            assert await journal.push_filters.ask("edge-1", "[1]") == first, "the same again is no news"
            third = await journal.push_filters.ask("edge-1", "[3]")
            assert first.version < second.version < third.version
        async with storage.open() as journal:
            assert await journal.push_filters.requested() == [second, third]
            assert await journal.push_filters.withdraw("edge-1")
            assert not await journal.push_filters.withdraw("edge-1")
            assert (await journal.push_filters.ask("edge-1", "[3]")).version > third.version

    async def test_how_much_past_is_asked_for_is_kept_with_it(self, storage: Storage) -> None:
        async with storage.open() as journal:
            first = await journal.push_filters.ask("edge-1", "[1]")
            assert first.history is Past.SNAPSHOT
            second = await journal.push_filters.ask("edge-1", "[1]", Past.FULL)
            assert second.version > first.version, "another past is another filter"
            assert await journal.push_filters.ask("edge-1", "[1]", Past.FULL) == second
        async with storage.open() as journal:
            assert await journal.push_filters.requested() == [second]
            assert second.history is Past.FULL


class TestChange:
    async def test_a_change_moves_the_place_and_outlives_a_restart(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            assert await journal.push_filters.state("edge-1") == UNFILTERED
            await edge.push(journal, ("A|1", 1), ("A|1", 2))
            await widened(journal, edge)
        async with storage.open() as journal:
            assert await journal.push_filters.state("edge-1") == PushFilterState(NARROW, WIDE, 2, 0)
            assert await journal.push_filters.state("edge-2") == UNFILTERED

    async def test_a_change_without_backfill_is_done_at_once(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        change = PushFilterApplied(NARROW, 1, needs_backfill=False)
        assert await journal.push_filters.change("edge-1", edge.session, change) is None
        assert await journal.push_filters.state("edge-1") == PushFilterState(NO_FILTER, NARROW, 1, 1)

    async def test_a_change_of_an_older_session_or_elsewhere_or_during_another_changes_nothing(
        self, journal: Journal
    ) -> None:
        edge = Origin()
        change = PushFilterApplied(NARROW, 1, needs_backfill=True)
        assert await journal.push_filters.change("edge-1", 1, change) == Fenced(0)
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        assert await journal.push_filters.change("edge-1", edge.session + 1, change) == Fenced(edge.session)
        assert await journal.push_filters.change("edge-1", edge.session, replace(change, position=2)) == OutOfStep(1)
        assert await journal.push_filters.state("edge-1") == UNFILTERED
        assert await journal.push_filters.change("edge-1", edge.session, change) is None
        assert await journal.push_filters.change("edge-1", edge.session, replace(change, filter=WIDE)) == OutOfStep(1)
        assert await journal.push_filters.state("edge-1") == PushFilterState(NO_FILTER, NARROW, 1, 0)

    async def test_a_log_that_parts_below_the_change_has_only_so_much_to_backfill(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3))
        await widened(journal, edge)
        await edge.dial(journal, ("g1", 1), ("g2", 3), head=2)
        assert await journal.push_filters.state("edge-1") == PushFilterState(NARROW, WIDE, 2, 0)
        replaced = Origin(journal_id="journal-2", generation="h1")
        await replaced.dial(journal)
        assert await journal.push_filters.state("edge-1") == PushFilterState(NARROW, WIDE, 0, 0)


class TestBackfill:
    async def test_it_moves_its_own_cursor_with_the_events(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            await edge.push(journal, ("A|1", 1), withheld=5)
            await widened(journal, edge)
            assert await append(journal, backfill(edge, 0, 4, ("B|1", 1), ("B|1", 2))) == Pushed(4, 2)
        async with storage.open() as journal:
            assert await journal.push_filters.state("edge-1") == PushFilterState(NARROW, WIDE, 6, 4)
            [state] = await journal.origins.rows()
            assert state.stored.position == 6
            assert await append(journal, backfill(edge, 4, 6)) == Pushed(6, 0)
            assert (await journal.push_filters.state("edge-1")).is_settled
            await edge.push(journal, ("B|1", 3))
            assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("B|1", 1), ("B|1", 2), ("B|1", 3)]
            assert [state.stored.position for state in await journal.origins.rows()] == [7]

    async def test_a_repeat_is_out_of_step_and_an_older_session_is_fenced(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), withheld=5)
        await widened(journal, edge)
        batch = backfill(edge, 0, 4, ("B|1", 1))
        assert await append(journal, batch) == Pushed(4, 1)
        assert await append(journal, batch) == OutOfStep(4)
        assert await append(journal, replace(batch, session=edge.session - 1)) == Fenced(edge.session)
        assert len(await whole_log(journal)) == 2

    async def test_without_a_place_nothing_is_to_be_backfilled_but_from_zero(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1))
        assert await append(journal, backfill(edge, 1, 2, ("A|1", 2))) == OutOfStep(0)

    async def test_known_numbers_are_passed_over_and_the_entity_goes_on_where_it_was(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("B|1", 1), withheld=7)
        await widened(journal, edge)
        rows: tuple[Row, ...] = (("A|1", 1), ("A|1", 2), ("B|1", 1), ("A|1", 3), ("A|1", 4), ("C|1", 1))
        assert await append(journal, backfill(edge, 0, 10, *rows)) == Pushed(10, 3)
        log = await whole_log(journal)
        assert seq_nrs(log)[3:] == [("A|1", 3), ("A|1", 4), ("C|1", 1)]
        assert log.origin_seq_nr[3:] == [3, 4, 1]
        assert await journal.parked.rows() == []

    async def test_a_batch_of_known_numbers_only_moves_the_cursor(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2))
        await widened(journal, edge)
        assert await append(journal, backfill(edge, 0, 2, ("A|1", 1), ("A|1", 2))) == Pushed(2, 0)
        assert len(await whole_log(journal)) == 2
        assert (await journal.push_filters.state("edge-1")).is_settled

    async def test_a_jump_is_stated_or_parked(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), withheld=9)
        await widened(journal, edge)
        known = StatedRange("A|1", 1, 1, "withheld")
        ranges = (StatedRange("A|1", 1, 3, "withheld"), StatedRange("B|1", 1, 4, "trimmed"), known)
        outcome = await append(journal, backfill(edge, 0, 8, ("A|1", 4), ("B|1", 5), ("C|1", 2), ranges=ranges))
        assert isinstance(outcome, Pushed)
        assert [(parked.persistence_id, parked.code) for parked in outcome.parked] == [("C|1", "parked.gap")]
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("A|1", 2), ("B|1", 1)]
        kept = [stored.stated for stored in await journal.origins.stored_ranges("A|1")]
        assert kept == [StatedRange("A|1", 2, 3, "withheld")]

    async def test_what_is_parked_is_not_parked_again_and_what_is_new_queues_behind(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), poison={1: "events.too_large"}, withheld=6)
        await widened(journal, edge)
        rows: tuple[Row, ...] = (("A|1", 1), ("A|1", 2), ("A|1", 3))
        outcome = await append(journal, backfill(edge, 0, 8, *rows))
        assert isinstance(outcome, Pushed)
        assert [(parked.seq_nr, parked.code) for parked in outcome.parked] == [(3, "parked.behind")]
        assert [row.event.seq_nr for row in await journal.parked.rows()] == [2, 3]
        assert await journal.parked.retry("A|1", accept_gap=False) == (2, "")

    async def test_after_a_fork_what_the_branches_share_is_known_still(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), withheld=6)
        decision = await edge.dial(journal, ("g1", 1), ("g2", 3), head=6)
        assert decision.state.stored.position == 2
        await edge.push(journal, withheld=4)
        await widened(journal, edge)
        assert await append(journal, backfill(edge, 0, 2, ("A|1", 1), ("A|1", 2))) == Pushed(2, 0)
        ranges = (StatedRange("A|1", 1, 1, "withheld"),)
        assert await append(journal, backfill(edge, 2, 6, ("A|1", 2), ("B|1", 1), ranges=ranges)) == Pushed(6, 1)
        await edge.push(journal, ("A|1", 3), ("B|1", 2))
        answer = [("A|1", 1), ("A|1", 2), ("A|1", 3), ("B|1", 1), ("A|1", 4), ("B|1", 2)]
        assert seq_nrs(await whole_log(journal)) == answer

    async def test_an_entity_of_another_owner_is_parked_here_too_once(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await appended(journal, local("L|1"))
        await edge.push(journal, withheld=3)
        await widened(journal, edge)
        outcome = await append(journal, backfill(edge, 0, 2, ("L|1", 1)))
        assert isinstance(outcome, Pushed)
        assert [parked.code for parked in outcome.parked] == ["parked.foreign_owner"]
        assert await append(journal, backfill(edge, 2, 3, ("L|1", 1))) == Pushed(3, 0), "and is not parked twice"

    async def test_it_may_share_a_group_with_others(self, journal: Journal) -> None:
        edge, other = Origin(), Origin("edge-2")
        await edge.dial(journal)
        await other.dial(journal)
        await edge.push(journal, ("A|1", 1), withheld=3)
        await widened(journal, edge)
        outcomes = await journal.log.append_group(
            [
                LocalAppend(events("L|1")),
                backfill(edge, 0, 4, ("A|1", 1), ("A|1", 2)),
                other.batch(("Z|1", 1)),
            ]
        )
        assert outcomes[1:] == [Pushed(4, 1), Pushed(1, 1)]
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("L|1", 1), ("A|1", 2), ("Z|1", 1)]


class TestPast:
    async def test_it_moves_no_position_and_asks_for_the_session_alone(self, storage: Storage) -> None:
        edge = Origin()
        async with storage.open() as journal:
            await edge.dial(journal)
            await edge.push(journal, ("A|1", 1), withheld=5)
            await widened(journal, edge)
            [before] = await journal.origins.rows()
            assert await append(journal, past(edge, 1, ("B|1", 1), ("C|1", 1), ("B|1", 2))) == Pushed(1, 3)
            assert await append(journal, past(edge, 9, ("B|1", 3))) == Pushed(9, 1)
            refused = await append(journal, replace(past(edge, 10, ("B|1", 4)), session=edge.session - 1))
            assert refused == Fenced(edge.session)
        async with storage.open() as journal:
            [after] = await journal.origins.rows()
            assert after.stored == before.stored
            assert await journal.push_filters.state("edge-1") == PushFilterState(NARROW, WIDE, 6, 0)
            await edge.push(journal, ("B|1", 4), ("C|1", 2))
            log = await whole_log(journal)
            assert seq_nrs(log)[1:5] == [("B|1", 1), ("C|1", 1), ("B|1", 2), ("B|1", 3)]
            assert await journal.parked.rows() == []

    async def test_a_repeat_is_passed_over_whole_and_in_part(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), withheld=5)
        batch = past(edge, 1, ("B|1", 1), ("B|1", 2))
        assert await append(journal, batch) == Pushed(1, 2)
        assert await append(journal, batch) == Pushed(1, 0)
        assert await append(journal, past(edge, 2, ("B|1", 2), ("B|1", 3), ("A|1", 1))) == Pushed(2, 1)
        assert seq_nrs(await whole_log(journal)) == [("A|1", 1), ("B|1", 1), ("B|1", 2), ("B|1", 3)]
        assert await journal.parked.rows() == []

    async def test_what_it_states_is_kept_as_far_as_it_is_news(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), withheld=5)
        ranges = (StatedRange("A|1", 1, 3, "trimmed"), StatedRange("B|1", 1, 6, "snapshot"))
        rows: tuple[Row, ...] = (("A|1", 4), ("B|1", 7), ("B|1", 8))
        assert await append(journal, past(edge, 1, *rows, ranges=ranges)) == Pushed(1, 3)
        assert [kept.stated for kept in await journal.origins.stored_ranges("A|1")] == [
            StatedRange("A|1", 2, 3, "trimmed")
        ]
        assert [kept.stated for kept in await journal.origins.stored_ranges("B|1")] == [
            StatedRange("B|1", 1, 6, "snapshot")
        ]
        assert await append(journal, past(edge, 2, ranges=(StatedRange("C|1", 1, 2, "trimmed"),))) == Pushed(2, 0)
        await edge.push(journal, ("A|1", 5), ("B|1", 9), ("C|1", 3))
        assert await journal.parked.rows() == []

    async def test_a_gap_and_another_owner_are_parked_once(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await appended(journal, local("L|1"))
        batch = past(edge, 1, ("B|1", 2), ("L|1", 1))
        outcome = await append(journal, batch)
        assert isinstance(outcome, Pushed)
        assert [parked.code for parked in outcome.parked] == ["parked.gap", "parked.foreign_owner"]
        assert await append(journal, batch) == Pushed(1, 0)
        assert len(await journal.parked.rows()) == 2
        blocked = await append(journal, past(edge, 2, ("Z|1", 2), parked_max=2))
        assert blocked == OriginBlocked(2, 2)

    async def test_what_is_known_counts_what_is_stored_stated_and_parked(self, journal: Journal) -> None:
        edge, other = Origin(), Origin("edge-2")
        await edge.dial(journal)
        await other.dial(journal)
        await appended(journal, local("L|1"))
        await other.push(journal, ("O|1", 1))
        ranges = (StatedRange("B|1", 1, 4, "withheld"),)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("C|1", 1), ("C|1", 3), ranges=ranges)
        names = ["O|1", "B|1", "none|1", "A|1", "L|1", "C|1"]
        assert await journal.origins.known("edge-1", names) == [UNWANTED, 4, 0, 2, UNWANTED, 3]
        assert await journal.origins.known("edge-2", ["O|1", "A|1"]) == [1, UNWANTED]
        assert await journal.origins.known("edge-1", []) == []

    async def test_after_a_fork_numbers_of_the_branch_before_are_known(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 2), ("A|1", 3), withheld=6)
        await edge.dial(journal, ("g1", 1), ("g2", 3), head=6)
        assert await journal.origins.known("edge-1", ["A|1"]) == [3]
        assert await append(journal, past(edge, 1, ("A|1", 2), ("A|1", 3))) == Pushed(1, 0)
        assert await append(journal, past(edge, 2, ("A|1", 4))) == Pushed(2, 1)
        await edge.push(journal, ("A|1", 5))
        assert await journal.parked.rows() == []

    async def test_it_may_share_a_group_with_others(self, journal: Journal) -> None:
        edge, other = Origin(), Origin("edge-2")
        await edge.dial(journal)
        await other.dial(journal)
        outcomes = await journal.log.append_group(
            [LocalAppend(events("L|1")), past(edge, 1, ("A|1", 1), ("A|1", 2)), other.batch(("Z|1", 1))]
        )
        assert outcomes[1:] == [Pushed(1, 2), Pushed(1, 1)]
        assert [state.stored.position for state in await journal.origins.rows()] == [0, 1]


@pytest.mark.parametrize("whom", [[], ["A|1"], ["A|1", "B|1", "C|1", "D|1"]])
async def test_entities_that_lost_events_are_told(storage: Storage, journal: Journal, whom: list[str]) -> None:
    batch = events("A|1", "B|1", "A|1", "A|1", "C|1")
    batch.tags = ["", "", "", "red", ""]
    await append(journal, LocalAppend(batch))
    await journal.log.trim(TrimLimit(3, 10, "dropped"))
    answer = {"A|1": (StatedRange("A|1", 1, 2, "dropped"), "red"), "B|1": (StatedRange("B|1", 1, 1, "dropped"), "")}
    assert await journal.log.deleted_of(whom) == [answer[name] for name in whom if name in answer]
