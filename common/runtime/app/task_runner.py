"""Runs an application's tasks on this node: their leases, their times, and what is done about faults.

A task of which one node is the holder is cancelled there when its lease has not been renewed for a while, before another node
takes it. A function that does not yield, or a process that was stopped, may still overlap with the next holder for a moment, so
what a task stores is guarded as everything is: a key with a command, a revision with a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Final

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.flow.backoff import Backoff
from common.core.journal.append import LocalAppend
from common.core.journal.statement import Statement
from common.core.schedule import last_due_us, next_due_us
from common.journal.group_commit import GroupCommit
from common.journal.stores.leases import Lease
from common.projection.handler_executor import call_async
from common.runtime.app.running import RunningApplication
from common.runtime.app.tasks import Task, TaskProgress

_log = structlog.get_logger()

TASK_TABLES: Final = "application tasks"
_TABLE: Final = [["CREATE TABLE backhaul_task (name TEXT PRIMARY KEY, done_us BIGINT NOT NULL)"]]
_DONE: Final = "INSERT INTO backhaul_task VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET done_us = excluded.done_us"
# Another node may take a lease that long after its last renewal, or when this one is no member any more (3 s); the holder
# gives up earlier.
_LEASE_S: Final = 6.0
_GIVE_UP_S: Final = 2.0
_RENEW_S: Final = 1.0
_RELEASE_DEADLINE_S: Final = 2.0
_BACKOFF_MIN_S: Final = 0.5
_BACKOFF_MAX_S: Final = 30.0
_STABLE_S: Final = 60.0
# The wall clock may step: it is looked at this often while a time of day is waited for.
_LOOK_S: Final = 30.0


class TaskRunner:
    """All tasks of an application; ``run`` is entered once.

    ``is_alone``: no other process runs over this journal. ``owner`` is the process's name where it is not.
    """

    def __init__(
        self, running: RunningApplication, commit: GroupCommit, *, owner: str, is_alone: bool, random: Random
    ) -> None:
        self._running = running
        self._commit = commit
        self._owner = owner
        self._is_alone = is_alone
        self._random = random
        self.tasks = running.application.app.tasks
        self.progress = [TaskProgress(task.name, task.schedule, task.on_each_node) for task in self.tasks]
        running.tasks[:] = self.progress

    def status(self) -> Sequence[dict[str, Any]]:
        """Each task, for ``/status``."""
        return [one.as_json() for one in self.progress]

    async def run(self) -> None:
        """Until cancelled, or until all of a process that is alone are done; at once when there are none."""
        async with trio.open_nursery() as nursery:
            for task, progress in zip(self.tasks, self.progress, strict=True):
                one = _RunningTask(task, progress, self._running, self._commit, self._owner, self._random)
                run = one.run if self._is_alone or task.on_each_node else one.run_as_holder
                nursery.start_soon(run, name=f"task {task.name}")


class _RunningTask:
    """One task in this process."""

    def __init__(
        self,
        task: Task,
        progress: TaskProgress,
        running: RunningApplication,
        commit: GroupCommit,
        owner: str,
        random: Random,
    ) -> None:
        self._task = task
        self._progress = progress
        self._running = running
        self._commit = commit
        self._owner = owner
        self._random = random
        self._backoff = Backoff(_BACKOFF_MIN_S, _BACKOFF_MAX_S)
        self._log: structlog.typing.FilteringBoundLogger = _log.bind(task=task.name)

    # -- the lease -------------------------------------------------------------------------------------------------
    async def run_as_holder(self) -> None:
        """Run it while this node holds its lease. One that is done is not begun by another node while this one lives."""
        while self._progress.state != "done":
            lease = await self._acquire()
            if lease is None:
                await trio.sleep(_RENEW_S)
                continue
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep, lease, nursery.cancel_scope)
                    await self.run()
            finally:
                if self._progress.state != "done":
                    self._progress.state = "waiting"
                with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True):
                    await self._release(lease)

    async def _keep(self, lease: Lease, held: trio.CancelScope) -> None:
        """Renew it; end the task when that has not worked for so long that another node may soon have it."""
        renewed_s = trio.current_time()
        while True:
            await trio.sleep(_RENEW_S)
            found = await self._acquire()
            if found is not None and found.epoch == lease.epoch:
                renewed_s = trio.current_time()
            elif found is not None or trio.current_time() - renewed_s >= _GIVE_UP_S:
                self._log.warning("task.lease_lost")
                held.cancel()
                return

    async def _acquire(self) -> Lease | None:
        """None while another node has it, or the journal does not answer."""
        try:
            with trio.move_on_after(_RENEW_S):
                return await self._running.journal.leases.acquire(self._lease_name, self._owner, _LEASE_S)
        except BackhaulError as error:
            self._log.warning("task.lease_failed", code=error.code, reason=error.message, repeat_key=self._lease_name)
        return None

    async def _release(self, lease: Lease) -> None:
        try:
            await self._running.journal.leases.release(lease)
        except BackhaulError as error:
            self._log.warning("task.lease_failed", code=error.code, reason=error.message, repeat_key=self._lease_name)

    @property
    def _lease_name(self) -> str:
        return f"task {self._task.name}"

    # -- the times -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Run it at its times, until cancelled or done."""
        self._progress.state = "running"
        self._log.info("task.started", schedule=self._task.schedule, on_each_node=self._task.on_each_node)
        if self._task.at_us is not None:
            await self._until_it_works(partial(self._run_daily, self._task.at_us))
        elif self._task.every_s is not None:
            await self._run_again_and_again(self._task.every_s)
        else:
            await self._until_it_works(self._run_once)
            self._progress.state = "done"
            self._log.info("task.ended")

    async def _run_again_and_again(self, every_s: float) -> None:
        due_s = trio.current_time()
        while True:
            await trio.sleep_until(due_s)
            due_s = max(due_s, trio.current_time()) + every_s
            await self._until_it_works(self._run_once)

    async def _run_daily(self, at_us: int) -> None:
        journal, name, now_us = self._running.journal, self._task.name, self._running.now_us
        await journal.projections.migrate(TASK_TABLES, _TABLE)
        rows = await journal.projections.query("SELECT done_us FROM backhaul_task WHERE name = $1", (name,))
        if rows:
            done_us = int(rows[0][0])
        else:
            await self._store(done_us := last_due_us(at_us, now_us()))
        while True:
            due_us = next_due_us(at_us, done_us, now_us())
            if (left_us := due_us - now_us()) > 0:
                await trio.sleep(min(left_us / 1e6, _LOOK_S))
                continue
            begun_s, due_us = trio.current_time(), max(due_us, last_due_us(at_us, now_us()))
            await self._run_once()
            await self._store(due_us)
            done_us = due_us
            self._log.info("task.done", due_us=due_us, took_s=round(trio.current_time() - begun_s, 3))

    async def _store(self, done_us: int) -> None:
        statement = Statement(_DONE, [(self._task.name, done_us)])
        await self._commit.append(LocalAppend(EventBatch(), statements=(statement,)))

    # -- faults ----------------------------------------------------------------------------------------------------
    async def _until_it_works(self, run: Any) -> None:  # noqa: ANN401
        """Run it, and again with backoff as long as it raises."""
        while True:
            begun_s = trio.current_time()
            try:
                await run()
                return
            except BackhaulError as error:
                if trio.current_time() - begun_s >= _STABLE_S:
                    self._backoff.progressed()
                retry_in_s = self._backoff.next_delay(self._random.random(), at_least_s=error.retry_after_s or 0.0)
                self._progress.state, self._progress.error = "failing", error
                self._progress.failures = self._backoff.failures
                self._log.error(
                    "task.failed",
                    code=error.code,
                    reason=error.message,
                    hint=error.hint,
                    failures_in_a_row=self._backoff.failures,
                    retry_in_s=round(retry_in_s, 1),
                    repeat_key=self._lease_name,
                )
            await trio.sleep(retry_in_s)

    async def _run_once(self) -> None:
        task, running = self._task, self._running.acting
        try:
            await call_async(lambda: task.function(running), task.deadline_s, task.function, self._running.watchdog)
        except BackhaulError as error:
            is_late = error.code == "projection.handler_timeout"
            raise BackhaulError(
                "application.task_timeout" if is_late else "application.task_failed",
                error.message,
                "make it quicker, or its deadline_s longer" if is_late else "mend the task's function",
                kind=error.kind,
                details=error.details,
            ) from error
        self._backoff.progressed()
        self._progress.state, self._progress.failures, self._progress.error = "running", 0, None
        self._progress.runs += 1
