"""Tasks that do much at a time: one after the other, and others in between."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import trio
import trio.testing

from common.firehose.turns import Turns

TASKS = 20


async def test_others_have_the_loop_between_two_turns_and_each_has_its_own() -> None:
    turns, seen = Turns(), list[str]()

    async def work(name: str) -> None:
        while True:
            await turns.take()
            seen.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        for number in range(TASKS):
            nursery.start_soon(work, f"task {number}")
        await trio.sleep(0.01)
        seen.clear()
        for _ in range(10 * TASKS):
            await trio.lowlevel.checkpoint()
            seen.append("other")
        nursery.cancel_scope.cancel()
    longest = max(len(list(group)) for is_other, group in groupby(seen, "other".__eq__) if not is_other)
    assert longest <= 2, "one in each turn of the loop, before or behind the other"
    taken = Counter(name for name in seen if name != "other")
    assert len(taken) == TASKS
    assert max(taken.values()) - min(taken.values()) <= 1, "in turn"


async def test_one_that_waits_in_its_turn_or_leaves_holds_up_nobody() -> None:
    turns, taken = Turns(), list[int]()

    async def work(number: int) -> None:
        await turns.take()
        taken.append(number)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as leaving:
            leaving.cancel()
            await turns.take()
        nursery.start_soon(turns.run)
        for number in range(5):
            nursery.start_soon(work, number)
        with trio.fail_after(5):
            while len(taken) < 5:  # noqa: ASYNC110  a turn raises no event
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_one_who_gives_none() -> None:
    turns = Turns()
    with trio.fail_after(5):
        await turns.take()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as giving:
                giving.start_soon(turns.run)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(TASKS):
                    nursery.start_soon(turns.take)
                await trio.lowlevel.checkpoint()
                giving.cancel_scope.cancel()
        await turns.take()
