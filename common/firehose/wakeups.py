"""How thousands of feeds wait: each in its own task until it is woken, with one task that keeps all their deadlines.

A cancel scope for every wait would cost more than the rest of a delivery. Long waits end up to a tick late, which
nobody minds; short ones, and all while the keeper does not run, have a scope of their own.
"""

from __future__ import annotations

from math import ceil, inf
from typing import NoReturn

import trio

TICK_S = 0.05
_SHORT_S = 4 * TICK_S


class Deadlines:
    """Wakes waiters when their time has come, to the tick."""

    def __init__(self) -> None:
        self._due: dict[int, dict[Waiter, None]] = {}
        self._asleep: trio.CancelScope | None = None

    @property
    def is_kept(self) -> bool:
        """Whether anybody would be woken."""
        return self._asleep is not None

    def add(self, waiter: Waiter, at_s: float) -> int:
        """Wake it then, unless it is removed; answers the tick to remove it by."""
        tick = ceil(at_s / TICK_S)
        self._due.setdefault(tick, {})[waiter] = None
        if self._asleep is not None and tick * TICK_S < self._asleep.deadline:
            self._asleep.deadline = tick * TICK_S
        return tick

    def remove(self, waiter: Waiter, tick: int) -> None:
        """It need not be woken any more."""
        due = self._due.get(tick)
        if due is not None:
            due.pop(waiter, None)
            if not due:
                del self._due[tick]

    async def run(self) -> NoReturn:
        """Keep them, until cancelled."""
        try:
            while True:
                earliest_s = min(self._due) * TICK_S if self._due else inf
                self._asleep = trio.CancelScope(deadline=earliest_s)
                with self._asleep:
                    await trio.sleep_forever()
                now_s = trio.current_time()
                for tick in [tick for tick in self._due if tick * TICK_S <= now_s]:
                    for waiter in self._due.pop(tick):
                        waiter.wake()
        finally:
            self._asleep = None
            for due in self._due.values():  # they look at the clock and see what is left
                for waiter in due:
                    waiter.wake()
            self._due.clear()


class Waiter:
    """Where one task waits. Waking nobody does nothing: who waits looks first."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._task: trio.lowlevel.Task | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits here now."""
        return self._task is not None

    def wake(self) -> None:
        """End its wait."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self, until_s: float) -> None:
        """Until it is woken, or ``until_s``. Always a checkpoint."""
        deadlines = self._deadlines
        if not deadlines.is_kept or until_s - trio.current_time() < _SHORT_S:
            with trio.move_on_at(until_s):
                await self._sleep()
            return
        tick = deadlines.add(self, until_s)
        try:
            await self._sleep()
        finally:
            deadlines.remove(self, tick)

    async def _sleep(self) -> None:
        assert self._task is None, "one task at a time"
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
