"""One task keeps the deadlines of all who wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from common.firehose.wakeups import TICK_S, Deadlines, Waiter


@asynccontextmanager
async def kept() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.testing.wait_all_tasks_blocked()
        yield deadlines
        nursery.cancel_scope.cancel()


async def waited(waiter: Waiter, seconds: float) -> float:
    began_s = trio.current_time()
    await waiter.wait(began_s + seconds)
    return trio.current_time() - began_s


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.19, 0.3, 1.0, 77.77])
async def test_a_wait_ends_at_its_deadline_to_the_tick(autojump_clock: trio.testing.MockClock, seconds: float) -> None:
    async with kept() as deadlines:
        took_s = await waited(Waiter(deadlines), seconds)
        assert seconds <= took_s + 1e-6
        assert took_s <= seconds + TICK_S + 1e-6
        assert not deadlines._due


async def test_an_earlier_deadline_is_kept_while_a_later_one_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    order: list[float] = []

    async def wait(seconds: float) -> None:
        await waited(Waiter(deadlines), seconds)
        order.append(seconds)

    async with kept() as deadlines, trio.open_nursery() as nursery:
        for seconds in (50.0, 10.0, 30.0, 10.2):
            nursery.start_soon(wait, seconds)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [10.0, 10.2, 30.0, 50.0]


async def test_who_is_woken_or_cancelled_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with kept() as deadlines:
        waiter = Waiter(deadlines)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waited, waiter, 1_000.0)
            await trio.testing.wait_all_tasks_blocked()
            waiter.wake()
        assert not deadlines._due
        for seconds in (0.1, 100.0):
            with trio.move_on_after(0.05) as scope:
                await waited(waiter, seconds)
            assert scope.cancelled_caught
            assert not deadlines._due
            waiter.wake()
        assert await waited(waiter, 1.0) >= 1.0


async def test_when_the_keeper_ends_everyone_keeps_their_own(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as outer:
        async with kept() as deadlines:
            waiter = Waiter(deadlines)

            async def wait_until(until_s: float) -> None:
                while trio.current_time() < until_s:
                    await waiter.wait(until_s)

            outer.start_soon(wait_until, trio.current_time() + 20.0)
            await trio.testing.wait_all_tasks_blocked()
    assert not deadlines.is_kept
