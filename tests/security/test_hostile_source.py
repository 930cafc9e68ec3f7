"""A source of streams that means harm, cloud or edge, against an honest consumer: place and inbox stay sound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.flow.messages import Heartbeat
from common.core.journal.history import Generation, History
from common.core.subscription.messages import (
    SUBSCRIBE_PATH,
    BackfillDone,
    Deliver,
    DeliveryLane,
    FilterApplied,
    FromSource,
    Progress,
    Subscribe,
    Subscribed,
)
from common.core.subscription.place import FilterState, ResumePoint
from common.transport.codec.subscription import decode_from_consumer, encode_from_source
from common.transport.stream import MessageStream, StreamMethod
from tests.support.subscription.subscriptions import (
    LIMITS,
    SubscriptionWorld,
    log_of,
    now_us,
    publish,
    rows_of,
    wait_for_position,
    whole_inbox,
    whole_log,
)

Script = Callable[[MessageStream, Subscribe], Awaitable[None]]
LIVE, BACKFILL, REPLAY = DeliveryLane.LIVE, DeliveryLane.BACKFILL, DeliveryLane.REPLAY
NAMES = [f"Order|{i % 7}" for i in range(100)]
LONG_S = 300.0
BACKOFF_S = 0.5


def subscribed(asked: Subscribe, **changes: object) -> Subscribed:
    place = replace(asked.place, applied=asked.requested)
    generation = Generation(asked.place.generation_id or "g", 1)
    history = History(asked.place.journal_id or "hostile", (generation,), 1_000)
    return replace(Subscribed(history, 1, "first", place, 100_000, 4, now_us()), **changes)  # type: ignore[arg-type]


def events(positions: Sequence[int], name: str = "Order|1", payload_bytes: int = 10) -> EventBatch:
    batch = new_events([name] * len(positions), ["Changed"] * len(positions), [b"x" * payload_bytes] * len(positions))
    return replace(
        batch,
        position=list(positions),
        timestamp_us=list(positions),
        stored_us=list(positions),
        event_time_us=list(positions),
        seq_nr=list(positions),
        prev_seq_nr=[position - 1 for position in positions],
        origin_seq_nr=list(positions),
        prev_tags=[""] * len(positions),
    )


def says(*messages: FromSource | bytes, after_start: bool = True) -> Script:
    async def play(stream: MessageStream, asked: Subscribe) -> None:
        for message in (subscribed(asked), *messages) if after_start else messages:
            await stream.send(message if isinstance(message, bytes) else encode_from_source(message))
        await trio.sleep_forever()

    return play


async def serve_other_filters(stream: MessageStream, asked: Subscribe) -> None:
    other = replace(asked.place, applied=FilterState(99, '[{"exclude_all":true}]'))
    await stream.send(encode_from_source(subscribed(asked, place=other)))
    await trio.sleep_forever()


ATTACKS: dict[str, tuple[str, Script]] = {
    "bytes that are no message": ("link.malformed", says(b"\xff\xff\xff")),
    "a message without content": ("link.malformed", says(b"")),
    "events before Subscribed": ("link.protocol", says(Deliver(LIVE, 0, 1, events=events([1])), after_start=False)),
    "filters that nobody asked for": ("link.protocol", serve_other_filters),
    "a message larger than any may be": ("link.message_too_large", says(b"\0" * 5_000_000)),
    "events out of order": ("link.protocol", says(Deliver(LIVE, 0, 3, events=events([2, 1])))),
    "events behind the end": ("link.protocol", says(Deliver(LIVE, 0, 3, events=events([4])))),
    "a message that leaves a hole": ("link.protocol", says(Deliver(LIVE, 5, 9, events=events([6])))),
    "a message that goes back": ("link.protocol", says(Progress(LIVE, 0, 5), Progress(LIVE, 5, 4))),
    "a lane that is not open": ("link.protocol", says(Deliver(BACKFILL, 0, 1, events=events([1])))),
    "a replay of one entity with another's events": (
        "link.protocol", says(Deliver(REPLAY, 0, 0, events=events([1], "Order|2"), replay_of="Order|1"))
    ),
    "an empty range": ("link.protocol", says(Deliver(LIVE, 0, 1, ranges=(StatedRange("Order|1", 5, 2, "withheld"),)))),
    "a name that cannot be stored": ("link.protocol", says(Deliver(LIVE, 0, 1, events=events([1], "Order|\x001")))),
    "a name without a type": ("link.protocol", says(Deliver(LIVE, 0, 1, events=events([1], "order")))),
    "more snapshots than events": ("link.protocol", says(Deliver(LIVE, 0, 1, events=events([1]), snapshots=2))),
    "a digest that is a book": ("link.protocol", says(Progress(LIVE, 0, 1, digest="x" * 5_000))),
    "a time before time": ("link.protocol", says(Progress(LIVE, 0, 1, timestamp_us=-1))),
    "a filter that nobody asked for": ("link.protocol", says(FilterApplied(7, 0, None))),
    "the end of what was not begun": ("link.protocol", says(BackfillDone(7, 0))),
    "silence": ("link.timeout", says(after_start=False)),
    "silence after Subscribed": ("link.stalled", says()),
}  # fmt: skip


@asynccontextmanager
async def hostile(world: SubscriptionWorld, play: Script) -> AsyncIterator[list[int]]:
    """A source that plays this on every stream; the list has a number for each dial."""
    dials: list[int] = []

    async def serve(stream: MessageStream) -> None:
        dials.append(len(dials))
        asked = decode_from_consumer(await stream.receive())
        assert isinstance(asked, Subscribe)
        await play(stream, asked)

    async with world.network.serve(
        {SUBSCRIBE_PATH: StreamMethod(serve)}, host="source", port=7443, message_max_bytes=8_000_000, connections_max=9
    ):
        yield dials


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_breaks_the_rules_takes_no_effect_and_has_a_code(attack: str, autojump_clock: MockClock) -> None:
    code, play = ATTACKS[attack]
    world = SubscriptionWorld()
    async with world.consumer() as (consumer, state):
        async with hostile(world, play) as dials:
            await trio.sleep(LONG_S)
            assert state.last_code == code
            assert 1 < len(dials) <= LONG_S / BACKOFF_S + 1
        assert await whole_inbox(consumer) == []


async def test_an_honest_source_goes_on_where_it_was_after_all_of_it(autojump_clock: MockClock) -> None:
    """Events of the hostile one come in between only where it kept the rules: none of these did."""
    world = SubscriptionWorld()
    async with world.consumer() as (consumer, state):
        async with world.source() as (source, _):
            await publish(source, NAMES)
            await wait_for_position(state, 100)
        for play in [play for _, play in ATTACKS.values()]:
            async with hostile(world, play):
                await trio.sleep(30)
        async with world.source() as (source, _):
            await publish(source, NAMES)
            await wait_for_position(state, 200)
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


@pytest.mark.parametrize(
    ("code", "history"),
    [
        ("subscription.other_journal", lambda _: History("another", (Generation("g", 1),), 1_000)),
        ("subscription.diverged", lambda place: History(place.journal_id, (Generation("g", 1),), 1_000)),
        (
            "subscription.beyond_head",
            lambda place: History(place.journal_id, (Generation(place.generation_id, 1),), 99),
        ),
    ],
)
async def test_a_source_of_another_history_does_not_move_the_place(
    code: str, history: Callable[[ResumePoint], History], autojump_clock: MockClock
) -> None:
    world = SubscriptionWorld()

    async def go_on_in_it(stream: MessageStream, asked: Subscribe) -> None:
        await stream.send(encode_from_source(subscribed(asked, history=history(asked.place))))
        await stream.send(encode_from_source(Deliver(LIVE, 100, 101, events=events([101], "Order|forged"))))
        await trio.sleep_forever()

    async with world.consumer() as (consumer, state):
        async with world.source() as (source, _):
            await publish(source, NAMES)
            await wait_for_position(state, 100)
        async with hostile(world, go_on_in_it):
            await trio.sleep(LONG_S)
            assert state.last_code == code
        async with world.source() as (source, _):
            await publish(source, NAMES)
            await wait_for_position(state, 200)
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


async def test_endless_events_fill_the_inbox_to_its_bound_and_no_further(autojump_clock: MockClock) -> None:
    """The bound is the operator's, and what is beyond waits at the source; nothing is kept in memory for it."""
    world, sent = SubscriptionWorld(), [0]

    async def flood(stream: MessageStream, asked: Subscribe) -> None:
        await stream.send(encode_from_source(subscribed(asked)))
        at = asked.place.live.position
        while True:  # whatever the consumer's window is
            batch = events(range(at + 1, at + 21), payload_bytes=1_000)
            await stream.send(encode_from_source(Deliver(LIVE, at, at + 20, events=batch)))
            at, sent[0] = at + 20, sent[0] + 1

    async with world.consumer(inbox_max_bytes=200_000) as (consumer, state), hostile(world, flood):
        await trio.sleep(LONG_S)
        rows = await whole_inbox(consumer)
        assert state.last_code == "inbox.full"
        assert len(rows) > 100
        assert sum(len(row.event.payload) for row in rows) <= 200_000 + LIMITS.window_bytes


async def test_signs_of_life_alone_keep_a_link_and_cost_nothing(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()

    async def chatter(stream: MessageStream, asked: Subscribe) -> None:
        await stream.send(encode_from_source(subscribed(asked)))
        while True:
            await stream.send(encode_from_source(Heartbeat(2**62, -1)))
            await trio.sleep(0.01)

    async with world.consumer() as (consumer, state), hostile(world, chatter) as dials:
        await trio.sleep(60)
        assert (state.state, len(dials)) == ("connected", 1)
        assert await whole_inbox(consumer) == []
