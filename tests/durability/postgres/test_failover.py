"""A database that is older than what its nodes have seen of it: a stale replica took over, or a copy was put back.

Whatever a node is asked first, it must know by then that history has parted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from common import border
from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES
from common.core.journal.append import Appended, AppendRequest, Fenced, Pushed, PushedAppend, PushLane
from common.core.journal.history import History
from common.core.subscription.place import NO_FILTER, LogCursor, PlaceVerdict, ResumePoint, decide_resume_point
from common.journal.group_commit import OnSettled, open_group_commit
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.projections import ProjectionLease
from examples.support.postgres import Databases, PostgresServer
from tests.component.transport.push.test_filters import RED
from tests.component.transport.push.test_filters import ask as ask_for
from tests.support import push
from tests.support.builders import START_US, Origin, append, appended, history, ids, local, seq_nrs, whole_log

FRESH_IDS = ids("new")
Ask = Callable[[Journal], Awaitable[object]]


@asynccontextmanager
async def a_node(url: str) -> AsyncIterator[Journal]:
    new_id = FRESH_IDS.__next__
    async with open_postgres_journal(url, now_us=lambda: START_US, new_id=new_id, notify=False) as journal:
        yield journal


async def answered(ask: Ask, journal: Journal) -> object:
    """What it answers when the connection is there again: the cut is felt at a session's first use."""
    while True:
        try:
            return await ask(journal)
        except BackhaulError as error:
            if error.code != "journal.unavailable":
                raise
            await trio.sleep(0.01)


async def append_one(journal: Journal) -> object:
    return await appended(journal, local("A|9"))


ASKED: dict[str, Ask] = {
    "read": lambda journal: journal.log.read(0, max_events=9, max_bytes=9_999),
    "stats": lambda journal: journal.log.stats(),
    "open_session": lambda journal: journal.origins.open_session("edge-1", "p", history(("g", 1), head=1)),
    "acquire": lambda journal: journal.projections.acquire("tally", ALL_SLICES, "me", 1.0),
    "parked": lambda journal: journal.parked.rows(),
    "append": append_one,
}


class Copies:
    """Copies of a journal's database that may take its place."""

    def __init__(self, databases: Databases, url: str) -> None:
        self._databases = databases
        self._name = urlsplit(url).path.removeprefix("/")
        self._copy = ""

    def make(self) -> None:
        self._cut()
        self._copy = urlsplit(self._databases.create(template=self._name)).path.removeprefix("/")

    def put_back(self, *, looks_the_same: bool) -> None:
        """The database is as it was. A snapshot of the whole server leaves no trace; a copied database has an oid."""
        self._cut()
        self._databases.run(f'DROP DATABASE "{self._name}"')
        self._databases.run(f'ALTER DATABASE "{self._copy}" RENAME TO "{self._name}"')
        if looks_the_same:
            oid = f"SELECT oid FROM pg_database WHERE datname = '{self._name}'"
            self._databases.run(f"UPDATE backhaul.journal SET database_oid = ({oid})", database=self._name)

    def _cut(self) -> None:
        mine = f"datname = '{self._name}' AND usename = current_user"
        self._databases.run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {mine}")


def verdict(seen: History, now: History) -> PlaceVerdict:
    """On a consumer that has followed up to the end of what was seen."""
    place = ResumePoint(seen.journal_id, seen.generation_id, LogCursor(seen.head_position), NO_FILTER)
    return decide_resume_point(place, now, 0)


@pytest.mark.parametrize(("asked", "looks_the_same"), [*((asked, True) for asked in ASKED), ("read", False)])
async def test_a_running_node_knows_that_its_database_was_put_back_before_it_answers(
    postgres: Databases, postgres_url: str, asked: str, looks_the_same: bool
) -> None:
    copies = Copies(postgres, postgres_url)
    async with border.open_loop(), a_node(postgres_url) as journal:
        await appended(journal, local("A|1", "A|2", "A|3"))
        copies.make()
        await answered(append_one, journal)
        for ask in ASKED.values():
            await ask(journal)
        seen = journal.log.history
        copies.put_back(looks_the_same=looks_the_same)

        await answered(ASKED[asked], journal)

        now = journal.log.history
        assert now.generation_at(3) == seen.generation_id
        assert now.generations[-1].first_position == 4
        assert verdict(seen, now) is PlaceVerdict.DIVERGED
        assert now.head_position == journal.log.head_signal.position == 3 + (asked == "append")


