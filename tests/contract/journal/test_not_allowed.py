"""What every journal promises about events that their origin may not write: parked, and nothing else is there of them."""

from __future__ import annotations

from dataclasses import replace

from common.core.journal.append import NOT_ALLOWED, OriginBlocked, ParkedEvent, Pushed, PushLane
from common.core.push.filter_transition import PushFilter, PushFilterApplied
from common.journal.stores.journal import Journal
from tests.support.builders import Origin, append, appended, head_of, local, seq_nrs, whole_log


async def test_the_entity_is_not_made_and_stays_free_for_others(journal: Journal, edge: Origin) -> None:
    outcome = await edge.push(journal, ("O|1", 1), ("A|1", 3), ("O|1", 2), poison={0: NOT_ALLOWED, 2: NOT_ALLOWED})
    parked = (ParkedEvent(3, "O|1", 1, NOT_ALLOWED), ParkedEvent(5, "O|1", 2, NOT_ALLOWED))
    assert outcome == Pushed(5, 1, parked)
    assert await journal.log.entity_head("O|1") is None
    assert (await journal.log.stats()).parked == 2
    other = Origin("edge-2")
    await other.dial(journal)
    assert (await other.push(journal, ("O|1", 1))).stored == 1
    assert (await head_of(journal, "O|1")).owner == "edge-2"
    await appended(journal, local("L|1"))
    assert (await edge.push(journal, ("L|2", 1), poison={0: NOT_ALLOWED})).stored == 0
    assert (await appended(journal, local("L|2"))).seq_nr == [1]
    assert [row.code for row in await journal.parked.rows(origin_id="edge-1")] == [NOT_ALLOWED] * 3


async def test_another_ones_entity_is_left_as_it_is(journal: Journal, edge: Origin) -> None:
    await appended(journal, local("L|1"))
    before = await head_of(journal, "L|1")
    await edge.push(journal, ("L|1", 1), poison={0: NOT_ALLOWED})
    assert await head_of(journal, "L|1") == before
    assert (await appended(journal, local("L|1"))).seq_nr == [2]
    assert await journal.parked.retry("L|1", accept_gap=False) == (0, NOT_ALLOWED)


async def test_without_a_head_a_retry_stores_nothing_and_a_discard_frees_the_row(
    journal: Journal, edge: Origin
) -> None:
    await edge.push(journal, ("O|1", 1), poison={0: NOT_ALLOWED})
    assert await journal.parked.retry("O|1", accept_gap=True) == (0, NOT_ALLOWED)
    [row] = await journal.parked.rows()
    assert await journal.parked.discard(row.id)
    assert (await journal.log.stats()).parked == 0
    assert await journal.log.entity_head("O|1") is None


async def test_once_allowed_they_are_stored_in_order_with_what_came_behind(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("A|1", 3), ("A|1", 4), poison={0: NOT_ALLOWED, 1: NOT_ALLOWED})
    assert (await head_of(journal, "A|1")).parked == 0
    behind = await edge.push(journal, ("A|1", 5), ("A|1", 6))
    assert [parked.code for parked in behind.parked] == ["parked.gap", "parked.behind"]
    assert await journal.parked.retry("A|1", accept_gap=False) == (4, "")
    head = await head_of(journal, "A|1")
    assert (head.seq_nr, head.origin_seq_nr, head.parked) == (6, 6, 0)
    assert seq_nrs(await whole_log(journal))[-4:] == [("A|1", number) for number in (3, 4, 5, 6)]
    assert (await edge.push(journal, ("A|1", 7))).stored == 1


async def test_they_count_for_the_quota_of_their_sender(journal: Journal, edge: Origin) -> None:
    other = Origin("edge-2")
    await other.dial(journal)
    blocked = edge.batch(("O|1", 1), ("O|2", 1), poison={0: NOT_ALLOWED, 1: NOT_ALLOWED}, parked_max=1)
    fine = other.batch(("B|1", 1), parked_max=1)
    assert [type(outcome) for outcome in await journal.log.append_group([blocked, fine])] == [OriginBlocked, Pushed]
    assert await journal.log.entity_head("O|1") is None


async def test_what_is_backfilled_again_is_not_parked_twice(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|1", 1), poison={0: NOT_ALLOWED})
    wide = PushFilter(1, "[]")
    change = PushFilterApplied(wide, edge.position, needs_backfill=True)
    assert await journal.push_filters.change(edge.origin_id, edge.session, change) is None
    again = replace(edge.batch(("O|1", 1), ("O|2", 1), poison={0: NOT_ALLOWED, 1: NOT_ALLOWED}), after_position=0)
    again = replace(again, through=replace(again.through, position=edge.position), lane=PushLane.BACKFILL)
    outcome = await append(journal, again)
    assert isinstance(outcome, Pushed)
    assert [parked.persistence_id for parked in outcome.parked] == ["O|2"]
    assert await journal.log.entity_head("O|2") is None
