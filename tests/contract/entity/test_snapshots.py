"""Entities and their snapshots, on every storage: recovery begins there, and what they cover may really be deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.types import named
from common.core.journal.snapshot import NewSnapshot
from common.entity.decisions import Accepted, Current
from common.entity.definition import Decision, EventSourced, accept
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.support.builders import whole_log
from tests.support.entities import Add, Added, Count, Counters, entities_over

TYPES = frozenset({"Counter"})


class EveryTen(Counters):
    snapshot_every = 10


class AtHundred(Counters):
    def snapshot_when(self, state: Count, event: Any) -> bool:  # noqa: ANN401
        return state.value == 100


@pytest.fixture
async def commit(journal: Journal) -> AsyncIterator[GroupCommit]:
    async with open_group_commit(journal.log) as opened:
        yield opened


async def snapshot_number(journal: Journal, at_least: int, name: str = "Counter|a") -> int:
    """The entity's snapshot, which is stored beside its commands."""
    with trio.fail_after(10):
        while True:
            found = await journal.snapshots.get(name)
            if found is not None and found.seq_nr >= at_least:
                return found.seq_nr
            await trio.sleep(0.01)


async def delete_covered(journal: Journal) -> int:
    return await journal.log.trim(TrimLimit(2**62, 1_000, covered_types=TYPES))


async def test_events_below_the_snapshot_may_be_deleted_and_the_state_stays(
    journal: Journal, commit: GroupCommit
) -> None:
    async with entities_over(journal, commit, EveryTen) as entities:
        for _ in range(25):
            await entities.ask("Counter", "a", Add(1))
        await entities.ask("Counter", "b", Add(1))
        covered = await snapshot_number(journal, 20)
    assert await delete_covered(journal) == covered
    log = await whole_log(journal)
    assert log.seq_nr == [*range(covered + 1, 26), 1], "an entity without a snapshot loses nothing"
    async with entities_over(journal, commit, EveryTen) as entities:
        assert await entities.look("Counter", "a") == Current(Count(25), 25)
        assert await entities.ask("Counter", "a", Add(1)) == Accepted(26, 26, 1)
        assert await entities.look("Counter", "b") == Current(Count(1), 1)


async def test_all_events_may_be_gone(journal: Journal, commit: GroupCommit) -> None:
    async with entities_over(journal, commit, EveryTen) as entities:
        for _ in range(10):
            await entities.ask("Counter", "a", Add(1))
        await snapshot_number(journal, 10)
    assert await delete_covered(journal) == 10
    async with entities_over(journal, commit, EveryTen) as entities:
        assert await entities.ask("Counter", "a", Add(1)) == Accepted(11, 11, 1)


async def test_a_predicate_names_a_good_moment(journal: Journal, commit: GroupCommit) -> None:
    async with entities_over(journal, commit, AtHundred) as entities:
        for by in (60, 40, 1):
            await entities.ask("Counter", "a", Add(by))
        # Decided together with others, it is the state after all of them that is kept.
        assert await snapshot_number(journal, 2) == 2


async def test_a_repeat_whose_past_is_gone_is_answered_without_its_reply(journal: Journal, commit: GroupCommit) -> None:
    async with entities_over(journal, commit, EveryTen) as entities:
        await entities.ask("Counter", "a", Add(5), key="k")
        for _ in range(12):
            await entities.ask("Counter", "a", Add(1))
        await snapshot_number(journal, 10)
        assert await entities.ask("Counter", "a", Add(5), key="k") == Accepted(5, 1, 1, repeated=True)
        await delete_covered(journal)
        # The state before the first event is known without any event.
        assert await entities.ask("Counter", "a", Add(5), key="k") == Accepted(5, 1, 1, repeated=True)


async def test_deleted_events_without_a_snapshot_are_told_and_nothing_is_decided_on_a_wrong_state(
    journal: Journal, commit: GroupCommit
) -> None:
    async with entities_over(journal, commit) as entities:
        for _ in range(5):
            await entities.ask("Counter", "a", Add(1))
    for deleted in (3, 2):
        await journal.log.trim(TrimLimit(2**62, deleted))
        async with entities_over(journal, commit) as entities:
            with pytest.raises(BackhaulError) as raised:
                await entities.ask("Counter", "a", Add(1))
            assert raised.value.code == "entity.history_missing"


@named("Count")
@dataclass(frozen=True)
class LargerCount:
    value: int
    unit: str


class Changed(EventSourced[LargerCount, Add, Added]):
    """The counters after their state got a field, and nobody thought of the old snapshots."""

    entity_type = "Counter"
    empty = LargerCount(0, "piece")
    snapshot_every = 1_000

    def decide(self, state: LargerCount, command: Add) -> Decision:
        return accept(Added(command.by), reply=state.value + command.by)

    def evolve(self, state: LargerCount, event: Added) -> LargerCount:
        return LargerCount(state.value + event.by, state.unit)


async def test_a_snapshot_that_does_not_fit_any_more_is_left_out_while_the_events_are_there(
    journal: Journal, commit: GroupCommit
) -> None:
    async with entities_over(journal, commit, EveryTen) as entities:
        for _ in range(12):
            await entities.ask("Counter", "a", Add(1))
        await snapshot_number(journal, 10)
    async with entities_over(journal, commit, Changed) as entities:
        assert await entities.ask("Counter", "a", Add(1)) == Accepted(13, 13, 1)
    await delete_covered(journal)
    async with entities_over(journal, commit, Changed) as entities:
        with pytest.raises(BackhaulError) as raised:
            await entities.ask("Counter", "a", Add(1))
        assert raised.value.code == "entity.history_missing"


async def test_what_is_read_of_a_snapshot_is_only_what_it_says(journal: Journal, commit: GroupCommit) -> None:
    async with entities_over(journal, commit, EveryTen) as entities:
        for _ in range(3):
            await entities.ask("Counter", "a", Add(1))
        await journal.snapshots.put([NewSnapshot("Counter|a", 2, "Count", "json", b'{"value":1000}')])
    async with entities_over(journal, commit, EveryTen) as entities:
        assert await entities.look("Counter", "a") == Current(Count(1001), 3)
