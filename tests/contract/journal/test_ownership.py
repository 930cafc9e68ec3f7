"""What every journal promises about a change of an entity's owner, by an operator or by a retry that the policy now allows."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError
from common.core.journal.append import NOT_ALLOWED
from common.core.journal.ownership import Transfer
from common.journal.stores.journal import Journal
from tests.support.builders import Origin, appended, head_of, local, seq_nrs, whole_log


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
