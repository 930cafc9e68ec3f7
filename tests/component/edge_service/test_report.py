"""What an edge says of its lag between two looks at the journal."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from common.journal.group_commit import GroupCommit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.runtime.metrics import MetricsRegistry
from common.transport.push.link_state import LinkState
from edge_service.report import EdgeReport
from tests.support.builders import ids
from tests.support.push import append, now_us


@asynccontextmanager
async def reported() -> AsyncIterator[tuple[Journal, LinkState, EdgeReport, MetricsRegistry]]:
    async with open_memory_journal(MemoryDatabase(), now_us=now_us, new_id=partial(next, ids("id"))) as journal:
        link, metrics = LinkState(), MetricsRegistry("b")
        retention: Any = SimpleNamespace(trimmed=0, dropped=0)
        report = EdgeReport(
            journal,
            GroupCommit(journal.log),
            link,
            retention,
            edge_id="e",
            version="1",
            cap_bytes=None,
            volume_free=lambda: 0,
            certificate_expires_us=lambda: 0,
            now_us=now_us,
        )
        report.register(metrics)
        yield journal, link, report, metrics


async def test_an_edge_that_has_caught_up_has_no_lag_of_its_last_look(autojump_clock: MockClock) -> None:
    async with reported() as (journal, link, report, metrics):
        await append(journal, ["S|a", "S|b"])
        await trio.sleep(19)
        await report.refresh()
        health = report.health()
        assert lag(metrics) == [2.0, health.lag_us / 1e6, health.lag_bytes]
        assert health.lag_us == 19_000_000
        assert health.lag_bytes
        link.acked_position = 2
        assert lag(metrics) == [0.0, 0.0, 0.0]
        assert (report.health().lag_us, report.health().lag_bytes) == (0, 0)


async def test_what_waits_is_weighed_by_the_oldest_that_is_there(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_service.report._WEIGHED_EVENTS", 2)
    async with reported() as (journal, _, report, metrics):
        await append(journal, ["S|a"] * 9, payload_bytes=100)
        await journal.log.trim(TrimLimit(4, 9, "dropped"))
        await report.refresh()
        assert lag(metrics)[2] == pytest.approx(await journal.log.event_bytes(0, 9), rel=0.01)


def lag(metrics: MetricsRegistry) -> list[float]:
    """Events, seconds and bytes, as they are read."""
    shown = metrics.exposition()
    return [float(re.findall(rf"^b_link_lag_{name} (.*)$", shown, re.M)[0]) for name in ("events", "seconds", "bytes")]
