"""What every journal promises about groups of several origins: each is stored, or refused, as if it had come alone (P2, P5).

All entities are known before, so PostgreSQL tries to store these groups by the shorter of its server functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.core.events.batch import EventBatch, concat
from common.core.filters.selection import Selection
from common.core.journal.append import (
    Appended,
    AppendOutcome,
    AppendRefused,
    AppendRequest,
    Fenced,
    OutOfStep,
    ParkedEvent,
    Pushed,
    PushedAppend,
)
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import Origin, appended, local, seq_nrs, whole_log


@pytest.fixture(params=["", "t:a\x1ft:b"])
def tags(request: pytest.FixtureRequest) -> Sequence[str]:
    """Of all events of an entity, which is what most entities do."""
    return [request.param]


@pytest.fixture
async def fleet(journal: Journal, tags: Sequence[str]) -> list[Origin]:
    """Three origins, each with one event of an entity: ``E|1`` to ``E|3``. The fourth of the log is of ``L|1``."""
    edges = [Origin(f"edge-{number}") for number in (1, 2, 3)]
    for number, edge in enumerate(edges, start=1):
        await edge.dial(journal)
        await edge.push(journal, (f"E|{number}", 1), tags=tags)
    await appended(journal, local("L|1", tags=tags))
    return edges


async def test_all_are_stored_in_the_order_of_the_group(
    journal: Journal, fleet: list[Origin], tags: Sequence[str]
) -> None:
    one, two, three = fleet
    group: list[AppendRequest] = [
        three.batch(("E|3", 2), tags=tags),
        local("L|1", append_id="key-1", tags=tags),
        one.batch(("E|1", 2), ("E|1", 3), tags=tags, withheld=2),
        local("L|1", "L|1", append_id="key-2", tags=tags),
        two.batch(("E|2", 2), tags=tags),
    ]
    given: list[EventBatch] = []
    with journal.log.feed.listen(given.append):
        outcomes = await journal.log.append_group(group)
    assert outcomes == [Pushed(2, 1), Appended(6, [2]), Pushed(5, 2), Appended(9, [3, 4]), Pushed(2, 1)]
    log = await whole_log(journal)
    assert seq_nrs(log)[4:] == [("E|3", 2), ("L|1", 2), ("E|1", 2), ("E|1", 3), ("L|1", 3), ("L|1", 4), ("E|2", 2)]
    assert log.origin_seq_nr[4:] == [2, 0, 2, 3, 0, 0, 2]
    assert log.payload[4:] == [payload for request in group for payload in request.events.payload]
    assert log.tags == [*tags] * 11
    assert concat(given) == log.slice(4, 11)
    by_tag = await whole_log(journal, selection=Selection(tags=frozenset({"t:b"})))
    assert by_tag.position == (log.position if any(tags) else [])
    places = {request.origin_id: request.through for request in group if isinstance(request, PushedAppend)}
    assert {state.origin_id: state.stored for state in await journal.origins.rows()} == places

    # its outcome was not learned: once more
    assert await journal.log.append_group(group) == [
        OutOfStep(2),
        Appended(6, [2], repeated=True),
        OutOfStep(5),
        Appended(9, [3, 4], repeated=True),
        OutOfStep(2),
    ]
    assert await whole_log(journal) == log


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("an older session", Fenced(2)),
        ("an origin that never dialled", Fenced(0)),
        ("another position", OutOfStep(1)),
        ("a gap", Pushed(2, 0, (ParkedEvent(2, "E|2", 3, "parked.gap"),))),
        ("a number that is known", Pushed(2, 0, (ParkedEvent(2, "E|2", 1, "parked.conflict"),))),
        ("one number twice", Pushed(3, 1, (ParkedEvent(3, "E|2", 2, "parked.conflict"),))),
        ("another one's entity", Pushed(2, 0, (ParkedEvent(2, "L|1", 1, "parked.foreign_owner"),))),
    ],
)
async def test_one_that_is_refused_leaves_the_others_as_they_are(
    journal: Journal, fleet: list[Origin], tags: Sequence[str], kind: str, refused: AppendOutcome
) -> None:
    one, two, three = fleet
    match kind:
        case "an older session":
            request = two.batch(("E|2", 2), tags=tags)
            await two.dial(journal)
        case "an origin that never dialled":
            request = replace(two.batch(("E|2", 2), tags=tags), origin_id="edge-4")
        case "another position":
            request = replace(two.batch(("E|2", 2), tags=tags), after_position=0)
        case "a gap":
            request = two.batch(("E|2", 3), tags=tags)
        case "a number that is known":
            request = two.batch(("E|2", 1), tags=tags)
        case "one number twice":
            request = two.batch(("E|2", 2), ("E|2", 2), tags=tags)
        case _:
            request = two.batch(("L|1", 1), tags=tags)
    group = [one.batch(("E|1", 2), tags=tags), request, three.batch(("E|3", 2), tags=tags)]
    outcomes = await journal.log.append_group(group)
    assert outcomes == [Pushed(2, 1), refused, Pushed(2, 1)]
    stored = [("E|2", 2)] if kind == "one number twice" else []
    assert seq_nrs(await whole_log(journal))[4:] == [("E|1", 2), *stored, ("E|3", 2)]
    places = [2, outcomes[1].position if isinstance(outcomes[1], Pushed) else 1, 2]
    assert [state.stored.position for state in await journal.origins.rows()] == places


async def test_a_stretch_of_no_length_leaves_its_origin_as_it_is(
    journal: Journal, storage: Storage, fleet: list[Origin], tags: Sequence[str]
) -> None:
    before = await journal.origins.rows()
    storage.clock.advance(60)
    fleet[0].generation = "g2"
    outcomes = await journal.log.append_group([local("L|1", tags=tags), fleet[0].batch()])
    assert outcomes == [Appended(5, [2]), Pushed(1, 0)]
    assert await journal.origins.rows() == before


@pytest.mark.parametrize(
    ("name", "expected", "code"),
    [("E|3", {}, "append.foreign_owner"), ("L|1", {"L|1": 4}, "append.wrong_expected_seq_nr")],
)
async def test_a_refused_append_leaves_the_pushed_events_as_they_are(
    journal: Journal, fleet: list[Origin], tags: Sequence[str], name: str, expected: dict[str, int], code: str
) -> None:
    one, two, _ = fleet
    group: list[AppendRequest] = [
        one.batch(("E|1", 2), tags=tags),
        local(name, expected=expected, tags=tags),
        two.batch(("E|2", 2), tags=tags),
    ]
    stored, refused, also_stored = await journal.log.append_group(group)
    assert (stored, also_stored) == (Pushed(2, 1), Pushed(2, 1))
    assert isinstance(refused, AppendRefused)
    assert refused.code == code
    assert seq_nrs(await whole_log(journal))[4:] == [("E|1", 2), ("E|2", 2)]


async def test_an_entity_that_changes_its_tags_is_found_by_both(
    journal: Journal, fleet: list[Origin], tags: Sequence[str]
) -> None:
    one, two, _ = fleet
    await journal.log.append_group([one.batch(("E|1", 2), tags=["t:c"]), two.batch(("E|2", 2), tags=tags)])
    log = await whole_log(journal)
    assert log.prev_tags[4:] == [tags[0] or "\x1f", ""]
    for tag, wanted in (("t:b", log.position if any(tags) else []), ("t:c", [5])):
        assert (await whole_log(journal, selection=Selection(tags=frozenset({tag})))).position == wanted


async def test_what_one_leaves_parked_does_not_hold_up_the_others(
    journal: Journal, fleet: list[Origin], tags: Sequence[str]
) -> None:
    one, two, _ = fleet
    for number in (2, 3):
        group = [one.batch(("E|1", number), tags=tags), two.batch(("E|2", number + 1), tags=tags)]
        outcomes = await journal.log.append_group(group)
        code = "parked.gap" if number == 2 else "parked.behind"
        assert outcomes == [Pushed(number, 1), Pushed(number, 0, (ParkedEvent(number, "E|2", number + 1, code),))]
        one.position = two.position = number
    retried = await journal.parked.retry("E|2", accept_gap=True)
    assert retried is not None
    group = [one.batch(("E|1", 4), tags=tags), two.batch(("E|2", 5), tags=tags)]
    assert await journal.log.append_group(group) == [Pushed(4, 1), Pushed(4, 1)]
    assert seq_nrs(await whole_log(journal))[4:] == [
        ("E|1", 2), ("E|1", 3), ("E|2", 2), ("E|2", 3), ("E|1", 4), ("E|2", 4)
    ]  # fmt: skip
