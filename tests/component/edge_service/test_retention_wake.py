"""When the edge's retention looks: at its interval, at once after a refusal; and what it says of a cap that comes near."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import new_events
from common.core.journal.ages import JournalAge
from common.core.journal.append import LocalAppend
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.transport.push.link_state import LinkState
from edge_service.retention import EdgeRetention, EdgeRetentionSettings

CAP = 1000


class FullJournal:
    """Refuses appends, and notes when it is looked at."""

    def __init__(self) -> None:
        self.used = [100]
        self.code = "journal.full"
        self.looks: list[float] = []
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

    async def forget_append_ids(self, through: int, most: int) -> int:
        return 0


def retention(journal: FullJournal) -> EdgeRetention:
    settings = EdgeRetentionSettings(10.0, 60.0, 60.0, CAP, frozenset())
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