async def test_a_generation_that_was_lost_is_not_gone_on_with(postgres: Databases, postgres_url: str) -> None:
    """Also where the copy has as many events as were seen, and nothing else shows that it is one."""
    copies = Copies(postgres, postgres_url)
    async with border.open_loop(), a_node(postgres_url) as journal:
        first = journal.log.history.generation_id
        await appended(journal, local("A|1", "A|2"))
        copies.make()
        postgres.run("UPDATE backhaul.journal SET timeline = timeline + 1", database=urlsplit(postgres_url).path[1:])
        await answered(append_one, journal)
        seen = journal.log.history
        assert seen.generation_id != first
        copies.put_back(looks_the_same=True)
        async with a_node(postgres_url) as other:  # has seen nothing of all this
            await append_one(other)
            await append_one(other)
            assert other.log.history.generation_id == first
        await answered(ASKED["stats"], journal)
        now = journal.log.history
        assert [generation.first_position for generation in now.generations] == [1, 5]
        assert now.generation_id not in {first, seen.generation_id}
        assert verdict(seen, now) is PlaceVerdict.DIVERGED


async def test_what_was_made_of_the_log_that_is_gone_takes_no_effect(postgres: Databases, postgres_url: str) -> None:
    """A projection has prepared a page of it, and the copy has the range where the projection believes it to be."""
    copies = Copies(postgres, postgres_url)
    async with border.open_loop(), a_node(postgres_url) as journal:
        await appended(journal, local("A|1", "A|2"))
        lease = await journal.projections.acquire("tally", ALL_SLICES, "me", 60.0)
        assert lease is not None
        lease = await journal.projections.commit(lease, 2, [], 60.0)
        copies.make()
        await answered(append_one, journal)
        copies.put_back(looks_the_same=True)

        with pytest.raises(BackhaulError) as refused:
            await answered(lambda journal: journal.projections.commit(lease, 3, [], 60.0), journal)
        assert refused.value.code == "projection.fenced"
        again = await journal.projections.acquire("tally", ALL_SLICES, "another", 60.0)
        assert again is not None
        assert again.position == 2


async def test_two_copies_of_one_moment_that_take_over_in_a_row_give_no_epoch_two_holders(
    postgres: Databases, postgres_url: str
) -> None:
    """Neither copy knows of the other; the holder under the first one has a page ready when the second takes over."""
    first, second = Copies(postgres, postgres_url), Copies(postgres, postgres_url)
    async with border.open_loop(), a_node(postgres_url) as journal, a_node(postgres_url) as other:
        await appended(journal, local("A|1", "A|2"))
        lease = await journal.projections.acquire("tally", ALL_SLICES, "n1", 60.0)
        leader = await journal.leases.acquire("retention", "n1", 60.0)
        assert lease is not None
        assert leader is not None
        await journal.projections.commit(lease, 2, [], 60.0)
        first.make()
        second.make()

        first.put_back(looks_the_same=False)
        held = await answered(lambda journal: journal.projections.acquire("tally", ALL_SLICES, "n2", 60.0), journal)
        led = await answered(lambda journal: journal.leases.acquire("retention", "n2", 60.0), journal)
        second.put_back(looks_the_same=False)
        taken = await answered(lambda journal: journal.projections.acquire("tally", ALL_SLICES, "n3", 60.0), other)
        leads = await answered(lambda journal: journal.leases.acquire("retention", "n3", 60.0), other)

        assert isinstance(held, ProjectionLease)
        assert isinstance(taken, ProjectionLease)
        assert (held.position, taken.position) == (2, 2)
        with pytest.raises(BackhaulError) as refused:
            await answered(lambda journal: journal.projections.commit(held, 3, [], 60.0), journal)
        assert refused.value.code == "projection.fenced"
        await other.projections.commit(taken, 3, [], 60.0)
        assert isinstance(led, Lease)
        assert isinstance(leads, Lease)
        assert led.epoch != leads.epoch


