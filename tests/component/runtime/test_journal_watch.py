"""What readiness and the log say of a journal: reading tried at every look, writing while there is doubt."""

from __future__ import annotations

import math
from typing import cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.events.batch import new_events
from common.core.journal.append import Appended, LocalAppend
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.runtime.journal_watch import JournalWatch
from common.runtime.service_parts import new_readiness

FULL = BackhaulError("journal.disk_full", "no room", kind=ErrorKind.FULL)
AWAY = BackhaulError("journal.unavailable", "away", retry_after_s=1.0)
DEAD = BackhaulError("journal.io_error", "dead", retry_after_s=1.0)


class FakeJournal:
    """Reads and writes as the test wants; notes what it was probed for."""

    def __init__(self) -> None:
        self.log = self
        self.reading: BackhaulError | None = None
        self.writing: BackhaulError | None = None
        self.takes_s = 0.0
        self.probes: list[tuple[float, int]] = []

    async def stats(self) -> object:
        await trio.sleep(self.takes_s)
        if self.reading is not None:
            raise self.reading
        return object()

    async def probe(self, append_bytes: int) -> None:
        self.probes.append((trio.current_time(), append_bytes))
        if self.writing is not None:
            raise self.writing

    async def append_group(self, requests: list[LocalAppend]) -> list[Appended]:
        if self.writing is not None:
            raise self.writing
        return [Appended(1, [1]) for _ in requests]


def request() -> LocalAppend:
    return LocalAppend(new_events(["S|a"], ["R"], [b"1" * 1_000]))


async def test_a_refused_append_is_looked_into_and_readiness_follows_until_there_is_room(
    autojump_clock: MockClock,
) -> None:
    journal = FakeJournal()
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        watch = JournalWatch(cast(Journal, journal), commit)
        readiness = new_readiness(watch, trio.Event())
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        await commit.append(request())
        await trio.sleep(5)
        assert (readiness.reasons(), journal.probes) == ({}, [(0.0, 0)])
        journal.probes.clear()
        journal.writing = FULL
        with capture_logs() as lines:
            with pytest.raises(BackhaulError, match="no room"):
                await commit.append(request())
            await trio.sleep(2.5)
            assert readiness.reasons() == {"appends": "no room [journal.disk_full]"}
            await trio.sleep(10)
            assert len(journal.probes) == 6
            assert {size > 1_000 for _, size in journal.probes} == {True}
            # Nothing asks meanwhile: the probe alone finds that there is room.
            journal.writing = None
            await trio.sleep(2.5)
            assert readiness.reasons() == {}
            probes = len(journal.probes)
            await trio.sleep(20)
            assert len(journal.probes) == probes
        assert [line["event"] for line in lines if line["event"].startswith("journal.")][-1] == "journal.writable"
        assert lines[0]["event"] == "journal.unwritable"
        assert lines[0]["code"] == "journal.disk_full"
        nursery.cancel_scope.cancel()


async def test_an_idle_service_learns_that_nothing_can_be_written(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        watch = JournalWatch(cast(Journal, journal), commit)
        nursery.start_soon(watch.run)
        await trio.sleep(25)
        journal.writing = AWAY
        assert watch.unwritable() is None
        await trio.sleep(10)
        assert watch.unwritable() == "away [journal.unavailable]"
        journal.writing = None
        await trio.sleep(2.5)
        assert watch.unwritable() is None
        probes = len(journal.probes)
        await trio.sleep(125)
        assert len(journal.probes) - probes in {3, 4}, "an idle service probes twice a minute"
        nursery.cancel_scope.cancel()


async def test_a_service_that_stores_is_not_probed(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        nursery.start_soon(JournalWatch(cast(Journal, journal), commit).run)
        for _ in range(20):
            await trio.sleep(10)
            await commit.append(request())
        assert journal.probes == [(0.0, 0)], "at the start only"
        nursery.cancel_scope.cancel()


async def test_a_service_that_cannot_write_says_so_from_the_start(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    journal.writing = FULL
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        watch = JournalWatch(cast(Journal, journal), commit)
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        assert watch.unwritable() == "no room [journal.disk_full]"
        nursery.cancel_scope.cancel()


async def test_a_look_that_hangs_is_a_reason(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        watch = JournalWatch(cast(Journal, journal), commit)
        nursery.start_soon(watch.run)
        await trio.sleep(1)
        journal.takes_s = math.inf
        await trio.sleep(9)
        assert watch.unreadable() == "the journal has not answered for 8 s"
        nursery.cancel_scope.cancel()


async def test_a_later_versions_tables_make_the_service_drain(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    stop = trio.Event()
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        watch = JournalWatch(cast(Journal, journal), commit)
        readiness = new_readiness(watch, stop)
        nursery.start_soon(watch.run)
        nursery.start_soon(watch.stop_when_outdated, stop)
        await trio.sleep(10)
        watch.check_not_outdated()
        assert not stop.is_set()
        journal.reading = BackhaulError("journal.schema_newer", "version 10, not 9", retry_after_s=1.0)
        with capture_logs() as lines:
            await trio.sleep(10)
        assert [line["event"] for line in lines] == ["service.outdated"]
        assert stop.is_set()
        assert readiness.reasons()["journal"] == "version 10, not 9 [journal.schema_newer]"
        journal.reading = AWAY
        await trio.sleep(10)
        with pytest.raises(ConfigurationError, match="version 10, not 9"):
            watch.check_not_outdated()
        nursery.cancel_scope.cancel()


async def test_a_medium_that_stays_dead_ends_the_service(autojump_clock: MockClock) -> None:
    journal = FakeJournal()
    async with open_group_commit(cast(Journal, journal).log) as commit:
        watch = JournalWatch(cast(Journal, journal), commit)
        journal.reading = AWAY
        with trio.move_on_after(600):
            await watch.run()
        assert watch.unreadable() == "away [journal.unavailable]"
        journal.reading = DEAD
        began_s = trio.current_time()
        with pytest.raises(BackhaulError, match="dead"):
            await watch.run()
        assert 60 <= trio.current_time() - began_s < 65
