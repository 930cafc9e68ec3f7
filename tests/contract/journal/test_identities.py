"""What every journal promises about blocked identities: kept across restarts, seen by every node, once each."""

from __future__ import annotations

from common.journal.stores.journal import Journal
from tests.contract.journals import Storage


async def test_they_are_listed_in_order_and_let_in_again(journal: Journal) -> None:
    identities = journal.identities
    assert await identities.blocked() == []
    first = await identities.block("g7", "stolen")
    await identities.block("a%_", "")
    assert [(row.id, row.reason) for row in await identities.blocked()] == [("a%_", ""), ("g7", "stolen")]
    again = await identities.block("g7", "sold")
    assert (again.reason, again.blocked_us) == ("sold", first.blocked_us)
    assert await identities.allow("g7")
    assert not await identities.allow("g7")
    assert [row.id for row in await identities.blocked()] == ["a%_"]


async def test_they_survive_a_restart(storage: Storage) -> None:
    async with storage.open() as journal:
        row = await journal.identities.block("g7", "stolen")
    async with storage.open() as journal:
        assert await journal.identities.blocked() == [row]
