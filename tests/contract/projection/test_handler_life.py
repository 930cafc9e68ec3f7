"""A handler's ``start`` and ``stop``, on every storage: around its events, once a process, and anew after a failure."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import structlog

from common.core.errors import ConfigurationError
from common.core.events.ids import ALL_SLICES, slice_ranges
from common.journal.stores.journal import Journal
from common.projection.handlers import Event, Handler
from common.projection.progress import ProjectionSettings
from tests.support.projections import Commits, logged, running, store, until

QUICK = ProjectionSettings(page_max_events=20, backoff_min_s=0.01, backoff_max_s=0.05, standby_poll_s=0.02)


class Line:
    """What an effect needs: it is open or closed, and notes what came."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.failing: set[str] = set()
        self.is_open = False

    async def start(self) -> None:
        self.story.append("start")
        self._fail("start")
        self.is_open = True

    async def stop(self) -> None:
        self.story.append("stop")
        self.is_open = False
        self._fail("stop")

    async def send(self, _event: Event) -> None:
        assert self.is_open, "an event came before the start or behind the stop"
        self._fail("event")
        if self.story[-1] != "event":
            self.story.append("event")

    def _fail(self, where: str) -> None:
        if where in self.failing:
            raise OSError("secret")

    def handler(self, name: str = "sent") -> Handler:
        return Handler(name, effect=self.send, start=self.start, stop=self.stop)


async def test_a_handler_is_started_before_its_first_event_and_stopped_behind_the_last(journal: Journal) -> None:
    line, commits = Line(), Commits()
    await store(journal, Random(1), 30)
    for lap in (1, 2):
        async with running(journal, line.handler(), settings=QUICK, commits=commits):
            await store(journal, Random(lap), 10)
            await commits.reach(30 + lap * 10)
        assert line.story == ["start", "event", "stop"] * lap


async def test_ranges_of_one_node_share_one_start(journal: Journal) -> None:
    line, commits = Line(), Commits()
    await journal.projections.declare("sent", [ALL_SLICES])
    await journal.projections.reshape("sent", slice_ranges(4))
    await store(journal, Random(1), 60, entities=40)
    async with running(journal, line.handler(), settings=QUICK, commits=commits) as ranges:
        await commits.reach(60)
        await until(lambda: all(one.epoch for one in ranges))
        assert len(ranges) == 4
    assert line.story == ["start", "event", "stop"]


async def test_what_a_failure_has_broken_is_opened_anew(journal: Journal) -> None:
    line, commits = Line(), Commits()
    line.failing = {"event"}
    await store(journal, Random(1), 5)
    async with running(journal, line.handler(), settings=QUICK, commits=commits) as [progress]:
        await until(lambda: progress.failures >= 2)
        line.failing = set()
        await commits.reach(5)
    assert line.story[:4] == ["start", "stop", "start", "stop"]
    assert line.story[-3:] == ["start", "event", "stop"]


async def test_a_start_that_fails_is_tried_again_and_said(journal: Journal) -> None:
    line, commits = Line(), Commits()
    line.failing = {"start"}
    await store(journal, Random(1), 5)
    with structlog.testing.capture_logs() as lines:
        async with running(journal, line.handler(), settings=QUICK, commits=commits) as [progress]:
            await until(lambda: progress.failures >= 3)
            assert set(line.story) == {"start"}
            line.failing = {"stop"}
            await commits.reach(5)
    assert line.story[-3:] == ["start", "event", "stop"]
    failed = logged(lines, "projection.failed")[-1]
    assert failed["code"] == "projection.handler_failed"
    assert "test_handler_life.py:" in failed["reason"]
    [stopping] = logged(lines, "projection.stop_failed")
    assert (stopping["projection"], stopping["code"]) == ("sent", "projection.handler_failed")
    assert "secret" not in str(lines)


@pytest.mark.parametrize("hook", ["start", "stop"])
def test_a_hook_that_is_a_plain_function_is_refused(hook: str) -> None:
    hooks: dict[str, Any] = {hook: lambda: None}
    with pytest.raises(ConfigurationError) as refused:
        Handler("sent", effect=Line().send, **hooks)
    assert refused.value.code == "projection.invalid_handler"
    assert f"{hook}=" in refused.value.message
