"""A peer of a subscription that stands still, or does not keep to its steps, is left: at once, and without a word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

import common.transport.memory.network
from common.core.events.batch import new_events
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.history import Generation, History
from common.core.subscription.messages import (
    SUBSCRIBE_PATH,
    Deliver,
    DeliveryLane,
    Progress,
    StreamLimits,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import NO_FILTER, NO_RESUME_POINT, LogCursor, ResumePoint
from common.transport.codec.events import encode_batch
from common.transport.codec.subscription import (
    decode_from_consumer,
    decode_from_source,
    encode_deliver,
    encode_from_consumer,
    encode_from_source,
)
from common.transport.memory.streams import WINDOW_BYTES
from common.transport.stream import DialledStream, MessageStream, PeerGone, StreamMethod
from common.transport.subscription.sinks import Effect, Taken
from tests.support.subscription.subscriptions import (
    LIMITS,
    SOURCE,
    SubscriptionWorld,
    now_us,
    publish,
    wait_until,
)

NAMES = [f"Order|{i % 7}" for i in range(200)]
SUBSCRIBE = Subscribe("Order", "edge-9", "mine", NO_RESUME_POINT, NO_FILTER, LIMITS, 0)


@asynccontextmanager
async def answered(
    world: SubscriptionWorld, handler: Callable[[MessageStream], Awaitable[None]]
) -> AsyncIterator[None]:
    """A source that answers by hand."""
    async with world.network.serve(
        {SUBSCRIBE_PATH: StreamMethod(handler)},
        host="source",
        port=7443,
        message_max_bytes=4_000_000,
        connections_max=9,
    ):
        yield


async def take(stream: MessageStream) -> Subscribed:
    """Answer Subscribe as a source with an empty log."""
    asked = decode_from_consumer(await stream.receive())
    assert isinstance(asked, Subscribe)
    history = History("j", (Generation("g", 1),), 0)
    answer = Subscribed(history, 0, "first", ResumePoint("j", "", LogCursor(0), asked.requested), 1_000, 64, now_us())
    await stream.send(encode_from_source(answer))
    return answer


@asynccontextmanager
async def subscribed(world: SubscriptionWorld, limits: StreamLimits = LIMITS) -> AsyncIterator[DialledStream]:
    """A stream that a consumer opened and then leaves to the test."""
    async with world.dial() as channel, channel.open_stream(SUBSCRIBE_PATH) as stream:
        await stream.send(encode_from_consumer(replace(SUBSCRIBE, limits=limits)))
        yield stream


async def test_a_second_subscribed_is_refused(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()

    async def take_twice(stream: MessageStream) -> None:
        await stream.send(encode_from_source(await take(stream)))
        await trio.sleep_forever()

    async with world.consumer() as (_, state), answered(world, take_twice):
        await wait_until(lambda: state.last_code != "" and state.connects > 0, at_most_s=60)
        await trio.sleep(60)
        assert state.last_code == "link.protocol"


async def test_a_source_that_does_not_answer_subscribe_is_left(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()

    async def be_silent(_: MessageStream) -> None:
        await trio.sleep_forever()

    async with world.consumer() as (_, state), answered(world, be_silent):
        await trio.sleep(50)
        assert state.last_code == "link.timeout"


async def test_a_silent_source_is_dropped_without_a_word_on_its_line(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    ends: list[str] = []

    async def take_and_be_silent(stream: MessageStream) -> None:
        await take(stream)
        try:
            await trio.sleep_forever()
        finally:
            ends.append(stream.fault.code if stream.fault else "")

    async with world.consumer(), answered(world, take_and_be_silent):
        await trio.sleep(50)
        assert ends == ["link.aborted"]


async def test_a_source_that_does_not_read_is_left_though_it_speaks(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.transport.memory.network, "WINDOW_BYTES", 300)
    world = SubscriptionWorld()

    async def speak_only(stream: MessageStream) -> None:
        await take(stream)
        while True:
            await stream.send(encode_from_source(Heartbeat(0, now_us())))
            await trio.sleep(5)

    async with world.consumer() as (_, state), answered(world, speak_only):
        await wait_until(lambda: state.last_code == "link.stalled", at_most_s=3_000)
        assert "does not read" in state.last_reason


async def test_a_consumer_whose_line_stands_still_is_dropped_without_a_word_on_it(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()

    async def hear_only(stream: DialledStream) -> NoReturn:
        while True:
            await stream.receive()

    async with world.source() as (source, endpoint), subscribed(world) as stream:
        await stream.receive()
        world.network.connections[-1].hold()
        await publish(source, NAMES)
        await trio.sleep(100)
        assert endpoint.streams == []
        world.network.connections[-1].let_go()
        with pytest.raises(PeerGone) as gone, trio.fail_after(10):
            await hear_only(stream)
        assert gone.value.code == "link.aborted"


NARROW = [StreamLimits(20_000, 5_000, 7), StreamLimits(20_000, 2_000, 100)]


@pytest.mark.parametrize("narrow", NARROW)
async def test_of_both_ends_limits_the_narrower_hold(narrow: StreamLimits, autojump_clock: MockClock) -> None:
    """Nothing is acknowledged: what comes is what one window takes, in batches within both ends' limits."""
    wide = StreamLimits(window_bytes=900_000, batch_bytes=90_000, batch_events=200)
    for own, theirs in ((narrow, wide), (wide, narrow)):
        world = SubscriptionWorld(source_settings=replace(SOURCE, limits=own))
        async with world.source() as (source, _):
            await publish(source, NAMES, payload_bytes=300)
            async with subscribed(world, theirs) as stream:
                sizes: list[int] = []
                counts: list[int] = []
                with trio.move_on_after(5):
                    while True:
                        data = await stream.receive()
                        message = decode_from_source(data)
                        if isinstance(message, Deliver):
                            sizes.append(len(data))
                            counts.append(len(message.events))
                assert narrow.window_bytes / 2 < sum(sizes) <= narrow.window_bytes
                assert max(counts) <= narrow.batch_events
                assert max(sizes) <= 1.3 * narrow.batch_bytes


