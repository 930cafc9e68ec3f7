"""The database fails over to a streaming standby while a node runs: early, late, flapping, fenced or not.

Once the address is right the node is on the new primary with every session, within ten seconds; what it acknowledged is
there, each event once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final, TypeVar

import pytest
import trio

from common import border
from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.ids import ALL_SLICES
from common.core.journal.append import Appended
from common.core.journal.history import History
from common.core.subscription.place import NO_FILTER, LogCursor, PlaceVerdict, ResumePoint, decide_resume_point
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.postgres import open_postgres_journal
from common.journal.stores.journal import Journal
from common.runtime.journal_watch import JournalWatch
from examples.support.postgres import Databases, PostgresServer, PostgresUnavailable
from tests.support.builders import START_US, append, ids, local, whole_log
from tests.support.projections import until
from tests.support.replication import Address, ReplicatedPair, away, replicated_pair

T = TypeVar("T")

STUCK_S: Final = 10.0
FRESH_IDS = ids("new")


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[ReplicatedPair]:
    try:
        with replicated_pair() as pair:
            yield pair
    except PostgresUnavailable as reason:
        pytest.fail(f"no pair of PostgreSQL servers: {reason}", pytrace=False)


@pytest.fixture
def is_synchronous() -> bool:
    return False


synchronous = pytest.mark.parametrize("is_synchronous", [True], ids=["synchronous"])


@pytest.fixture
def pair(shared_pair: ReplicatedPair, is_synchronous: bool) -> ReplicatedPair:
    shared_pair.restore(synchronous=is_synchronous)
    return shared_pair


@dataclass
class Node:
    """A running node: its journal, what its readiness says, and a program that appends without end."""

    journal: Journal
    commit: GroupCommit
    watch: JournalWatch
    acknowledged: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    is_appending: bool = True

    @property
    def reason(self) -> str:
        """Why it is not ready, or empty."""
        return self.watch.unreadable() or self.watch.unwritable() or ""

    async def append(self) -> None:
        """One event after the other, each repeated by its key until it is acknowledged."""
        number = 0
        while self.is_appending:
            number += 1
            request = local(f"A|{number}", append_id=f"key-{number}")
            outcome = await self._answered(partial(self.commit.append, request))
            assert isinstance(outcome, Appended), outcome
            self.acknowledged.append(f"A|{number}")
            self.moments.append(trio.current_time())
            await trio.sleep(0.01)

    async def goes_on(self, within_s: float = STUCK_S) -> None:
        """Within the time allowed an append is acknowledged, every kind of session answers, and the node is ready."""
        asked_s = trio.current_time()
        with trio.fail_after(within_s):
            await until(lambda: bool(self.moments) and self.moments[-1] > asked_s)
            for ask in (
                self.journal.log.stats,
                self.journal.parked.rows,
                self.journal.projections.rows,
                lambda: self.journal.projections.acquire("tally", ALL_SLICES, "me", 1.0),
                lambda: self.journal.log.forget_append_ids(0, 1),
            ):
                await self._answered(ask)
            await until(lambda: self.reason == "", within_s)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except BackhaulError as error:
                if error.code != "journal.unavailable":
                    raise
                self.refusals.append(error.message)
            await trio.sleep(0.05)

    async def is_not_ready(self, reason: str) -> None:
        with trio.fail_after(STUCK_S):
            await until(lambda: reason in self.reason)

    async def has_lost_nothing(self) -> None:
        """Each acknowledged event is in the log, once and in order."""
        self.is_appending = False
        acknowledged = list(self.acknowledged)  # one more may be acknowledged while the log is read
        stored = (await whole_log(self.journal)).persistence_id
        assert len(set(stored)) == len(stored)
        assert stored[: len(acknowledged)] == acknowledged


@asynccontextmanager
async def running_node(url: str) -> AsyncIterator[Node]:
    async with (
        border.open_loop(),
        open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as journal,
        open_group_commit(journal.log) as commit,
        trio.open_nursery() as nursery,
    ):
        node = Node(journal, commit, JournalWatch(journal, commit))
        nursery.start_soon(node.watch.run)
        nursery.start_soon(node.append)
        await node.goes_on()
        yield node
        nursery.cancel_scope.cancel()


@dataclass
class Stage:
    """The pair, the address of its database, and a node behind that address."""

    pair: ReplicatedPair
    address: Address
    database_url: str
    node: Node

    def sessions_with(self, server: PostgresServer) -> set[str]:
        """What the node's sessions there are for; that which looks where the address leads left out."""
        name = self.database_url.rpartition("/")[2]
        sessions = f"SELECT application_name FROM pg_stat_activity WHERE datname = '{name}'"
        return set(server.superuser.run(sessions).split("\n")) - {"", "backhaul look"}

    async def has_left(self, server: PostgresServer) -> None:
        with trio.fail_after(STUCK_S):
            for _ in count():
                if not await away(self.sessions_with, server):
                    return
                await trio.sleep(0.05)

    async def break_sessions(self, server: PostgresServer) -> None:
        sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'backhaul%'"
        await away(server.superuser.run, sessions)


