"""When the edge's retention looks: at its interval, at once after a refusal; and what it says of a cap that comes near."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EVENT_OVERHEAD_BYTES, new_events
from common.core.journal.ages import JournalAge
from common.core.journal.append import LocalAppend
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.push.link_state import LinkState
from edge_service.retention import EdgeRetention, EdgeRetentionSettings

CAP = 1000


class FullJournal:
    """Refuses appends, and notes when it is looked at."""

    def __init__(self) -> None:
        self.used = [100]
        self.code = "journal.full"
        self.looks: list[float] = []
        self.dropped: list[TrimLimit] = []
        self.log = self.projections = self.ages = self

    async def append_group(self, requests: object) -> object:
        raise BackhaulError(self.code, "no room", kind=ErrorKind.FULL)

    async def stats(self) -> object:
        self.looks.append(trio.current_time())
        return SimpleNamespace(used_bytes=self.used.pop(0) if len(self.used) > 1 else self.used[0])

    async def rows(self) -> list[Any]:
        return []

    async def load(self) -> JournalAge:
        return JournalAge()

    async def trim(self, limit: TrimLimit) -> int:
        self.dropped.append(limit)
        return 1

    async def forget_append_ids(self, through: int, most: int) -> int:
        return 0


def retention(journal: FullJournal, plain_types: frozenset[str] = frozenset()) -> EdgeRetention:
    settings = EdgeRetentionSettings(10.0, 60.0, 60.0, CAP, plain_types)
    return EdgeRetention(cast(Journal, journal), LinkState(), settings)


@pytest.mark.parametrize("code", ["journal.full", "journal.disk_full"])
async def test_a_refused_append_wakes_retention(autojump_clock: MockClock, code: str) -> None:
    journal = FullJournal()
    journal.code = code
    task = retention(journal)
    async with open_group_commit(cast(Journal, journal).log) as commit, trio.open_nursery() as nursery:
        commit.on_full = task.wake
        nursery.start_soon(task.run)
        await trio.sleep(3)
        assert len(journal.looks) == 1
        refused_s = trio.current_time()
        for _ in range(5):
            with pytest.raises(BackhaulError, match="no room"):
                await commit.append(LocalAppend(new_events(["S|a"], ["R"], [b"1"])))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(journal.looks) == 2
    assert journal.looks[1] - refused_s < 0.1


async def test_a_cap_that_comes_near_is_said_once_a_share(autojump_clock: MockClock) -> None:
    journal = FullJournal()
    journal.used = [700, 810, 820, 790, 810, 905, 950, 850, 740, 810, 100]
    with capture_logs() as lines, trio.move_on_after(200):
        await retention(journal).run()
    assert [line["percent"] for line in lines if line["event"] == "journal.filling"] == [81, 90, 81]


async def test_no_more_is_dropped_than_there_is_too_much_of() -> None:
    journal = FullJournal()
    journal.used = [930, 870, 840]
    task = retention(journal, frozenset({"S"}))
    assert [await task.round() for _ in range(3)] == [True, True, False]
    assert [limit.max_bytes for limit in journal.dropped] == [80, 20]
    assert task.dropped == 2


async def test_for_a_request_that_has_no_room_some_is_made_below_the_share_at_which_dropping_begins() -> None:
    journal = FullJournal()
    journal.used = [880, 840]
    task = retention(journal, frozenset({"S"}))
    async with open_group_commit(cast(Journal, journal).log) as commit:
        commit.on_full = task.wake
        with pytest.raises(BackhaulError, match="no room"):
            await commit.append(LocalAppend(new_events(["S|a"], ["R"], [bytes(80)])))
    assert [await task.round() for _ in range(2)] == [True, False]
    assert [limit.max_bytes for limit in journal.dropped] == [2 * (80 + EVENT_OVERHEAD_BYTES)]


@pytest.mark.parametrize(("code", "payload_bytes"), [("journal.disk_full", 80), ("journal.full", CAP)])
async def test_nothing_is_dropped_for_a_request_that_would_not_get_in_by_it(code: str, payload_bytes: int) -> None:
    journal = FullJournal()
    journal.used, journal.code = [880], code
    task = retention(journal, frozenset({"S"}))
    async with open_group_commit(cast(Journal, journal).log) as commit:
        commit.on_full = task.wake
        with pytest.raises(BackhaulError, match="no room"):
            await commit.append(LocalAppend(new_events(["S|a"], ["R"], [bytes(payload_bytes)])))
    assert not await task.round()
    assert journal.dropped == []
