"""The past lane of a push stream: what it remembers of entities, and how large its messages are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import trio
from trio.testing import MockClock

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.policy.parsing import parse_policy
from common.core.push.messages import PushBatch
from common.core.push.past import KnownEntities, PastBatch, weight_of
from common.core.push.producer import Producer
from common.core.subscription.replay import ReplayPart
from common.transport.push.past import PastLane
from tests.component.transport.push.test_filters import settled, stories
from tests.component.transport.push.test_past import grow, in_force
from tests.support.push import PushWorld


async def test_of_an_entity_with_parked_events_nothing_is_remembered(autojump_clock: MockClock) -> None:
    """An operator discards what was parked, and the edge may write the entity now: the cloud has nothing of it."""
    policies = [parse_policy("[[rule]]\nwho = '*'\nwrite = '*|{id}/*'", "policy")]
    world = PushWorld().with_endpoint(policy=lambda: policies[-1])
    async with world.cloud() as (cloud, endpoint), world.edge() as (edge, link):
        await in_force(cloud, endpoint)
        await grow(edge, "S|a", "red", "blue")
        await settled(cloud, 2)
        rows = await cloud.parked.rows()
        assert [(row.code, row.event.seq_nr) for row in rows] == [("parked.not_allowed", 1), ("parked.not_allowed", 2)]
        for row in rows:
            await cloud.parked.discard(row.id)
        policies.append(parse_policy("[[rule]]\nwho = '*'\nwrite = '*|*'", "policy"))
        await grow(edge, "S|a", "blue", "red")
        await settled(cloud, 4)
        assert await stories(cloud) == {"S|a": [1, 2, 3, 4]}
        assert await cloud.parked.rows() == []
        assert link.connects == 1


class Line:
    """A stream's sending end that takes messages of 2,000 bytes."""

    def __init__(self) -> None:
        self.message_bytes = 2_000
        self.past_sent = 0
        self.sent: list[PushBatch] = []
        self.sizes: list[int] = []

    def room_bytes(self) -> int:
        return self.message_bytes

    async def send_batch(self, batch: PushBatch, message: bytes) -> None:
        self.past_sent += 1
        self.sent.append(batch)
        self.sizes.append(len(message))


def trimmed(names: Iterable[str]) -> PastBatch:
    """Of each entity some numbers that are gone, and no event."""
    batch = PastBatch()
    for name in names:
        batch.add(ReplayPart(EventBatch(), (StatedRange(name, 1, 9, "trimmed"),)), 0)
    return batch


async def test_a_past_of_ranges_alone_goes_in_messages_of_the_usual_size(autojump_clock: MockClock) -> None:
    names = [f"S|{number:03}{'n' * 200}" for number in range(60)]
    line, world = Line(), PushWorld()
    async with world.edge() as (edge, _):
        lane = PastLane(
            edge,
            cast(Producer, line),
            KnownEntities(),
            trio.lowlevel.ParkingLot(),
            line.send_batch,  # type: ignore[arg-type]
            line.send_batch,
            batch_max_events=100,
            answer_timeout_s=1.0,
            on_push=None,
        )
        assert await lane._send_past(trimmed(names))
    assert max(line.sizes) <= line.message_bytes
    assert [stated.persistence_id for batch in line.sent for stated in batch.ranges] == names


def test_ranges_count_for_the_size_of_a_message() -> None:
    names = [f"S|{number}" for number in range(10)]
    batch = trimmed(names)
    part = ReplayPart(EventBatch(), (StatedRange(names[0], 1, 9, "trimmed"),))
    assert batch.size == 10 * weight_of(part) > 10 * len(names[0])
    first, second = batch.halves()
    assert [one.persistence_id for one in (*first.ranges, *second.ranges)] == names
    assert first.size == second.size == batch.size // 2
    assert not trimmed(names[:1]).may_be_cut
