"""A consumer acknowledges seldom, and in time: an ack costs the source what a delivery does, but its window waits for them."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from common.core.subscription.messages import ConsumerAck, StreamLimits
from common.core.subscription.source import Serving
from tests.support.subscription.subscriptions import SubscriptionWorld, publish, wait_for_position, wait_until


@pytest.fixture
def acks(monkeypatch: pytest.MonkeyPatch) -> list[ConsumerAck]:
    """What the source was told."""
    answer: list[ConsumerAck] = []
    take = Serving.ack

    def recording(self: Serving, ack: ConsumerAck, now_s: float) -> float | None:
        answer.append(ack)
        return take(self, ack, now_s)

    monkeypatch.setattr(Serving, "ack", recording)
    return answer


async def test_small_deliveries_share_an_ack_that_comes_soon(
    acks: list[ConsumerAck], autojump_clock: MockClock
) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer() as (_, state):
        await wait_until(lambda: bool(endpoint.streams))
        for number in range(200):
            await publish(source, [f"Order|{number}"])
            await trio.sleep(0.01)
        await wait_for_position(state, 200)
        await trio.sleep(0.3)
        (one,) = endpoint.streams
        assert one.deliveries > 100
        assert len(acks) <= one.deliveries / 10
        assert one.acked_deliveries == one.deliveries
        assert one.in_flight_bytes == 0


async def test_a_backlog_does_not_wait_for_acks_by_the_clock(
    acks: list[ConsumerAck], autojump_clock: MockClock
) -> None:
    world = SubscriptionWorld()
    limits = StreamLimits(window_bytes=20_000, batch_bytes=5_000, batch_events=40)
    async with world.source() as (source, _):
        for _ in range(20):
            await publish(source, [f"Order|{i}" for i in range(50)], payload_bytes=200)
        async with world.consumer(limits=limits) as (_, state):
            began_s = trio.current_time()
            await wait_for_position(state, 1_000)
            windows = 1_000 * 200 / limits.window_bytes
            assert len(acks) >= windows
            assert trio.current_time() - began_s < windows * 0.1, "by the mock clock"