@pytest.fixture
async def stage(pair: ReplicatedPair) -> AsyncIterator[Stage]:
    database_url = pair.primary.create()
    address = Address(pair.primary)
    async with trio.open_nursery() as nursery:
        await nursery.start(address.run)
        async with running_node(address.url(database_url)) as node:
            await pair.caught_up()
            yield Stage(pair, address, database_url, node)
        nursery.cancel_scope.cancel()
    await away(pair.primary.drop, database_url)


def verdict(seen: History, now: History) -> PlaceVerdict:
    """On a consumer that has followed up to the end of what was seen."""
    place = ResumePoint(seen.journal_id, seen.generation_id, LogCursor(seen.head_position), NO_FILTER)
    return decide_resume_point(place, now, 0)


async def test_a_primary_that_is_set_read_only_under_open_sessions_is_left(stage: Stage) -> None:
    """It goes on answering every question, and takes nothing."""
    former = stage.pair.primary
    await away(stage.pair.set_read_only)
    await stage.node.is_not_ready("read-only")
    await away(stage.pair.promote)
    stage.address.lead_to(stage.pair.primary)

    await stage.node.goes_on()

    await stage.has_left(former)
    await stage.node.has_lost_nothing()


async def test_a_node_that_writes_nothing_is_not_ready_while_its_server_is_read_only(pair: ReplicatedPair) -> None:
    with pair.primary.fresh() as url:
        async with (
            border.open_loop(),
            open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__) as journal,
            open_group_commit(journal.log) as commit,
            trio.open_nursery() as nursery,
        ):
            watch = JournalWatch(journal, commit)
            nursery.start_soon(watch.run)
            await away(pair.set_read_only)
            await until(lambda: "read-only" in (watch.unreadable() or ""), STUCK_S)
            await away(pair.set_writable)
            await until(lambda: watch.unreadable() is None, STUCK_S)
            nursery.cancel_scope.cancel()


async def test_an_address_that_is_early_leads_to_a_standby_that_is_not_taken(stage: Stage) -> None:
    former, standby = stage.pair.primary, stage.pair.standby
    stage.address.lead_to(standby)
    await stage.node.goes_on()  # the sessions that are open are where they should be
    await stage.break_sessions(former)
    await stage.node.is_not_ready("standby")
    await stage.has_left(standby)
    await away(former.stop)
    await away(stage.pair.promote)

    await stage.node.goes_on()
    await stage.node.has_lost_nothing()


@pytest.mark.parametrize("is_synchronous", [False, True], ids=["asynchronous", "synchronous"])
async def test_an_address_that_is_late_costs_time_and_nothing_else(stage: Stage, is_synchronous: bool) -> None:
    """An asynchronous standby has everything of a primary that was stopped, a synchronous one also of one that died."""
    seen = stage.node.journal.log.history
    await away(stage.pair.primary.crash if is_synchronous else stage.pair.primary.stop)
    await away(stage.pair.promote)
    await stage.node.is_not_ready("Connection re")  # reset, then refused
    stage.address.lead_to(stage.pair.primary)

    await stage.node.goes_on()

    now = stage.node.journal.log.history
    assert now.generation_id != seen.generation_id
    assert verdict(seen, now) is PlaceVerdict.RESUME, "what was seen is there: nobody has to begin anew"
    await stage.node.has_lost_nothing()


@synchronous
async def test_nothing_is_acknowledged_that_one_disk_has(stage: Stage) -> None:
    """The standby is away: synchronous commits wait for it, so what is acknowledged survives the primary."""
    standby = stage.pair.standby
    await away(standby.crash)
    await trio.sleep(0.2)  # what it had confirmed has been acknowledged
    acknowledged = len(stage.node.acknowledged)
    await trio.sleep(1.0)
    assert len(stage.node.acknowledged) == acknowledged
    await away(stage.pair.primary.crash)
    await away(standby.start)
    await away(stage.pair.promote)
    stage.address.lead_to(stage.pair.primary)

    await stage.node.goes_on()
    await stage.node.has_lost_nothing()


