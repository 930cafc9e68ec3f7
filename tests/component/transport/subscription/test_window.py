"""What is in flight to one consumer stays within its window, whichever lanes send, also those that found the same room."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import Begin, StreamLimits
from common.core.subscription.source import Serving
from tests.support.subscription.subscriptions import (
    SubscriptionWorld,
    criteria,
    log_of,
    publish,
    rows_of,
    wait_for_position,
    wait_until,
    whole_inbox,
    whole_log,
)

LIMITS = StreamLimits(window_bytes=20_000, batch_bytes=10_000, batch_events=40)


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """At each delivery: what was in flight before it, what it weighs with all of that, and what may be."""
    found: list[tuple[int, int, int]] = []
    sent = Serving.sent

    def recording(self: Serving, events: int, size: int, now_s: float) -> None:
        before, limit = self.window.in_flight_bytes, self.window.bytes_limit
        sent(self, events, size, now_s)
        found.append((before, self.window.in_flight_bytes, limit))

    monkeypatch.setattr(Serving, "sent", recording)
    return found


@pytest.mark.parametrize("start", [Begin.LOG, Begin.SNAPSHOTS])
async def test_lanes_share_one_window(
    start: Begin, in_flight: list[tuple[int, int, int]], autojump_clock: MockClock
) -> None:
    """Live, a backfill, replays of entities that cross between them, and snapshots, to a consumer that is slow to ack."""
    world = SubscriptionWorld(commit_s=0.05)
    red, both = criteria("red"), criteria("red", "blue")
    async with (
        world.source() as (source, endpoint),
        world.consumer(criteria=red, limits=LIMITS, start=start) as (consumer, state),
    ):
        for _ in range(60):
            await publish(source, [f"Order|{i}" for i in range(50)], tags=["blue"], payload_bytes=200)
        await wait_for_position(state, 3_000)
        if start is Begin.SNAPSHOTS:
            await source.snapshots.put([NewSnapshot(f"Order|{i}", 50, "State", "json", b"s" * 300) for i in range(40)])
        await consumer.subscriptions.set_requested("orders", both)
        state.filter_changed()
        await wait_until(lambda: state.backfill_position >= 0)
        while state.applied_version < 2:
            await publish(source, [f"Order|{i}" for i in range(10)], tags=["red"], payload_bytes=200)
            await publish(source, [f"Order|{i}" for i in range(10)], tags=["blue"], payload_bytes=200)
        await wait_until(lambda: state.awaiting == 0)
        await wait_for_position(state, source.log.history.head_position)
        assert sum(one.replays for one in endpoint.streams) > 0
        if start is Begin.LOG:
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source), both)
    assert max(after for before, after, _ in in_flight if before) > LIMITS.window_bytes / 2, "it was worth a test"
    beyond = [(before, after, limit) for before, after, limit in in_flight if before and after > limit]
    assert not beyond
