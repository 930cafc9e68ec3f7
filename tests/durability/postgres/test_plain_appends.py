"""``append_plain``: what it stores is stored whole, and what it does not store leaves nothing behind (P2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import cycle, islice

import pytest

from common import border
from common.core.errors import BackhaulError
from common.core.filters.selection import Selection
from common.core.journal.append import Appended, AppendRequest, Pushed
from common.journal.postgres import open_postgres_journal
from common.journal.postgres.appends import group
from common.journal.postgres.appends.plain import PlainCall
from common.journal.stores.journal import Journal
from examples.support.postgres import Databases, PostgresUnavailable
from tests.support.builders import START_US, Origin, appended, ids, local, seq_nrs, whole_log
from tests.support.internals import postgres_sessions

HIDE = "ALTER FUNCTION backhaul.append_batch RENAME TO hidden"
SWAP = (
    "UPDATE backhaul.entity SET persistence_id = 'L|3' WHERE persistence_id = 'L|1';"
    "UPDATE backhaul.entity SET persistence_id = 'L|1' WHERE persistence_id = 'L|2';"
    "UPDATE backhaul.entity SET persistence_id = 'L|2' WHERE persistence_id = 'L|3'"
)
SHOW = "ALTER FUNCTION backhaul.hidden RENAME TO append_batch"
HIDE_PLAIN = "ALTER FUNCTION backhaul.append_plain RENAME TO hidden"


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


async def fails_alone(journal: Journal, url: str, *group: AppendRequest) -> bool:
    """Whether the function stored nothing of it; nobody judges what it leaves."""
    Databases(url).run(HIDE)
    try:
        await journal.log.append_group(group)
    except BackhaulError as error:
        return error.code == "journal.broken"
    finally:
        Databases(url).run(SHOW)
    return False


async def fleet(journal: Journal, *tags: str) -> list[Origin]:
    """Two origins, each with an event of an entity: ``A|1`` and ``A|2``. The third of the log is of ``L|1``."""
    edges = [Origin(f"edge-{number}") for number in (1, 2)]
    for number, edge in enumerate(edges, start=1):
        await edge.dial(journal)
        await edge.push(journal, (f"A|{number}", 1), tags=tags or ("",))
    await appended(journal, local("L|1", tags=tags or ("",)))
    return edges


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


@pytest.mark.parametrize("tags", ["", "t:a\x1ft:b"])
async def test_neither_do_several_origins_with_tags_and_append_ids(
    journal: Journal, postgres_url: str, tags: str
) -> None:
    one, two = await fleet(journal, tags)
    Databases(postgres_url).run(HIDE)
    outcomes = await journal.log.append_group(
        [
            two.batch(("A|2", 2), tags=[tags]),
            local("L|1", append_id="key", tags=[tags]),
            one.batch(("A|1", 2), tags=[tags]),
        ]
    )
    assert outcomes == [Pushed(2, 1), Appended(5, [2]), Pushed(2, 1)]


@pytest.mark.parametrize(
    "kind", ["gap", "parked", "session", "position", "generation", "owner", "tags before", "append id"]
)
async def test_what_is_not_plain_leaves_nothing_behind(
    journal: Journal, postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "GROUPS_AFTER_FAILURE", 0)
    one, two = await fleet(journal)
    if kind == "tags before":
        await two.push(journal, ("A|2", 2), tags=["t:x"])
    if kind == "append id":
        await appended(journal, local("L|1", append_id="key"))
    name, seq_nr = "A|2", 3 if kind in ("gap", "tags before") else 2
    if kind == "parked":
        async with open_postgres_journal(postgres_url, now_us=lambda: START_US, new_id=ids().__next__) as other:
            assert (await two.push(other, (name, 3))).parked
    if kind == "owner":
        name, seq_nr = "L|1", 1
    request = two.batch((name, seq_nr))
    if kind == "session":
        await two.dial(journal)
    if kind == "position":
        await two.push(journal, withheld=1)
    if kind == "generation":
        request = replace(request, generation_id="another")
    before = await stored(journal)
    others: list[AppendRequest] = [one.batch(("A|1", 2))]
    if kind != "owner":
        others.append(local("L|1", append_id="key"))
    known = dict.fromkeys(["A|1", "A|2", "L|1"], 1)
    assert PlainCall.of([*others, request], START_US, known, generation_id="now"), "it is not even tried"
    assert await fails_alone(journal, postgres_url, *others, request)
    assert await stored(journal) == before


async def test_groups_of_an_entity_with_parked_events_do_not_try(
    journal: Journal, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "GROUPS_AFTER_FAILURE", 0)
    one, two = await fleet(journal)
    assert (await two.push(journal, ("A|2", 3))).parked
    Databases(postgres_url).run(HIDE_PLAIN)
    outcomes = await journal.log.append_group([one.batch(("A|1", 2)), two.batch(("A|2", 4))])
    assert outcomes[0] == Pushed(2, 1)
    one.position, two.position = 2, 3
    with pytest.raises(BackhaulError, match=r"journal\.broken"):  # without that entity they do
        await one.push(journal, ("A|1", 3))


async def test_a_gap_is_judged_in_the_same_append(journal: Journal) -> None:
    edge = Origin()
    await edge.dial(journal)
    await edge.push(journal, ("A|1", 1), ("A|2", 1))
    pushed = await edge.push(journal, ("A|1", 2), ("A|2", 3))
    assert [(parked.persistence_id, parked.code) for parked in pushed.parked] == [("A|2", "parked.gap")]


@pytest.mark.parametrize("is_plain", [True, False])
async def test_an_entitys_number_is_asked_for_again_in_a_new_session(
    journal: Journal, postgres_url: str, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be with a database that was put back, in which the number is another entity's."""
    if not is_plain:
        monkeypatch.setattr(PlainCall, "of", lambda *_, **__: None)
    await appended(journal, local("L|1"))
    await appended(journal, local("L|2", "L|2"))
    postgres_sessions(journal).writer.cut()
    Databases(postgres_url).run(SWAP)
    for number in (3, 4):
        assert (await appended(journal, local("L|1"))).seq_nr == [number]
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
