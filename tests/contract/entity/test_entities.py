"""What entities promise, on every storage: answers that are true, order, no command lost or counted twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from random import Random

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.journal.append import Appended, LocalAppend
from common.entity.decisions import Accepted, Current, Rejected
from common.entity.runtime import Entities
from common.entity.settings import EntitySettings
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.stores.journal import Journal
from tests.support.builders import Origin, whole_log
from tests.support.entities import Add, AddEach, Break, Count, DoubtfulCommits, Take, entities_over

QUICK = EntitySettings(retry_s=0.02, contended_pause_s=0.002)


@pytest.fixture
async def commit(journal: Journal) -> AsyncIterator[GroupCommit]:
    async with open_group_commit(journal.log) as opened:
        yield opened


@pytest.fixture
async def entities(journal: Journal, commit: GroupCommit) -> AsyncIterator[Entities]:
    async with entities_over(journal, commit, settings=QUICK) as opened:
        yield opened


async def count(entities: Entities, entity_id: str) -> int:
    state = (await entities.look("Counter", entity_id)).state
    assert isinstance(state, Count)
    return state.value


async def add_behind_their_back(journal: Journal, entity_id: str, by: int) -> None:
    """As another node, or a program at the intake, does."""
    events = new_events([f"Counter|{entity_id}"], ["Added"], [b'{"by":%d}' % by])
    [reported] = await journal.log.append_group([LocalAppend(events)])
    assert isinstance(reported, Appended)


class TestAnswers:
    async def test_a_command_is_answered_with_its_reply_and_the_number_of_its_last_event(
        self, entities: Entities
    ) -> None:
        assert await entities.ask("Counter", "a", Add(5)) == Accepted(reply=5, seq_nr=1, events=1)
        assert await entities.ask("Counter", "a", AddEach((1, 2, 3))) == Accepted(seq_nr=4, events=3)
        assert await entities.ask("Counter", "a", Take(1)) == Accepted(reply=10, seq_nr=5, events=1)
        assert await entities.ask("Counter", "a", Take(11)) == Rejected("only 10 are there", 5)
        assert await entities.look("Counter", "a") == Current(Count(10), 5)

    async def test_a_command_without_events_is_accepted_and_stores_nothing(
        self, entities: Entities, journal: Journal
    ) -> None:
        assert await entities.ask("Counter", "a", AddEach(())) == Accepted()
        assert await journal.log.entity_head("Counter|a") is None
        assert len(await whole_log(journal)) == 0

    async def test_events_are_stored_by_their_names_with_tags_of_the_state_after(
        self, entities: Entities, journal: Journal
    ) -> None:
        await entities.ask("Counter", "a", AddEach((99, 1)))
        log = await whole_log(journal)
        assert log.event_type == ["Added", "Added"]
        assert log.codec == ["json", "json"]
        assert log.payload == [b'{"by":99,"note":""}', b'{"by":1,"note":""}']
        assert log.tags == ["", "high"]

    async def test_another_runtime_finds_the_same_state(self, journal: Journal, commit: GroupCommit) -> None:
        async with entities_over(journal, commit) as first:
            for number in range(120):
                await first.ask("Counter", "a", Add(number))
        async with entities_over(journal, commit) as second:
            assert await second.look("Counter", "a") == Current(Count(sum(range(120))), 120)


class TestOtherWriters:
    async def test_a_rejection_is_confirmed_against_what_others_have_stored(
        self, entities: Entities, journal: Journal
    ) -> None:
        assert isinstance(await entities.ask("Counter", "a", Take(1)), Rejected)
        await add_behind_their_back(journal, "a", 3)
        assert await entities.ask("Counter", "a", Take(2)) == Accepted(reply=1, seq_nr=2, events=1)

    async def test_a_look_shows_what_others_have_stored(self, entities: Entities, journal: Journal) -> None:
        assert await count(entities, "a") == 0
        await add_behind_their_back(journal, "a", 3)
        assert await count(entities, "a") == 3

    async def test_a_decision_is_made_again_after_a_conflict(self, entities: Entities, journal: Journal) -> None:
        await entities.ask("Counter", "a", Add(1))
        await add_behind_their_back(journal, "a", 10)
        assert await entities.ask("Counter", "a", Add(1)) == Accepted(reply=12, seq_nr=3, events=1)
        assert entities.conflicts == 1

    async def test_an_entity_of_an_edge_is_refused_and_stays_usable_for_looking(
        self, entities: Entities, journal: Journal
    ) -> None:
        origin = Origin()
        await origin.dial(journal)
        await origin.push(journal, ("Counter|e", 1), payload=b'{"by":7}')
        with pytest.raises(BackhaulError) as refused:
            await entities.ask("Counter", "e", Add(1))
        assert refused.value.code in {"append.foreign_owner", "entity.unknown_event"}

    async def test_two_runtimes_and_one_hot_entity_count_every_command_once(
        self, journal: Journal, commit: GroupCommit
    ) -> None:
        reported = {"one": 0, "two": 0}

        async def caller(entities: Entities, name: str) -> None:
            for _ in range(10):
                await entities.ask("Counter", "hot", Add(1), deadline_s=60)
                reported[name] += 1

        async with (
            entities_over(journal, commit, settings=QUICK, node="one") as one,
            entities_over(journal, commit, settings=QUICK, node="two") as two,
        ):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(caller, one, "one")
                    nursery.start_soon(caller, two, "two")
            assert reported == {"one": 80, "two": 80}
            assert await count(one, "hot") == await count(two, "hot") == 160


class TestOrder:
    async def test_commands_to_one_entity_are_decided_as_they_were_asked(
        self, entities: Entities, journal: Journal
    ) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(entities.ask, "Counter", "a", Add(number))
                await trio.lowlevel.checkpoint()
        payloads = (await whole_log(journal)).payload
        assert payloads == [b'{"by":%d,"note":""}' % number for number in range(300)]

    async def test_commands_that_wait_share_an_append(self, entities: Entities, commit: GroupCommit) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(entities.ask, "Counter", "a", Add(1))
        assert await count(entities, "a") == 100
        assert commit.commits < 50


class TestKeys:
    async def test_a_repeat_is_answered_as_the_first_time(self, entities: Entities, journal: Journal) -> None:
        first = await entities.ask("Counter", "a", Add(5), key="k1")
        await entities.ask("Counter", "a", Add(1))
        assert first == Accepted(reply=5, seq_nr=1, events=1)
        assert await entities.ask("Counter", "a", Add(5), key="k1") == Accepted(5, 1, 1, repeated=True)
        assert await count(entities, "a") == 6

    async def test_a_repeat_is_known_also_when_the_present_state_would_say_no(self, entities: Entities) -> None:
        await entities.ask("Counter", "a", Add(5))
        assert await entities.ask("Counter", "a", Take(5), key="k1") == Accepted(0, 2, 1)
        assert await entities.ask("Counter", "a", Take(5), key="k1") == Accepted(0, 2, 1, repeated=True)
        assert isinstance(await entities.ask("Counter", "a", Take(5), key="k2"), Rejected)

    async def test_a_key_with_another_command_is_refused(self, entities: Entities) -> None:
        await entities.ask("Counter", "a", Add(5), key="k1")
        for command in (Add(6), Take(100)):
            with pytest.raises(BackhaulError) as refused:
                await entities.ask("Counter", "a", command, key="k1")
            assert refused.value.code == "append.id_reused"

    async def test_keyed_and_other_commands_of_many_callers_are_each_counted_once(self, entities: Entities) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(partial(entities.ask, "Counter", "a", Add(1), key=f"k{number % 20}"))
                nursery.start_soon(entities.ask, "Counter", "a", Add(1))
        assert await count(entities, "a") == 20 + 60


class TestDoubt:
    """An append whose answer was lost is neither forgotten nor made twice."""

    @pytest.mark.parametrize("fault", ["before", "after"])
    async def test_a_lost_answer_is_found_out(self, journal: Journal, fault: str) -> None:
        doubtful = DoubtfulCommits(journal)
        async with (
            open_group_commit(doubtful.journal.log) as commit,
            entities_over(doubtful.journal, commit, settings=QUICK) as entities,
        ):
            await entities.ask("Counter", "a", Add(1))
            doubtful.faults = [fault, "before", fault]
            assert await entities.ask("Counter", "a", Add(1)) == Accepted(reply=2, seq_nr=2, events=1)
            assert await count(entities, "a") == 2

    async def test_a_lost_answer_and_another_writer_are_told_apart(self, journal: Journal) -> None:
        doubtful = DoubtfulCommits(journal)
        async with (
            open_group_commit(doubtful.journal.log) as commit,
            entities_over(doubtful.journal, commit, settings=QUICK) as entities,
        ):
            await entities.ask("Counter", "a", Add(1))
            doubtful.faults = ["before"]

            async def another() -> None:
                await trio.sleep(0.005)
                await add_behind_their_back(journal, "a", 1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(another)
                answer = await entities.ask("Counter", "a", Add(1))
            assert answer == Accepted(reply=3, seq_nr=3, events=1)

    async def test_random_lost_answers_lose_and_double_nothing(self, journal: Journal) -> None:
        doubtful, chance = DoubtfulCommits(journal), Random(7)
        doubtful.faults = [chance.choice(["", "before", "after"]) for _ in range(40)]
        async with (
            open_group_commit(doubtful.journal.log) as commit,
            entities_over(doubtful.journal, commit, settings=QUICK) as entities,
        ):
            acknowledged = 0

            async def caller(number: int) -> None:
                nonlocal acknowledged
                for _ in range(10):
                    await entities.ask("Counter", str(number % 3), Add(1), deadline_s=60)
                    acknowledged += 1

            async with trio.open_nursery() as nursery:
                for number in range(9):
                    nursery.start_soon(caller, number)
            assert acknowledged == 90
            assert sum([await count(entities, str(number)) for number in range(3)]) == 90


class TestFaults:
    """A fault of the application answers its own command; others go on, and nothing is half written."""

    @pytest.mark.parametrize(
        ("how", "code"),
        [
            ("raises", "entity.decide_failed"),
            ("exits", "entity.decide_failed"),
            ("tags are a text", "entity.function_failed"),
            ("returns none", "entity.wrong_decision"),
            ("unregistered", "types.unknown"),
            ("evolve raises", "entity.evolve_failed"),
            ("too large", "events.too_large"),
            ("not its type", "types.unfit"),
        ],
    )
    async def test_only_the_faulty_command_fails(
        self, entities: Entities, journal: Journal, how: str, code: str
    ) -> None:
        async def faulty() -> None:
            with pytest.raises(BackhaulError, match=r"tests[./]support[./]entities") as raised:
                await entities.ask("Counter", "a", Break(how))
            assert raised.value.code == code

        async with trio.open_nursery() as nursery:
            nursery.start_soon(entities.ask, "Counter", "a", Add(1))
            nursery.start_soon(faulty)
            nursery.start_soon(entities.ask, "Counter", "a", Add(1))
            nursery.start_soon(entities.ask, "Counter", "b", Add(1))
        assert [await count(entities, name) for name in "ab"] == [2, 1]
        assert len(await whole_log(journal)) == 3

    async def test_an_event_that_cannot_be_applied_fails_its_entity_alone(
        self, entities: Entities, journal: Journal
    ) -> None:
        await add_behind_their_back(journal, "a", 1)
        events = new_events(
            ["Counter|a", "Counter|c"], ["Added", "Vanished"], [b'{"by":1,"note":"evolve raises"}', b"{}"]
        )
        await journal.log.append_group([LocalAppend(events)])
        for name, code in (("a", "entity.evolve_failed"), ("c", "entity.unknown_event")):
            with pytest.raises(BackhaulError) as raised:
                await entities.ask("Counter", name, Add(1))
            assert raised.value.code == code
            assert raised.value.details["seq_nr"] == {"a": 2, "c": 1}[name]
        assert await entities.ask("Counter", "b", Add(1)) == Accepted(1, 1, 1)


class TestCancellation:
    async def test_cancelled_callers_leave_no_entity_stuck_and_no_answer_wrong(
        self, entities: Entities, journal: Journal
    ) -> None:
        chance, acknowledged = Random(3), 0

        async def caller() -> None:
            nonlocal acknowledged
            for _ in range(10):
                with trio.move_on_after(chance.uniform(0, 0.004)):
                    await entities.ask("Counter", str(chance.randrange(2)), Add(1))
                    acknowledged += 1

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(caller)
        total = await count(entities, "0") + await count(entities, "1")
        assert acknowledged <= total <= 300
        assert total == len(await whole_log(journal))


class TestColdStart:
    """Entities that are asked for at the same time are read together; each comes to its own state all the same."""

    async def test_events_of_several_entities_are_read_each_in_order(self, journal: Journal) -> None:
        for number in range(4):
            await add_behind_their_back(journal, "a", number)
            await add_behind_their_back(journal, "b", number)
        found = await journal.log.read_entities({"Counter|b": 2, "Counter|none": 0, "Counter|a": 0}, each_max=3)
        of = {
            name: [i for i, other in enumerate(found.persistence_id) if other == name] for name in found.persistence_id
        }
        assert {name: [found.seq_nr[i] for i in places] for name, places in of.items()} == {
            "Counter|a": [1, 2, 3],
            "Counter|b": [3, 4],
        }
        assert all(places == list(range(places[0], places[-1] + 1)) for places in of.values())
        assert [found.payload[i] for i in of["Counter|b"]] == [b'{"by":2}', b'{"by":3}']
        assert len(await journal.log.read_entities({}, each_max=3)) == 0

    async def test_new_small_large_and_broken_entities_do_not_disturb_each_other(
        self, journal: Journal, commit: GroupCommit
    ) -> None:
        sizes = {f"e{n}": n for n in (0, 1, 2, 10, 39, 40, 41, 60)}
        async with entities_over(journal, commit) as first:
            for name, size in sizes.items():
                await first.ask("Counter", name, AddEach((1,) * size))
        await journal.log.append_group([LocalAppend(new_events(["Counter|bad"], ["Vanished"], [b"{}"]))])
        found: dict[str, int] = {}
        codes: list[str] = []

        async def look(entities: Entities, name: str) -> None:
            try:
                found[name] = await count(entities, name)
            except BackhaulError as error:
                codes.append(error.code)

        async with entities_over(journal, commit) as second, trio.open_nursery() as nursery:
            for name in ("bad", *sizes):
                nursery.start_soon(look, second, name)
        assert found == sizes
        assert codes == ["entity.unknown_event"]
