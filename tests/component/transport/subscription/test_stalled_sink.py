"""Who stood still is told apart from who is silent: nobody is blamed for one's own stop, and each end says what it knows."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.transport.subscription.sinks import Effect, Taken
from tests.support.subscription.subscriptions import (
    SubscriptionWorld,
    log_of,
    publish,
    rows_of,
    wait_for_position,
    wait_until,
    whole_inbox,
    whole_log,
)

NAMES = [f"Order|{i % 7}" for i in range(100)]


class SlowSink:
    """A handler that takes long."""

    takes_restarts = False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def prepare(self, taken: Taken) -> Effect:
        await trio.sleep(self._seconds)
        return Effect(taken.events)


@pytest.mark.parametrize("handler_s", [0.0, 15.0])
async def test_who_was_stopped_does_not_leave_peers_for_their_silence(
    handler_s: float, autojump_clock: MockClock
) -> None:
    """Both ends stand still, idle or in a handler, as in one machine that sleeps, and go on where they were."""
    world = SubscriptionWorld()
    with structlog.testing.capture_logs() as lines:
        async with (
            world.source() as (source, _),
            world.consumer(sink=SlowSink(handler_s), lease_s=1e6) as (consumer, state),
        ):
            await wait_until(lambda: state.state == "connected")
            for _ in range(20):
                await publish(source, NAMES[:2])
                await trio.sleep(17)  # looks have seen what is so now
                autojump_clock.jump(100)
                await trio.sleep(12)
            await wait_for_position(state, 40, at_most_s=5_000)
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))
    # What was being sent at that moment may be half sent: that stream is left, and it is said whose fault it is.
    ends = [line for line in lines if line["event"] == "link.disconnected"]
    assert handler_s or not ends, "nothing was being sent"
    assert all(line["reason"].startswith("this process stood still for ") for line in ends), ends
    assert {line["code"] for line in lines if line["event"] == "consumer.disconnected"} <= {"link.lost"}


async def test_a_consumer_that_does_not_get_on_says_what_holds_it_up(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    with structlog.testing.capture_logs() as lines:
        async with world.source() as (source, _), world.consumer(sink=SlowSink(1_000)) as (_, state):
            await publish(source, NAMES)
            await wait_until(lambda: state.last_code != "")
            assert state.last_code == "subscription.not_acked"
            assert "what came has been stored for" in state.last_reason
            assert state.last_hint.startswith("make room in the inbox")
    [left] = [line for line in lines if line["event"] == "consumer.disconnected"][:1]
    assert left["code"] == "subscription.not_acked"
    assert "the consumer was heard of" in left["reason"]
