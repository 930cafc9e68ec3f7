"""Durable state, on every storage: values with revisions, a change feed in the log, questions by tag and column."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import split_tags
from common.core.events.types import EventTypes
from common.core.journal.append import LocalAppend
from common.core.journal.statement import Statement
from common.entity.durable_state import ColumnValue, DurableState, StateDeleted, Versioned, Where, define_states
from common.entity.states import States
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import append, events, whole_log
from tests.support.entities import DoubtfulCommits


@dataclass(frozen=True)
class Drone:
    site: str
    battery: float
    labels: tuple[str, ...] = ()
    flights: int | None = None


class Drones(DurableState[Drone]):
    entity_type = "DroneState"
    columns: ClassVar[Mapping[str, str]] = {
        "site": "TEXT",
        "battery": "DOUBLE PRECISION",
        "is_low": "BOOLEAN",
        "flights": "BIGINT",
    }

    def tags(self, value: Drone) -> Iterable[str]:
        return value.labels

    def column_values(self, value: Drone) -> Mapping[str, ColumnValue]:
        return {
            "site": value.site,
            "battery": value.battery,
            "is_low": value.battery < 20,
            "flights": value.flights,
        }


class DronesLater(Drones):
    columns_added: ClassVar[Sequence[Mapping[str, str]]] = [{"maker": "TEXT"}]

    def column_values(self, value: Drone) -> Mapping[str, ColumnValue]:
        return {**super().column_values(value), "maker": "acme"}


async def opened(
    journal: Journal, commit: GroupCommit, definition: type[DurableState[Any]] = Drones, node: str = "node-1"
) -> States:
    states = States(
        journal,
        commit,
        define_states([definition], EventTypes()),
        node=node,
        now_us=lambda: 1_000,
        deadline_s=30,
    )
    await states.prepare()
    return states


@pytest.fixture
async def commit(journal: Journal) -> AsyncIterator[GroupCommit]:
    async with open_group_commit(journal.log) as running:
        yield running


@pytest.fixture
async def states(journal: Journal, commit: GroupCommit) -> States:
    return await opened(journal, commit)


async def test_a_value_is_read_as_it_was_written_with_its_revision(states: States) -> None:
    assert await states.get("DroneState", "d1") == Versioned("d1", None, 0)
    assert await states.upsert("DroneState", "d1", Drone("oslo", 80, ("blue",))) == 1
    assert await states.upsert("DroneState", "d1", Drone("oslo", 75.5, ("blue", "new"), 3)) == 2
    assert await states.get("DroneState", "d1") == Versioned(
        "d1", Drone("oslo", 75.5, ("blue", "new"), 3), 2, 1_000, ("blue", "new")
    )


async def test_a_change_goes_on_from_the_revision_it_names(states: States) -> None:
    await states.upsert("DroneState", "d1", Drone("oslo", 80), expected=0)
    await states.upsert("DroneState", "d1", Drone("oslo", 70), expected=1)
    for late in (0, 1, 3):
        with pytest.raises(BackhaulError) as raised:
            await states.upsert("DroneState", "d1", Drone("rome", 0), expected=late)
        assert raised.value.code == "state.wrong_revision"
        assert raised.value.details == {"expected": late, "actual": 2}
        with pytest.raises(BackhaulError):
            await states.delete("DroneState", "d1", expected=late)
    assert (await states.get("DroneState", "d1")).value == Drone("oslo", 70.0)


async def test_a_deleted_value_is_gone_and_its_revisions_go_on(states: States) -> None:
    await states.upsert("DroneState", "d1", Drone("oslo", 80, ("blue",)))
    assert await states.delete("DroneState", "d1", expected=1) == 2
    assert await states.get("DroneState", "d1") == Versioned("d1", None, 2)
    assert await states.query("DroneState", tag="blue") == []
    assert await states.delete("DroneState", "d1") == 2
    assert await states.upsert("DroneState", "d1", Drone("oslo", 100), expected=2) == 3


async def test_every_change_is_an_event_with_the_values_tags(states: States, journal: Journal) -> None:
    await states.upsert("DroneState", "d1", Drone("oslo", 80, ("blue",)))
    await states.delete("DroneState", "d1")
    log = await whole_log(journal)
    assert log.persistence_id == ["DroneState|d1"] * 2
    assert log.seq_nr == [1, 2]
    assert log.event_type == ["Drone", "StateDeleted"]
    assert [split_tags(tags) for tags in log.tags] == [("blue",), ("blue",)]
    registry = states.definitions["DroneState"].registry
    assert registry.decode_all(log) == [Drone("oslo", 80.0, ("blue",)), StateDeleted()]


async def test_values_are_found_by_tag_and_by_column(states: States) -> None:
    for number in range(10):
        labels = ("even",) if number % 2 == 0 else ("odd", "often")
        await states.upsert(
            "DroneState", f"d{number}", Drone("oslo" if number < 5 else "rome", number * 10, labels, number)
        )
    await states.upsert("DroneState", "d0", Drone("oslo", 0, ("odd",)))

    async def ids(**question: Any) -> list[str]:  # noqa: ANN401
        return [found.entity_id for found in await states.query("DroneState", **question)]

    assert await ids(tag="even") == ["d2", "d4", "d6", "d8"]
    assert await ids(tag="odd", where=[Where("site", "=", "oslo")]) == ["d0", "d1", "d3"]
    assert await ids(where=[Where("is_low", "=", True)]) == ["d0", "d1"]
    assert await ids(where=[Where("battery", ">=", 30), Where("battery", "<", 55.5)]) == ["d3", "d4", "d5"]
    assert await ids(where=[Where("flights", ">", 7)]) == ["d8", "d9"]
    assert await ids(after="d3", max_rows=2) == ["d4", "d5"]


@pytest.mark.parametrize(
    "where", [Where("site; DROP TABLE x", "=", "a"), Where("site", "= 1 OR", "a"), Where("battery", "<", "a")]
)
async def test_a_question_that_makes_no_sense_is_refused(states: States, where: Where) -> None:
    with pytest.raises(BackhaulError) as raised:
        await states.query("DroneState", where=[where])
    assert raised.value.code == "state.bad_query"


async def test_what_is_not_a_value_of_the_type_is_refused_and_nothing_is_written(
    states: States, journal: Journal
) -> None:
    for value, code in (
        ("text", "state.wrong_value"),
        (Drone("oslo", cast(float, "full")), "types.unfit"),
        (Drone("oslo", 1, ("a\nb",)), "events.invalid"),
        (Drone("oslo", 1, (), 2**70), "types.unfit"),
    ):
        with pytest.raises(BackhaulError) as raised:
            await states.upsert("DroneState", "d1", value)
        assert raised.value.code == code
    assert len(await whole_log(journal)) == 0


async def test_many_writers_without_a_revision_all_succeed(journal: Journal, commit: GroupCommit) -> None:
    both = [await opened(journal, commit, node=name) for name in ("one", "two")]
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(both[number % 2].upsert, "DroneState", "d1", Drone("oslo", number))
    found = await both[0].get("DroneState", "d1")
    log = await whole_log(journal)
    assert found.revision == 20 == len(log)
    assert both[0].definitions["DroneState"].registry.decode_all(log)[-1] == found.value


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_lost_answer_is_found_out(journal: Journal, fault: str) -> None:
    doubtful = DoubtfulCommits(journal)
    async with open_group_commit(doubtful.journal.log) as commit:
        states = await opened(doubtful.journal, commit)
        await states.upsert("DroneState", "d1", Drone("oslo", 1))
        doubtful.faults = [fault]
        assert await states.upsert("DroneState", "d1", Drone("oslo", 2), expected=1) == 2
    assert len(await whole_log(journal)) == 2


async def test_value_and_event_are_written_together_or_not_at_all(states: States, journal: Journal) -> None:
    await states.upsert("DroneState", "d1", Drone("oslo", 1))
    bad = LocalAppend(events("A|1"), statements=(Statement("INSERT INTO no_such_table VALUES ($1)", [(1,)]),))
    with pytest.raises(BackhaulError) as raised:
        await append(journal, bad)
    assert raised.value.code == "projection.statement_failed"
    late = LocalAppend(
        events("DroneState|d1"), {"DroneState|d1": 0}, statements=(Statement("DELETE FROM state_drone_state"),)
    )
    await append(journal, late)
    assert len(await whole_log(journal)) == 1
    assert (await states.get("DroneState", "d1")).value == Drone("oslo", 1.0)


async def test_a_bad_statement_fails_its_own_request_alone(journal: Journal, commit: GroupCommit) -> None:
    states = await opened(journal, commit)
    bad = LocalAppend(events("A|1"), statements=(Statement("INSERT INTO no_such_table VALUES ($1)", [(1,)]),))
    codes = []

    async def fail() -> None:
        try:
            await commit.append(bad)
        except BackhaulError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(states.upsert, "DroneState", f"d{number}", Drone("oslo", number))
            nursery.start_soon(fail)
    assert codes == ["projection.statement_failed"] * 5
    assert len(await states.query("DroneState")) == 5


async def test_values_outlive_the_service_and_columns_can_be_added(storage: Storage) -> None:
    async with storage.open() as journal, open_group_commit(journal.log) as commit:
        states = await opened(journal, commit)
        await states.upsert("DroneState", "d1", Drone("oslo", 1))
    async with storage.open() as journal, open_group_commit(journal.log) as commit:
        later = await opened(journal, commit, DronesLater)
        assert (await later.get("DroneState", "d1")).value == Drone("oslo", 1.0)
        assert await later.query("DroneState", where=[Where("maker", "=", "acme")]) == []
        await later.upsert("DroneState", "d1", Drone("oslo", 2), expected=1)
        [found] = await later.query("DroneState", where=[Where("maker", "=", "acme")])
        assert found.revision == 2
    async with storage.open() as journal, open_group_commit(journal.log) as commit:
        with pytest.raises(BackhaulError) as raised:
            await opened(journal, commit, Drones)
        assert raised.value.code == "journal.schema_newer"


class Counted(Drones):
    """Keeps a table of its own beside the value: at what site a drone is, and how often it was changed."""

    migrations: ClassVar[Sequence[Sequence[str]]] = [
        ["CREATE TABLE at_site (drone TEXT PRIMARY KEY, site TEXT NOT NULL, changes BIGINT NOT NULL)"]
    ]

    def changed(self, now: Versioned[Drone]) -> Statement | Sequence[Statement] | None:
        if now.value is None:
            return Statement("DELETE FROM at_site WHERE drone = $1", [(now.entity_id,)])
        if now.value.site == "nowhere":
            return None
        gone = Statement("DELETE FROM at_site WHERE drone = $1", [(now.entity_id,)])
        there = Statement(
            "INSERT INTO at_site (drone, site, changes) VALUES ($1, $2, $3)",
            [(now.entity_id, None if now.value.site == "bad" else now.value.site, now.revision)],
        )
        # Alternately the one or the other first: each request's statements run in their order.
        if now.entity_id.endswith("!"):
            return [there, Statement("UPDATE at_site SET changes = 100 WHERE drone = $1", [(now.entity_id,)])]
        return [Statement("UPDATE at_site SET changes = 100 WHERE drone = $1", [(now.entity_id,)]), gone, there]


AT_SITE = "SELECT drone, site, changes FROM at_site ORDER BY drone"


async def test_tables_of_the_application_change_with_the_value_or_not_at_all(
    journal: Journal, commit: GroupCommit
) -> None:
    states = await opened(journal, commit, Counted)
    await states.upsert("DroneState", "d1", Drone("oslo", 80))
    await states.upsert("DroneState", "d2", Drone("rome", 80))
    await states.upsert("DroneState", "d1", Drone("bergen", 70), expected=1)
    assert await journal.projections.query(AT_SITE) == [("d1", "bergen", 2), ("d2", "rome", 1)]
    with pytest.raises(BackhaulError) as raised:
        await states.upsert("DroneState", "d1", Drone("bad", 1))
    assert raised.value.code == "state.change_failed"
    assert "at_site" in raised.value.message
    with pytest.raises(BackhaulError):
        await states.upsert("DroneState", "d2", Drone("nice", 1), expected=9)
    assert await journal.projections.query(AT_SITE) == [("d1", "bergen", 2), ("d2", "rome", 1)]
    assert (await states.get("DroneState", "d1")).value == Drone("bergen", 70.0)
    assert len(await whole_log(journal)) == 3
    await states.delete("DroneState", "d2")
    await states.upsert("DroneState", "d1", Drone("nowhere", 1))
    assert await journal.projections.query(AT_SITE) == [("d1", "bergen", 2)]


async def test_changes_of_one_commit_run_each_in_its_order_and_a_bad_one_fails_alone(
    journal: Journal, commit: GroupCommit
) -> None:
    states = await opened(journal, commit, Counted)
    refused: list[str] = []

    async def change(entity_id: str, site: str) -> None:
        try:
            await states.upsert("DroneState", entity_id, Drone(site, 1))
        except BackhaulError as error:
            refused.append(f"{entity_id} {error.code}")

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(change, f"d{number}{'!' if number % 2 else ''}", "bad" if number == 2 else "oslo")
    assert refused == ["d2 state.change_failed"]
    # "!": inserted, then updated; the others: updated (there was no row), then inserted.
    assert [row[::2] for row in await journal.projections.query(AT_SITE)] == [
        ("d0", 1),
        ("d1!", 100),
        ("d3!", 100),
        ("d4", 1),
        ("d5!", 100),
    ]


class Raising(Drones):
    def changed(self, now: Versioned[Drone]) -> Statement | Sequence[Statement] | None:
        if now.entity_id == "d1":
            raise LookupError(now.entity_id)
        return cast(Statement, "UPDATE x")


async def test_a_change_function_that_fails_changes_nothing_and_is_named(journal: Journal, commit: GroupCommit) -> None:
    states = await opened(journal, commit, Raising)
    for entity_id in ("d1", "d2"):
        with pytest.raises(BackhaulError) as raised:
            await states.upsert("DroneState", entity_id, Drone("oslo", 1))
        assert raised.value.code == "state.function_failed"
        assert "Raising.changed" in raised.value.message
    assert len(await whole_log(journal)) == 0


class OneStep(Drones):
    migrations: ClassVar[Any] = ["CREATE TABLE x (a TEXT)"]


class Unsaid(DurableState[Drone]):
    entity_type = "Unsaid"
    columns: ClassVar[Mapping[str, str]] = {"revision": "BIGINT"}


class Untyped(DurableState[Drone]):
    entity_type = "Untyped"
    columns: ClassVar[Mapping[str, str]] = {"a": "JSONB"}


@pytest.mark.parametrize("bad", [Unsaid, Untyped, OneStep])
def test_a_definition_that_cannot_work_is_refused(bad: type[DurableState[Drone]]) -> None:
    with pytest.raises(BackhaulError) as raised:
        define_states([bad], EventTypes())
    assert raised.value.code == "state.bad_definition"
    assert f"test_states.{bad.__name__} (" in raised.value.message


def test_two_definitions_of_one_type_name_both() -> None:
    with pytest.raises(BackhaulError, match=r"Drones \(.*DronesLater \("):
        define_states([Drones, DronesLater], EventTypes())
