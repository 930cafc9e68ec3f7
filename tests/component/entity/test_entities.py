"""Entities under a mock clock: bounds, deadlines, idle ones leaving, the end of a service; and definitions that are refused."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from common.core.errors import BackhaulError
from common.core.events.types import EventTypes
from common.entity.definition import Decision, accept, define
from common.entity.live import LiveEntity
from common.entity.runtime import Entities
from common.entity.settings import EntitySettings
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.watchdog import Watchdog
from tests.support.builders import SettableClock, ids
from tests.support.entities import Add, Added, Count, Counters, DoubtfulCommits, entities_over

COMMIT_S = 0.1


@asynccontextmanager
async def counting(
    settings: EntitySettings | None = None,
) -> AsyncIterator[tuple[Entities, GroupCommit, DoubtfulCommits]]:
    async with open_memory_journal(
        MemoryDatabase(), now_us=SettableClock(), new_id=ids().__next__, commit_delay_s=COMMIT_S
    ) as journal:
        doubtful = DoubtfulCommits(journal)
        async with (
            open_group_commit(doubtful.journal.log) as commit,
            entities_over(doubtful.journal, commit, settings=settings) as entities,
        ):
            yield entities, commit, doubtful


class TestBounds:
    async def test_memory_is_bounded_by_the_cache_limit(self, autojump_clock: trio.testing.MockClock) -> None:
        async with counting(EntitySettings(cached_max=10)) as (entities, _, _):
            for number in range(100):
                await entities.ask("Counter", str(number), Add(number))
                assert entities.cached <= 10
            assert (await entities.look("Counter", "3")).state == Count(3)

    async def test_nobody_else_keeps_an_entity_that_has_left(self, autojump_clock: trio.testing.MockClock) -> None:
        async with counting(EntitySettings(cached_max=10)) as (entities, _, _):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(entities.ask, "Counter", str(number), Add(1))
            await trio.sleep(200)
            assert entities.cached == 0
            gc.collect()
            mine = entities.definitions["Counter"]
            assert not [one for one in gc.get_objects() if type(one) is LiveEntity and one.definition is mine]

    async def test_entities_that_are_busy_stay_and_leave_afterwards(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with counting(EntitySettings(cached_max=10)) as (entities, _, _):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(entities.ask, "Counter", str(number), Add(1))
            for number in range(100):
                assert (await entities.look("Counter", str(number))).state == Count(1)
            assert entities.cached <= 100
            await trio.sleep(200)
            assert entities.cached == 0

    async def test_too_many_commands_are_refused(self, autojump_clock: trio.testing.MockClock) -> None:
        async with counting(EntitySettings(waiting_max=5)) as (entities, _, _):
            refusals = []

            async def caller() -> None:
                try:
                    await entities.ask("Counter", "a", Add(1))
                except BackhaulError as error:
                    refusals.append(error.code)

            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(caller)
            assert refusals == ["entity.busy"] * 3
            assert (await entities.look("Counter", "a")).state == Count(5)


class TestDeadlines:
    async def test_a_command_that_was_not_begun_has_no_effect(self, autojump_clock: trio.testing.MockClock) -> None:
        async with counting(EntitySettings(append_commands_max=1, deadline_look_s=0.01)) as (entities, _, _):
            codes = []

            async def caller(deadline_s: float) -> None:
                try:
                    await entities.ask("Counter", "a", Add(1), deadline_s=deadline_s)
                except BackhaulError as error:
                    codes.append(error.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller, COMMIT_S / 2)
                await trio.lowlevel.checkpoint()
                nursery.start_soon(caller, COMMIT_S / 2)
            assert sorted(codes) == ["entity.deadline", "entity.outcome_unknown"]
            assert (await entities.look("Counter", "a")).state == Count(1)

    async def test_an_append_in_doubt_is_asked_for_as_long_as_somebody_waits(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with counting(EntitySettings(deadline_s=3)) as (entities, _, doubtful):
            await entities.ask("Counter", "a", Add(1))
            doubtful.faults = ["after"] + ["before"] * 100
            with pytest.raises(BackhaulError) as raised:
                await entities.ask("Counter", "a", Add(1))
            assert raised.value.code == "entity.outcome_unknown"
            doubtful.faults = []
            await trio.sleep(1)
            assert (await entities.look("Counter", "a")).state == Count(2), "it had been stored"


class TestEnd:
    async def test_who_waits_at_the_end_is_told(self, autojump_clock: trio.testing.MockClock) -> None:
        codes = []

        async def caller(entities: Entities) -> None:
            try:
                await entities.ask("Counter", "a", Add(1))
            except BackhaulError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            async with counting() as (entities, _, _):
                for _ in range(3):
                    nursery.start_soon(caller, entities)
                    await trio.testing.wait_all_tasks_blocked()
        assert sorted(set(codes)) <= ["entity.stopping", "journal.closing"]
        assert len(codes) == 3
        with pytest.raises(BackhaulError) as raised:
            await entities.ask("Counter", "a", Add(1))
        assert raised.value.code == "entity.stopping"

    async def test_what_is_not_there_is_named(self, autojump_clock: trio.testing.MockClock) -> None:
        async with counting() as (entities, _, _):
            for asking, code in (
                (("Nothing", "a", Add(1)), "entity.unknown_type"),
                (("Counter", "a", Added(1)), "entity.unknown_command"),
                (("Counter", "a|b", Add(1)), "entity.invalid_name"),
            ):
                with pytest.raises(BackhaulError) as raised:
                    await entities.ask(*asking)
                assert raised.value.code == code


@dataclass
class Mutable:
    value: int = 0


class TestDefinitions:
    """A definition that cannot work is refused when the service starts, with its place."""

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"entity_type": ""}, "is empty"),
            ({"empty": Mutable()}, "has an empty state that is no Count"),
            ({"state_type": Mutable, "empty": Mutable()}, "can be changed in place"),
            ({"event_types": (int,)}, "neither a dataclass nor"),
        ],
    )
    def test_refused(self, change: dict[str, Any], why: str) -> None:
        bad = type("Bad", (Counters,), change)
        with pytest.raises(BackhaulError, match=why):
            define([bad], EventTypes())

    def test_an_async_decide_is_refused(self) -> None:
        class Late(Counters):
            async def decide(self, state: Count, command: object) -> Decision:  # type: ignore[override]
                return accept()

        with pytest.raises(BackhaulError, match="has an async decide"):
            define([Late], EventTypes())

    def test_one_entity_type_twice_names_both(self) -> None:
        class Again(Counters):
            pass

        with pytest.raises(BackhaulError, match=r"Counters \(.*Again \("):
            define([Counters, Again], EventTypes())


async def test_code_that_holds_the_loop_is_named_while_it_does() -> None:
    watchdog = Watchdog()
    with structlog.testing.capture_logs() as logs, watchdog.watching(limit_s=0.02):
        with watchdog.over("mine.decide (mine.py:1)"):
            for _ in range(8_000_000):
                if logs:
                    break
    assert [(line["event"], line["place"]) for line in logs] == [("code.slow", "mine.decide (mine.py:1)")]
    assert "test_code_that_holds_the_loop" in logs[0]["at"][-1]
