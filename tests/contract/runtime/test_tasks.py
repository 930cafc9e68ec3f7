"""Tasks of an application on several nodes over one journal, on every storage: one holder at a time, and where a day stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import trio

from common.core.schedule import DAY_US
from common.journal.group_commit import open_group_commit
from common.journal.stores.journal import Journal
from common.projection.handlers import Handler
from common.runtime.app.application import App, check_application
from common.runtime.app.context import Running
from common.runtime.app.running import open_application
from common.runtime.app.task_runner import TaskRunner
from common.runtime.app.tasks import Task, at, background
from tests.contract.journals import Storage
from tests.support.projections import until

NOON_US = 20_000 * DAY_US + DAY_US // 2


class Nodes:
    """What runs where."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.most_at_once = 0
        self.daily = 0
        self.now_us = NOON_US

    @asynccontextmanager
    async def node(
        self,
        journal: Journal,
        name: str,
        *,
        on_each_node: bool = False,
        tasks: Sequence[Task] | None = None,
        projections: Sequence[Handler] = (),
    ) -> AsyncIterator[trio.CancelScope]:
        async def work(_running: Running) -> None:
            self.running[name] = self.running.get(name, 0) + 1
            self.most_at_once = max(self.most_at_once, sum(self.running.values()))
            try:
                await trio.sleep_forever()
            finally:
                self.running[name] -= 1

        async def daily(_running: Running) -> None:
            self.daily += 1

        own = [background(work, name="work", on_each_node=on_each_node), at("13:00", daily, name="daily")]
        app = check_application(App(tasks=own if tasks is None else tasks, projections=projections))
        async with (
            open_group_commit(journal.log) as commit,
            open_application(
                app,
                journal,
                commit,
                cast(Any, None),  # takes nothing in
                node=name,
                now_us=lambda: self.now_us,
                chance=Random(1),
                event_max_bytes=1_000,
            ) as running,
            trio.open_nursery() as nursery,
        ):
            runner = TaskRunner(running, commit, owner=name, is_alone=False, random=Random(1))
            scope = trio.CancelScope()

            async def run() -> None:
                with scope:
                    await runner.run()

            nursery.start_soon(run)
            yield scope
            nursery.cancel_scope.cancel()

    def holders(self) -> list[str]:
        return sorted(name for name, count in self.running.items() if count)

    async def until(self, holders: list[str]) -> None:
        await until(lambda: self.holders() == holders, 30)


async def test_one_node_at_a_time_runs_a_task_and_another_goes_on_when_it_leaves(journal: Journal) -> None:
    nodes = Nodes()
    async with nodes.node(journal, "one") as one:
        await nodes.until(["one"])
        async with nodes.node(journal, "two"):
            await trio.sleep(2.5)
            assert nodes.holders() == ["one"]
            one.cancel()
            await nodes.until(["two"])
            assert nodes.most_at_once == 1


async def test_a_task_that_is_done_is_done_for_all_nodes(journal: Journal) -> None:
    nodes, done = Nodes(), []

    async def once(_running: Running) -> None:
        done.append(trio.current_time())

    tasks = [background(once, name="once")]
    async with nodes.node(journal, "one", tasks=tasks), nodes.node(journal, "two", tasks=tasks):
        await until(lambda: bool(done), 30)
        await trio.sleep(2.5)
    assert len(done) == 1


async def test_tables_of_handlers_are_there_before_the_service_is_ready(journal: Journal) -> None:
    async def handle(_event: object) -> None:
        raise AssertionError

    good = Handler("good", effect=handle, migrations=[["CREATE TABLE good_table (value BIGINT)"]])
    bad = Handler("bad", effect=handle, migrations=[["CREATE NONSENSE"]])
    async with Nodes().node(journal, "one", tasks=[], projections=[bad, good]):
        assert await journal.projections.query("SELECT value FROM good_table") == []


async def test_all_nodes_run_a_task_that_is_each_ones_own(journal: Journal) -> None:
    nodes = Nodes()
    async with nodes.node(journal, "one", on_each_node=True), nodes.node(journal, "two", on_each_node=True):
        await nodes.until(["one", "two"])


async def test_the_last_day_that_was_done_outlives_the_process(storage: Storage) -> None:
    nodes = Nodes()

    async with storage.open() as journal, nodes.node(journal, "one"):
        await nodes.until(["one"])
        await trio.sleep(0.5)
        assert nodes.daily == 0  # the first start makes up for nothing
    nodes.now_us += 3 * DAY_US
    async with storage.open() as journal, nodes.node(journal, "one"):
        await until(lambda: nodes.daily == 1, 30)
    async with storage.open() as journal, nodes.node(journal, "one"):
        await nodes.until(["one"])
        await trio.sleep(0.5)
        assert nodes.daily == 1
        rows = await journal.projections.query("SELECT name, done_us FROM backhaul_task")
        assert rows == [("daily", NOON_US + 2 * DAY_US + DAY_US // 24)]