async def test_a_stale_replica_that_takes_over_begins_a_generation(own_postgres: PostgresServer) -> None:
    url = own_postgres.create()
    async with border.open_loop(), a_node(url) as journal, a_node(url) as idle:
        await appended(journal, local("A|1", "A|2", "A|3"))
        replica = own_postgres.replica()
        await answered(append_one, journal)
        seen = journal.log.history
        own_postgres.fail_over(replica)

        await answered(append_one, idle)  # it had seen less than the replica has
        assert [generation.first_position for generation in idle.log.history.generations] == [1, 4]

        log = await answered(whole_log, journal)
        assert len(log) == 4  # type: ignore[arg-type]
        assert journal.log.history.generations == idle.log.history.generations
        assert verdict(seen, journal.log.history) is PlaceVerdict.DIVERGED


async def test_what_was_pushed_to_the_history_that_is_gone_is_refused(own_postgres: PostgresServer) -> None:
    """Each lane could go on: the past compares no position, and the others are where the replica has them."""
    url = own_postgres.create()
    edges = {lane: Origin(origin_id=f"edge-{lane.value}", journal_id=lane.value) for lane in PushLane}
    async with border.open_loop(), a_node(url) as journal:
        for edge in edges.values():
            await edge.dial(journal)

        def stretch(lane: PushLane) -> PushedAppend:
            generation_id = journal.log.history.generation_id
            return replace(edges[lane].batch((f"{lane.value}|1", 1)), lane=lane, generation_id=generation_id)

        pushed = [stretch(lane) for lane in PushLane]
        replica = await trio.to_thread.run_sync(own_postgres.replica)
        await answered(append_one, journal)
        await trio.to_thread.run_sync(own_postgres.fail_over, replica)

        outcomes = await answered(lambda journal: journal.log.append_group([*pushed, local("A|1")]), journal)
        fenced = [Fenced(edge.session) for edge in edges.values()]
        assert outcomes == [*fenced, Appended(1, [1])]
        assert [await append(journal, request) for request in pushed] == fenced

        for edge in edges.values():
            await edge.dial(journal)
        assert [await append(journal, stretch(lane)) for lane in PushLane] == [Pushed(1, 1)] * len(PushLane)


async def test_a_past_that_the_replica_lacks_is_brought_again_before_the_page_that_follows_it(
    own_postgres: PostgresServer,
) -> None:
    """The page goes on where the replica is: the past before it moved no position."""
    world, replicas, brought = push.PushWorld(), list[Path](), list[int]()

    async with (
        border.open_loop(),
        a_node(own_postgres.create()) as journal,
        open_group_commit(journal.log) as commit,
    ):

        class Writer:
            """Takes nothing more, once the past is stored, before the server has failed over."""

            @property
            def is_full(self) -> bool:
                return bool(brought and replicas) or commit.is_full

            async def wait_room(self) -> None:
                if brought and replicas:
                    await trio.to_thread.run_sync(own_postgres.fail_over, replicas.pop())
                    await answered(append_one, journal)
                await commit.wait_room()

            def submit_nowait(self, request: AppendRequest, on_settled: OnSettled) -> bool:
                assert isinstance(request, PushedAppend)
                if request.lane is PushLane.PAST:
                    brought.append(len(request.events))
                return commit.submit_nowait(request, on_settled)

        async def position() -> int:
            return max([state.stored.position for state in await journal.origins.rows()], default=0)

        async with world.serve(journal, Writer()) as endpoint, world.edge() as (edge, link):
            await ask_for(journal, endpoint, RED)
            await push.append(edge, ["S|a"] * 3, tags="blue")
            await until_position(position, 3)
            replicas.append(await trio.to_thread.run_sync(own_postgres.replica))
            await answered(append_one, journal)
            await until_position(position, 3)
            connects = link.connects
            await push.append(edge, ["S|a"], tags="red")
            await until_position(position, 4)

            log = await whole_log(journal)
            assert [seq_nr for name, seq_nr in seq_nrs(log) if name == "S|a"] == [1, 2, 3, 4]
            assert await journal.origins.stored_ranges("S|a") == []
            assert brought == [3, 3]
            assert link.connects == connects + 1


async def until_position(position: Callable[[], Awaitable[int]], wanted: int) -> None:
    with trio.fail_after(60):
        while True:
            try:
                if await position() == wanted:
                    return
            except BackhaulError as error:
                if error.code != "journal.unavailable":
                    raise
            await trio.sleep(0.05)
