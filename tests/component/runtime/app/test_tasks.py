"""An application's tasks in both services, on the mock clock of the kit: their times, their faults, and restarts in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.app import App, Running, at, background, every
from common.core.errors import ConfigurationError
from common.runtime.app.application import check_application
from common.testing import open_world
from common.testing.world import START_US, Service, World, now_us
from tests.support.projections import until


class Notes:
    """When a task ran, in seconds since the world began; ``failing`` times raise."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.failing = 0
        self.takes_s = 0.0

    async def run(self, running: Running) -> None:
        self.times.append(round((running.now_us() - START_US) / 1e6))
        if self.failing:
            self.failing -= 1
            raise ValueError("secret")
        await trio.sleep(self.takes_s)


def both(world: World) -> list[Service]:
    return [world.cloud, world.edges["edge-1"]]


@pytest.mark.parametrize("side", ["edge_app", "cloud_app"])
async def test_every_runs_at_the_start_and_then_from_begin_to_begin(side: str, autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.takes_s = 4
    async with open_world(**{side: App(tasks=[every(10, notes.run)])}):  # type: ignore[arg-type]
        await trio.sleep(45)
    assert [time - notes.times[0] for time in notes.times] == [0, 10, 20, 30, 40]


async def test_a_run_that_takes_longer_than_its_time_puts_the_next_one_off(autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.takes_s = 25
    async with open_world(edge_app=App(tasks=[every(10, notes.run)])):
        await trio.sleep(90)
    assert [time - notes.times[0] for time in notes.times] == [0, 25, 50, 75]


async def test_one_that_raises_is_tried_again_with_backoff_and_said(autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.failing = 3
    with structlog.testing.capture_logs() as lines:
        async with open_world(edge_app=App(tasks=[every(3_600, notes.run, name="hourly")])) as world:
            await trio.sleep(100)
            [shown] = (await world.edges["edge-1"].http("GET", "/status")).json()["tasks"]
    assert len(notes.times) == 4
    assert notes.times[-1] - notes.times[0] < 10
    failed = [line for line in lines if line["event"] == "task.failed"]
    assert [line["failures_in_a_row"] for line in failed] == [1, 2, 3]
    assert {line["code"] for line in failed} == {"application.task_failed"}
    assert "test_tasks.py:" in failed[0]["reason"]
    assert "secret" not in str(lines)
    assert (shown["name"], shown["state"], shown["runs"], shown["failures"], shown["error"]) == (
        "hourly", "running", 1, 0, "",
    )  # fmt: skip


async def test_one_that_takes_too_long_is_cancelled_and_tried_again(autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.takes_s = 1e6
    with structlog.testing.capture_logs() as lines:
        async with open_world(edge_app=App(tasks=[every(10, notes.run, deadline_s=5)])):
            await trio.sleep(30)
            notes.takes_s = 0
            await trio.sleep(60)
    failed = [line for line in lines if line["event"] == "task.failed"]
    assert failed
    assert {line["code"] for line in failed} == {"application.task_timeout"}
    assert len(notes.times) >= len(failed) + 5


@pytest.mark.parametrize("side", ["edge_app", "cloud_app"])
async def test_at_runs_at_its_time_of_day_and_a_restart_repeats_nothing(side: str, autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.failing = 1
    async with open_world(**{side: App(tasks=[at("00:05", notes.run)])}) as world:  # type: ignore[arg-type]
        service = both(world)[side == "edge_app"]
        await trio.sleep(310)
        assert notes.times[0] == 300  # the world began at midnight
        assert len(notes.times) == 2  # the one that raised was tried again, at once
        await service.stop()
        await service.start()
        await trio.sleep(60)
        assert len(notes.times) == 2


async def test_a_background_task_begins_again_until_it_returns(autojump_clock: MockClock) -> None:
    notes = Notes()
    notes.failing = 2
    async with open_world(cloud_app=App(tasks=[background(notes.run)])) as world:
        await trio.sleep(60)
        [shown] = (await world.cloud.http("GET", "/status")).json()["tasks"]
        assert (len(notes.times), shown["state"]) == (3, "done")
        await world.cloud.stop()
        await world.cloud.start()
        await trio.sleep(60)
        assert len(notes.times) == 4


async def test_tasks_end_with_their_service(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with open_world(
        edge_app=App(tasks=[every(1, notes.run)]), cloud_app=App(tasks=[every(1, notes.run)])
    ) as world:
        for service in both(world):
            await service.stop()
        del notes.times[:]
        await trio.sleep(100)
        assert notes.times == []


async def test_a_cloud_node_that_stops_gives_its_lease_back(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with open_world(cloud_app=App(tasks=[every(1_000, notes.run, name="hourly")])) as world:
        await trio.sleep(5)
        [row] = [row for row in await world.cloud.journal.leases.rows() if row.name == "task hourly"]
        assert row.owner
        await world.cloud.stop()
        before = now_us()
        await world.cloud.start()
        await until(lambda: len(notes.times) == 2)
        assert now_us() - before < 5_000_000


async def plainly_async(_running: Running) -> None: ...


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: every(0, plainly_async), "time"),
        (lambda: every(float("inf"), plainly_async), "time"),
        (lambda: every(1, plainly_async, deadline_s=0), "time"),
        (lambda: every(1, cast(Any, print)), "async"),
        (lambda: at("25:00", plainly_async), "25:00"),
        (lambda: background(plainly_async, name="a\nb"), "name"),
    ],
)
def test_a_task_that_cannot_work_is_refused(make: Callable[[], Awaitable[None]], word: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert refused.value.code == "application.invalid_task"
    assert word in refused.value.message


def test_two_tasks_of_one_name_and_what_is_no_task_are_refused() -> None:
    for tasks, code in (
        ([every(1, plainly_async), every(2, plainly_async)], "application.name_taken"),
        ([plainly_async], "application.wrong_object"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            check_application(App(tasks=cast(Any, tasks)))
        assert refused.value.code == code
