"""``append_plain``: what it stores is stored whole, and what it does not store leaves nothing behind (P2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import cycle, islice

import pytest

from common import border
from common.core.errors import BackhaulError
from common.core.filters.selection import Selection
from common.core.journal.append import PushedAppend
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from examples.support.postgres import Databases, PostgresUnavailable
from tests.support.builders import START_US, Origin, append, appended, ids, local, seq_nrs, whole_log
from tests.support.internals import postgres_sessions

HIDE = "ALTER FUNCTION backhaul.append_batch RENAME TO hidden"
SWAP = (
    "UPDATE backhaul.entity SET persistence_id = 'L|3' WHERE persistence_id = 'L|1';"
    "UPDATE backhaul.entity SET persistence_id = 'L|1' WHERE persistence_id = 'L|2';"
    "UPDATE backhaul.entity SET persistence_id = 'L|2' WHERE persistence_id = 'L|3'"
)
SHOW = "ALTER FUNCTION backhaul.hidden RENAME TO append_batch"


@pytest.fixture
async def journal(postgres_url: str) -> AsyncIterator[Journal]:
    async with (
        border.open_loop(),
        open_postgres_journal(postgres_url, now_us=lambda: START_US, new_id=ids().__next__) as opened,
    ):
        yield opened


async def stored(journal: Journal) -> list[object]:
    """All that an append changes."""
    return [
        (await whole_log(journal)).columns(),
        await journal.log.entity_heads(["A|1", "A|2", "L|1"]),
        await journal.origins.rows(),
        (await journal.log.stats()).head_timestamp_us,
    ]


async def fails_alone(journal: Journal, url: str, request: PushedAppend) -> bool:
    """Whether the function stored nothing of it; nobody judges what it leaves."""
    Databases(url).run(HIDE)
    try:
        await append(journal, request)
    except BackhaulError as error:
        return error.code == "journal.broken"
    finally:
        Databases(url).run(SHOW)
    return False


async def test_known_entities_need_no_other_function(journal: Journal, postgres_url: str) -> None:
    edge = Origin()
    await edge.dial(journal)
    await edge.push(journal, ("A|1", 1), ("A|2", 1))
    await appended(journal, local("L|1"))
    Databases(postgres_url).run(HIDE)
    await edge.push(journal, ("A|1", 2), ("A|2", 2), ("A|1", 3))
    await appended(journal, local("L|1", "L|1", expected={"L|1": 1}))
    assert seq_nrs(await whole_log(journal))[3:] == [("A|1", 2), ("A|2", 2), ("A|1", 3), ("L|1", 2), ("L|1", 3)]
    assert (await whole_log(journal)).position == list(range(1, 9))


@pytest.mark.parametrize("kind", ["gap", "session", "position", "tags before"])
async def test_what_is_not_plain_leaves_nothing_behind(journal: Journal, postgres_url: str, kind: str) -> None:
    edge = Origin()
    await edge.dial(journal)
    await edge.push(journal, ("A|1", 1), ("A|2", 1))
    if kind == "tags before":
        await appended(journal, local("L|1", tags=["t:x"]))
    request = edge.batch(("A|1", 2), ("A|2", 3 if kind == "gap" else 2))
    if kind == "session":
        await edge.dial(journal)
    if kind == "position":
        await edge.push(journal, withheld=1)
    before = await stored(journal)
    assert await fails_alone(journal, postgres_url, request)
    assert await stored(journal) == before


async def test_a_gap_is_judged_in_the_same_append(journal: Journal) -> None:
    edge = Origin()
    await edge.dial(journal)
    await edge.push(journal, ("A|1", 1), ("A|2", 1))
    pushed = await edge.push(journal, ("A|1", 2), ("A|2", 3))
    assert [(parked.persistence_id, parked.code) for parked in pushed.parked] == [("A|2", "parked.gap")]


@pytest.mark.parametrize("append_id", ["", "k1"], ids=["plain", "judged"])
async def test_an_entitys_number_is_asked_for_again_in_a_new_session(
    journal: Journal, postgres_url: str, append_id: str
) -> None:
    """It may be with a database that was put back, in which the number is another entity's."""
    await appended(journal, local("L|1"))
    await appended(journal, local("L|2", "L|2"))
    postgres_sessions(journal).writer.cut()
    Databases(postgres_url).run(SWAP)
    for number in (3, 4):
        assert (await appended(journal, local("L|1", append_id=append_id and f"{append_id}.{number}"))).seq_nr == [
            number
        ]
    heads = await journal.log.entity_heads(["L|1", "L|2"])
    assert {name: head.seq_nr for name, head in heads.items()} == {"L|1": 4, "L|2": 1}


async def test_single_events_of_several_types_are_found_by_type(journal: Journal) -> None:
    groups = [[name] for name in islice(cycle(["A|1", "B|1", "B|2", "C|1"]), 60)]
    # The index of types has a row for 64 positions: the next ones begin within a group that has no A.
    groups += [["A|1"], ["A|1"], ["B|1", "C|1", "B|1", "C|1"], ["A|1"], *(["B|2"] for _ in range(80)), ["A|1", "C|1"]]
    for names in groups:
        await appended(journal, local(*names))
    log = [name for names in groups for name in names]
    for wanted in ("A", "B", "C"):
        found = await whole_log(journal, selection=Selection(frozenset({wanted})))
        assert found.position == [position for position, name in enumerate(log, 1) if name[0] == wanted]


@pytest.mark.parametrize(
    "row",
    [
        "projection VALUES ('lease:x', 0, 1, 0, 0, '', '-infinity', false, 0)",
        "head (one, position, timestamp_us, entities) VALUES (false, 0, 0, 0)",
    ],
)
async def test_rows_that_no_table_may_have_are_refused(journal: Journal, postgres_url: str, row: str) -> None:
    with pytest.raises(PostgresUnavailable, match="INSERT failed"):
        Databases(postgres_url).run(f"INSERT INTO backhaul.{row}")
