"""Many entities that enter many subscriptions at once: what is read for them, and who waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import ParamSpec, TypeVar

import pytest
import trio
from trio.testing import MockClock

from common.core.events.batch import EventBatch
from common.journal.memory.log import MemoryLog
from common.journal.memory.state import MemoryDatabase
from common.transport.subscription.state import SubscriptionState
from tests.support.subscription.subscriptions import (
    SubscriptionWorld,
    criteria,
    publish,
    rows_of,
    wait_for_position,
    wait_until,
    whole_inbox,
)

ENTERING = [f"Order|{number}" for number in range(200)]
CONSUMERS = 4
P = ParamSpec("P")
T = TypeVar("T")


def waits_for_none(state: SubscriptionState) -> bool:
    return not state.awaiting


def counted(read: Callable[P, Awaitable[T]], takes_s: float, began: list[str]) -> Callable[P, Awaitable[T]]:
    """A read that takes so long, as one of a database, and is noted."""

    async def read_slowly(*args: P.args, **more: P.kwargs) -> T:
        began.append(read.__name__)
        await trio.sleep(takes_s)
        return await read(*args, **more)

    return read_slowly


@pytest.mark.parametrize("takes_s", [0.0, 0.005])
async def test_histories_are_read_together_and_once_for_all(
    takes_s: float, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    monkeypatch.setattr(MemoryLog, "read_entity", counted(MemoryLog.read_entity, takes_s, began))
    monkeypatch.setattr(MemoryLog, "read_histories", counted(MemoryLog.read_histories, takes_s, began))
    world = SubscriptionWorld()
    async with AsyncExitStack() as stack:
        source, endpoint = await stack.enter_async_context(world.source())
        consumers = [
            await stack.enter_async_context(
                world.consumer(
                    disk=MemoryDatabase(), consumer_id=f"edge-{number}", criteria=criteria("red", f"own-{number}")
                )
            )
            for number in range(CONSUMERS)
        ]
        for _ in range(3):
            await publish(source, ENTERING, tags=["blue"])
        for _, state in consumers:
            await wait_for_position(state, 3 * len(ENTERING))
        began.clear()
        await publish(source, ENTERING, tags=["red"])
        for journal, state in consumers:
            await wait_for_position(state, 4 * len(ENTERING))
            await wait_until(partial(waits_for_none, state))
            assert rows_of(await whole_inbox(journal)) == {name: [1, 2, 3, 4] for name in ENTERING}
        assert "read_entity" not in began, "none that was asked for while others were read is read in their turn, alone"
        assert not takes_s or len(began) <= len(ENTERING) / 8
        for one in endpoint.streams:
            assert one.replays == len(ENTERING)
            assert one.deliveries <= len(ENTERING) + 50, "the last message of a replay is its end"


async def test_the_live_lane_goes_on_while_histories_are_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SubscriptionWorld()
    read_histories, is_reading, may_go_on = MemoryLog.read_histories, trio.Event(), trio.Event()

    async def read(
        self: MemoryLog, first: Mapping[str, int], *, each_max: int, max_bytes: int
    ) -> dict[str, EventBatch]:
        found = await read_histories(self, first, each_max=each_max, max_bytes=max_bytes)
        is_reading.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(MemoryLog, "read_histories", read)
    async with world.source() as (source, _), world.consumer(criteria=criteria("red")) as (consumer, state):
        await publish(source, ["Order|enters"], tags=["blue"])
        await publish(source, ["Order|enters"], tags=["red"])
        await is_reading.wait()
        await publish(source, ["Order|other"], tags=["red"])
        await wait_for_position(state, 3, at_most_s=5.0)  # not on another stream, once this one has stood still
        assert rows_of(await whole_inbox(consumer)) == {"Order|other": [1]}
        await publish(source, ["Order|enters"], tags=["red"])
        await wait_for_position(state, 4)
        may_go_on.set()
        await wait_until(lambda: not state.awaiting)
        assert rows_of(await whole_inbox(consumer)) == {"Order|other": [1], "Order|enters": [1, 2, 3]}