async def test_a_source_that_freezes_after_it_asked_to_leave_is_left(autojump_clock: MockClock) -> None:
    """What comes while the place is stored is not taken any more: it is nothing that the consumer owes an ack for."""
    world = SubscriptionWorld(commit_s=1.0)

    async def ask_to_leave_and_freeze(stream: MessageStream) -> None:
        await take(stream)
        await stream.send(encode_from_source(Progress(DeliveryLane.LIVE, 0, 1)))
        await stream.send(encode_from_source(Drain(1.0, "stopping")))
        for through in range(2, 30):  # the consumer stores its place meanwhile
            await trio.sleep(0.3)
            await stream.send(encode_from_source(Progress(DeliveryLane.LIVE, through - 1, through)))
        await trio.sleep_forever()

    async with world.consumer() as (_, state), answered(world, ask_to_leave_and_freeze):
        await wait_until(lambda: state.last_code == "link.stalled", at_most_s=120)


class StandingSink:
    """An application that takes nothing for a long time."""

    takes_restarts = False

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def prepare(self, taken: Taken) -> Effect:
        await trio.sleep(25)
        return Effect(taken.events)


class CountingSink:
    """Takes nothing at first, so that all queues behind it; then notes how many events each commit has."""

    takes_restarts = False

    def __init__(self) -> None:
        self.events: list[int] = []

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def prepare(self, taken: Taken) -> Effect:
        await trio.sleep(0 if self.events else 10)
        self.events.append(len(taken.events))
        return Effect(taken.events)


async def test_a_commit_takes_so_many_rows_of_what_has_queued_and_no_more(autojump_clock: MockClock) -> None:
    """However little they weigh: a transaction holds the writer, and others' appends wait for it."""
    world, sink, each, count = SubscriptionWorld(), CountingSink(), 500, 30

    async def send(stream: MessageStream) -> None:
        await take(stream)
        for number in range(count):
            events = new_events([f"O|{number}"] * each, ["C"] * each, [b""] * each)
            events.position = [*range(number * each + 1, (number + 1) * each + 1)]
            events.seq_nr = [*range(1, each + 1)]
            events.prev_seq_nr = [*range(each)]
            message = Deliver(DeliveryLane.LIVE, number * each, (number + 1) * each, events=events)
            await stream.send(encode_deliver(message, encode_batch(events)))
        await trio.sleep_forever()

    limits = StreamLimits(window_bytes=10_000_000, batch_bytes=1_000_000, batch_events=each)
    async with world.consumer(sink=sink, limits=limits) as (_, state), answered(world, send):
        await wait_until(lambda: sum(sink.events) == count * each, at_most_s=120)
        assert state.connects == 1
    assert max(sink.events) == 4_000, sink.events


async def test_a_consumer_receives_no_more_than_a_window_before_it_has_taken_it(autojump_clock: MockClock) -> None:
    """Whatever the source sends: the rest stays on the line."""
    world = SubscriptionWorld()
    limits = StreamLimits(window_bytes=50_000, batch_bytes=10_000, batch_events=100)
    sent_bytes = 0

    async def flood(stream: MessageStream) -> None:
        nonlocal sent_bytes
        await take(stream)
        for position in range(1, 1_000):
            events = new_events([f"Order|{position}"], ["Changed"], [bytes(5_000)])
            events.position, events.seq_nr = [position], [1]
            message = Deliver(DeliveryLane.LIVE, position - 1, position, events=events)
            await stream.send(encode_deliver(message, encode_batch(events)))
            sent_bytes += 5_000

    async with world.consumer(sink=StandingSink(), limits=limits) as (_, state), answered(world, flood):
        await wait_until(lambda: sent_bytes > 0, at_most_s=60)
        await trio.sleep(10)
        line_bytes = WINDOW_BYTES
        assert sent_bytes <= limits.window_bytes + line_bytes + 4 * 5_000
        assert state.state == "connected"