async def test_what_an_asynchronous_standby_had_not_is_a_history_that_has_parted(stage: Stage) -> None:
    node, standby = stage.node, stage.pair.standby
    await away(standby.crash)
    acknowledged = len(node.acknowledged)
    with trio.fail_after(STUCK_S):
        await until(lambda: len(node.acknowledged) >= acknowledged + 5)
    seen = node.journal.log.history
    await away(stage.pair.primary.crash)
    await away(standby.start)
    await away(stage.pair.promote)
    stage.address.lead_to(stage.pair.primary)

    await node.goes_on()

    now = node.journal.log.history
    assert now.generations[-1].first_position <= seen.head_position
    assert verdict(seen, now) is PlaceVerdict.DIVERGED


async def test_a_former_primary_that_was_not_fenced_is_left_and_not_gone_back_to(stage: Stage) -> None:
    """Its sessions stay open and would take every write; then the address flaps between the two."""
    node, former = stage.node, stage.pair.primary
    await away(stage.pair.promote)
    stage.address.lead_to(stage.pair.primary)
    await stage.has_left(former)
    await node.goes_on()
    generation = node.journal.log.history.generation_id
    for _ in range(2):
        stage.address.lead_to(former)
        await stage.break_sessions(stage.pair.primary)
        await node.is_not_ready("former primary")
        stage.address.lead_to(stage.pair.primary)
        await node.goes_on()
    assert node.journal.log.history.generation_id == generation
    await stage.has_left(former)


@synchronous
async def test_a_former_primary_that_was_not_fenced_acknowledges_nothing_without_its_standby(stage: Stage) -> None:
    """Split brain: the standby has been promoted, and the node still reaches the former primary alone."""
    node = stage.node
    await away(stage.pair.promote)
    await trio.sleep(0.2)  # what the standby had confirmed has been acknowledged
    acknowledged = len(node.acknowledged)
    await trio.sleep(2.0)
    assert len(node.acknowledged) == acknowledged
    stage.address.lead_to(stage.pair.primary)

    await node.goes_on()
    await node.has_lost_nothing()


async def test_a_former_primary_that_is_demoted_is_a_standby_like_any_other(stage: Stage) -> None:
    node, former = stage.node, stage.pair.primary
    await away(former.stop)
    await away(stage.pair.promote)
    stage.address.lead_to(stage.pair.primary)
    await node.goes_on()
    await away(stage.pair.demote)
    stage.address.lead_to(former)
    await stage.break_sessions(stage.pair.primary)
    await node.is_not_ready("standby")
    stage.address.lead_to(stage.pair.primary)

    await node.goes_on()
    await node.has_lost_nothing()


@synchronous
async def test_a_primary_that_stands_still_holds_nobody_once_the_address_has_moved(stage: Stage) -> None:
    """Nothing ends its connections, and no statement on them comes back."""
    former = stage.pair.primary
    await away(former.pause)
    try:
        await away(stage.pair.promote)
        stage.address.lead_to(stage.pair.primary)
        await stage.node.goes_on()
    finally:
        former.pause(resume=True)
    await stage.node.has_lost_nothing()


@synchronous
async def test_of_several_hosts_the_one_that_may_be_written_is_found(pair: ReplicatedPair) -> None:
    """Whatever their order, and while the former primary is writable again and named first."""
    former = pair.primary
    database_url = former.create()
    parts = database_url.split("@")[1].split("/")
    hosts = f"127.0.0.1:{pair.standby.port},127.0.0.1:{former.port},127.0.0.1:{pair.standby.port}"
    url = database_url.replace(parts[0], hosts)
    await pair.caught_up()
    async with running_node(url) as node:
        await pair.caught_up()
        await away(former.crash)
        await away(pair.promote)
        await node.goes_on()
        await away(former.start)
        stage = Stage(pair, Address(former), database_url, node)
        await stage.break_sessions(pair.primary)
        await node.goes_on()
        await stage.has_left(former)
        await node.has_lost_nothing()


