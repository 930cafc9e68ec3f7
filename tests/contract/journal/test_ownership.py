"""What every journal promises about events that their origin may not write, and about a change of an entity's owner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.journal.append import (
    NOT_ALLOWED,
    Appended,
    AppendRefused,
    AppendRequest,
    OriginBlocked,
    ParkedEvent,
    Pushed,
    PushLane,
)
from common.core.journal.ownership import Transfer
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


@pytest.mark.parametrize("is_first", [False, True])
async def test_what_is_pushed_to_the_journals_own_entity_is_set_aside_also_beside_local_appends(
    journal: Journal, edge: Origin, *, is_first: bool
) -> None:
    """All in one commit, as groups mostly are: known entities, no tags, no ranges."""
    await appended(journal, local("L|1", "L|2"))
    before, position = await whole_log(journal), edge.position + 1
    pushed = edge.batch(("L|2", 1))
    requests: list[AppendRequest] = [pushed, local("L|1")] if is_first else [local("L|1"), pushed]
    outcomes = await journal.log.append_group(requests)
    parked = ParkedEvent(position, "L|2", 1, "parked.foreign_owner")
    assert outcomes[requests.index(pushed)] == Pushed(position, 0, (parked,))
    assert outcomes[requests.index(pushed) - 1] == Appended(len(before) + 1, [2])
    assert seq_nrs(await whole_log(journal)) == [*seq_nrs(before), ("L|1", 2)]
    assert (await edge.dial(journal)).state.stored.position == position


@pytest.mark.parametrize("name", ["B|1", "L|1"])
async def test_what_would_follow_in_an_entity_of_another_owner_is_set_aside(
    journal: Journal, edge: Origin, name: str
) -> None:
    """Its next number, in a commit of its own, by one whom the writer has just served."""
    await (await dialled(journal)).push(journal, ("B|1", 1))
    await appended(journal, local("L|1"))
    before = await head_of(journal, name)
    pushed = await edge.push(journal, (name, before.origin_seq_nr + 1))
    assert [(parked.persistence_id, parked.code) for parked in pushed.parked] == [(name, "parked.foreign_owner")]
    assert await head_of(journal, name) == before


async def test_an_append_to_an_edges_entity_is_refused(journal: Journal) -> None:
    await (await dialled(journal)).push(journal, ("B|1", 1))
    refused = await append(journal, local("B|1"))
    assert isinstance(refused, AppendRefused)
    assert refused.code == "append.foreign_owner"
    assert (await head_of(journal, "B|1")).seq_nr == 1


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


async def dialled(journal: Journal, origin_id: str = "edge-2") -> Origin:
    other = Origin(origin_id)
    await other.dial(journal)
    return other


async def test_what_the_rightful_owner_has_parked_is_stored_and_it_goes_on(journal: Journal, edge: Origin) -> None:
    rightful = await dialled(journal)
    await edge.push(journal, ("O|1", 1), ("O|1", 2))
    refused = await rightful.push(journal, ("O|1", 1), ("O|1", 2), ("O|1", 3))
    assert [parked.code for parked in refused.parked] == ["parked.foreign_owner"] * 3
    assert await journal.parked.transfer("O|1", "edge-2", accept_gap=False) == Transfer("edge-1", 3, "")
    head = await head_of(journal, "O|1")
    assert (head.owner, head.seq_nr, head.origin_seq_nr, head.parked) == ("edge-2", 5, 3, 0)
    assert (await rightful.push(journal, ("O|1", 4))).stored == 1
    assert [parked.code for parked in (await edge.push(journal, ("O|1", 3))).parked] == ["parked.foreign_owner"]
    assert seq_nrs(await whole_log(journal))[-6:] == [("O|1", number) for number in range(1, 7)]
    assert (await journal.log.stats()).parked == 1


async def test_an_owner_that_gets_an_entity_back_goes_on_where_it_was(journal: Journal, edge: Origin) -> None:
    other = await dialled(journal)
    await edge.push(journal, ("O|1", 1), ("O|1", 2))
    await journal.parked.transfer("O|1", "edge-2", accept_gap=False)
    assert (await other.push(journal, ("O|1", 1))).stored == 1
    await edge.push(journal, ("O|1", 3))
    assert await journal.parked.transfer("O|1", "edge-1", accept_gap=False) == Transfer("edge-2", 1, "")
    assert (await edge.push(journal, ("O|1", 4))).stored == 1
    assert (await head_of(journal, "O|1")).origin_seq_nr == 4
    assert await journal.parked.transfer("O|1", "edge-1", accept_gap=False) == Transfer("edge-1", 0, "")
    assert (await edge.push(journal, ("O|1", 5))).stored == 1


async def test_an_entity_without_a_head_gets_one(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|1", 1), poison={0: NOT_ALLOWED})
    assert await journal.parked.transfer("O|1", "edge-1", accept_gap=False) == Transfer(None, 1, "")
    assert await journal.parked.transfer("O|2", "edge-1", accept_gap=False) == Transfer(None, 0, "")
    assert (await edge.push(journal, ("O|1", 2), ("O|2", 1))).stored == 2
    assert (await head_of(journal, "O|2")).seq_nr == 1
    assert (await appended(journal, local("L|1"))).seq_nr == [1]


async def test_this_service_takes_an_entity_over_and_gives_one_away(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|1", 1))
    assert await journal.parked.transfer("O|1", "", accept_gap=False) == Transfer("edge-1", 0, "")
    assert (await appended(journal, local("O|1"))).seq_nr == [2]
    await edge.push(journal, ("O|1", 2))
    assert await journal.parked.transfer("O|1", "edge-1", accept_gap=False) == Transfer("", 1, "")
    assert (await head_of(journal, "O|1")).seq_nr == 3


async def test_a_gap_stays_parked_unless_it_is_accepted(journal: Journal, edge: Origin) -> None:
    other = await dialled(journal)
    await edge.push(journal, ("O|1", 1))
    await other.push(journal, ("O|1", 5), ("O|1", 6))
    assert await journal.parked.transfer("O|1", "edge-2", accept_gap=False) == Transfer("edge-1", 0, "parked.gap")
    assert [parked.code for parked in (await other.push(journal, ("O|1", 7))).parked] == ["parked.behind"]
    assert await journal.parked.transfer("O|1", "edge-2", accept_gap=True) == Transfer("edge-2", 3, "")
    assert (await other.push(journal, ("O|1", 8))).stored == 1


async def test_an_origin_that_never_dialled_gets_nothing(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|1", 1))
    for name in ("O|1", "O|2"):
        with pytest.raises(BackhaulError, match="ever seen") as caught:
            await journal.parked.transfer(name, "nobody", accept_gap=False)
        assert caught.value.code == "origin.unknown"
    assert (await head_of(journal, "O|1")).owner == "edge-1"
    assert await journal.log.entity_head("O|2") is None


async def test_names_below_a_prefix_are_those_with_a_head_or_something_parked(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|b", 1), ("O|a%", 1), ("P|a", 1), ("O|c", 1), ("O|a_", 1), poison={3: NOT_ALLOWED})
    assert await journal.parked.names("O|") == ["O|a%", "O|a_", "O|b", "O|c"]
    assert await journal.parked.names("O|a%") == ["O|a%"]
    assert await journal.parked.names("O|", after="O|a%", max_rows=2) == ["O|a_", "O|b"]
    assert await journal.parked.names("Q|") == []


async def test_a_retry_settles_an_entity_without_a_head_once_the_policy_allows_it(
    journal: Journal, edge: Origin
) -> None:
    other = await dialled(journal)
    await edge.push(journal, ("O|1", 1), poison={0: NOT_ALLOWED})
    await other.push(journal, ("O|1", 1), ("O|1", 2), poison={0: NOT_ALLOWED, 1: NOT_ALLOWED})
    retry = journal.parked.retry
    assert await retry("O|1", accept_gap=False, may_write=lambda _: False) == (0, NOT_ALLOWED)
    assert await journal.log.entity_head("O|1") is None
    assert await retry("O|1", accept_gap=False, may_write=lambda origin: origin == "edge-2") == (2, "")
    head = await head_of(journal, "O|1")
    assert (head.owner, head.seq_nr, head.parked) == ("edge-2", 2, 0)
    assert (await other.push(journal, ("O|1", 3))).stored == 1
    assert [row.origin_id for row in await journal.parked.rows()] == ["edge-1"]


async def test_a_retry_stores_nothing_of_an_owner_that_the_policy_has_shut_out(journal: Journal, edge: Origin) -> None:
    await edge.push(journal, ("O|1", 1))
    await edge.push(journal, ("O|1", 2), poison={0: NOT_ALLOWED})
    assert await journal.parked.retry("O|1", accept_gap=False, may_write=lambda _: False) == (0, NOT_ALLOWED)
    assert await journal.parked.retry("O|1", accept_gap=False, may_write=lambda _: True) == (1, "")
