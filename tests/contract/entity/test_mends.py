"""An event that an entity cannot take: left out or replaced by an operator, on every storage and node."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.entity import mends
from common.entity.decisions import Accepted
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from tests.support.builders import appended
from tests.support.entities import Add, entities_over

ADDED = "Added"


async def stored(journal: Journal, *payloads: bytes) -> None:
    n = len(payloads)
    batch = new_events(["Counter|1"] * n, [ADDED] * n, list(payloads), codec=["json"] * n)
    await appended(journal, LocalAppend(batch))


def by(*values: int | str) -> Sequence[bytes]:
    return [b'{"by":%b}' % (b"%d" % one if isinstance(one, int) else b'"bad"') for one in values]


async def asked(journal: Journal) -> object:
    """The answer, or code and number of the event that it failed with."""
    async with open_group_commit(journal.log) as commit, entities_over(journal, commit) as entities:
        try:
            return await entities.ask("Counter", "1", Add(100))
        except BackhaulError as error:
            return error.code, error.details.get("seq_nr")


async def test_without_a_decision_every_command_fails_and_names_the_event(journal: Journal) -> None:
    await stored(journal, *by(1, "bad", 3))
    assert await asked(journal) == ("types.unreadable", 2)


async def test_it_goes_on_without_the_event(journal: Journal) -> None:
    await stored(journal, *by(1, "bad", 3, "bad", 5))
    await mends.leave_out(journal, "Counter|1", 2)
    assert await asked(journal) == ("types.unreadable", 4)
    await mends.leave_out(journal, "Counter|1", 4)
    assert await asked(journal) == Accepted(109, 6, 1)
    # Stored events stay, and a decision about a good one changes nothing.
    await mends.leave_out(journal, "Counter|1", 1)
    assert await asked(journal) == Accepted(209, 7, 1)


async def test_it_takes_another_event_in_its_place(journal: Journal) -> None:
    await stored(journal, *by(1, "bad", 3))
    async with open_group_commit(journal.log) as commit, entities_over(journal, commit) as entities:
        definition = entities.definitions["Counter"]
        for event in ((ADDED, "json", b'{"by":"x"}', ""), ("Unheard", "json", b"{}", "")):
            with pytest.raises(BackhaulError) as refused:
                await mends.replace(journal, definition, "Counter|1", 2, event)
            assert refused.value.code == "events.unfit"
        await mends.replace(journal, definition, "Counter|1", 2, (ADDED, "json", b'{"by":20}', ""))
        assert await entities.ask("Counter", "1", Add(100)) == Accepted(124, 4, 1)


async def test_there_must_be_such_an_event(journal: Journal) -> None:
    with pytest.raises(BackhaulError) as refused:
        await mends.leave_out(journal, "Counter|1", 1)
    assert refused.value.code == "entity.no_such_event"