@synchronous
async def test_a_fresh_node_does_not_take_a_former_primary_that_is_named_first(pair: ReplicatedPair) -> None:
    """It has seen no timeline yet, and the former primary, which was not fenced, may be written: all hosts are looked at."""
    former = pair.primary
    database_url = former.create()
    place = database_url.split("@")[1].split("/")[0]
    await pair.caught_up()
    async with running_node(database_url):
        pass
    await pair.caught_up()
    await away(former.crash)
    await away(pair.promote)
    await away(former.start)
    await away(former.superuser.run, "ALTER SYSTEM SET synchronous_standby_names = ''")
    await away(former.superuser.run, "SELECT pg_reload_conf()")
    url = database_url.replace(place, f"{place},127.0.0.1:{pair.primary.port}")
    async with running_node(url) as node:
        stage = Stage(pair, Address(former), database_url, node)
        assert await away(stage.sessions_with, former) == set()
        assert await away(stage.sessions_with, pair.primary) != set()
        await node.has_lost_nothing()


async def test_an_address_that_leads_to_another_journal_is_not_taken(stage: Stage) -> None:
    """A standby that was promoted and given to other nodes; the former primary still serves ours."""
    former, name = stage.pair.primary, stage.database_url.rpartition("/")[2]
    await stage.pair.caught_up()
    await away(stage.pair.promote)
    another = stage.pair.primary
    await away(partial(another.run, "UPDATE backhaul.journal SET journal_id = 'another'", database=name))
    stage.address.lead_to(another)
    await stage.break_sessions(former)
    await stage.node.is_not_ready("another journal")
    await stage.has_left(another)
    stage.address.lead_to(former)

    await stage.node.goes_on()

    await stage.has_left(another)
    await stage.node.has_lost_nothing()


_RECOVERED_S: Final = 60.0
LEAVES: Final = ("57P01", "57P02", "57P03", "57P05")


@pytest.mark.parametrize("code", LEAVES)
async def test_a_server_that_ends_sessions_or_lets_none_in_costs_time_and_nothing_else(stage: Stage, code: str) -> None:
    """By its administrator, because a session beside ours crashed, while it starts, or because ours were idle."""
    server, name = stage.pair.primary, stage.database_url.rpartition("/")[2]
    for _ in range(3):
        match code:
            case "57P01":
                await stage.break_sessions(server)
            case "57P02":
                await away(crash_a_session, server)
            case "57P03":
                await away(server.restart)
            case "57P05":
                await away(server.superuser.run, f"ALTER DATABASE \"{name}\" SET idle_session_timeout = '300ms'")
                await stage.break_sessions(server)
                await trio.sleep(1)
        await stage.node.goes_on(_RECOVERED_S)  # the server's own recovery included
    if code == "57P05":
        await away(server.superuser.run, f'ALTER DATABASE "{name}" RESET idle_session_timeout')
    await stage.node.has_lost_nothing()


def crash_a_session(server: PostgresServer) -> None:
    """SIGKILL for one process of the server: all other sessions end, and it recovers."""
    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'backhaul%' LIMIT 1"
    os.kill(int(server.superuser.run(sessions)), signal.SIGKILL)


@synchronous
@pytest.mark.parametrize("level", ["local", "remote_write"])
async def test_a_synchronous_standby_that_is_not_waited_for_is_refused(pair: ReplicatedPair, level: str) -> None:
    with pair.primary.fresh() as url:
        pair.primary.run(f'ALTER DATABASE "{url.rpartition("/")[2]}" SET synchronous_commit = {level}')
        async with border.open_loop():
            with pytest.raises(ConfigurationError, match=f"synchronous_commit = {level}") as refused:
                async with open_postgres_journal(url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__):
                    pass
    assert refused.value.code == "journal.not_durable"


async def test_a_reader_behind_the_nodes_own_commits_is_closed(postgres: Databases, postgres_url: str) -> None:
    """Nothing else shows that it is with another log: here the log has gone back under open sessions."""
    async with (
        border.open_loop(),
        open_postgres_journal(
            postgres_url, now_us=lambda: START_US, new_id=FRESH_IDS.__next__, notify=False
        ) as journal,
    ):
        await append(journal, local("A|1", "A|2"))
        await journal.log.read(0, max_events=9, max_bytes=9_999)
        seen = journal.log.history
        postgres.run(
            "DELETE FROM backhaul.event WHERE position > 1; UPDATE backhaul.head SET position = 1",
            database=postgres_url.rpartition("/")[2],
        )

        with pytest.raises(BackhaulError, match="the log ends at 1") as refused:
            await journal.log.read(0, max_events=9, max_bytes=9_999)

        assert refused.value.code == "journal.unavailable"
        assert (await journal.log.read(0, max_events=9, max_bytes=9_999)).head == 1
        assert verdict(seen, journal.log.history) is PlaceVerdict.DIVERGED
