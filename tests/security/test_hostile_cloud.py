"""A cloud that has the right certificate and means harm, against an honest edge: nothing that was not sent is lost or shown.

Each attack plays for many dials; then an honest cloud takes the address, and gets the whole journal, in order.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from common.core.events.batch import EventBatch, concat
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from common.core.flow.messages import Drain, Heartbeat
from common.core.journal.append import ParkedEvent, PushLane
from common.core.journal.history import Offset, Resume
from common.core.push.filter_transition import EVERYTHING, PushFilter, PushFilterState
from common.core.push.messages import (
    PUSH_PATH,
    Ack,
    FromCloud,
    Hello,
    PastKnown,
    PastQuestion,
    PushBatch,
    PushFilterUpdate,
    Start,
)
from common.journal.stores.journal import Journal
from common.transport.codec.push import decode_from_edge, encode_from_cloud
from common.transport.codec.wire import push as wire
from common.transport.push.link_state import LinkState
from common.transport.stream import MessageStream, StreamMethod
from tests.support.push import LIMITS, NAMES, PushWorld, append, now_us, same_story, wait_for_head, whole_log

Script = Callable[[MessageStream, Hello], Awaitable[None]]
NO_SECRETS = parse_filter('[{"exclude_tags":["secret"]}]').criteria
LONG_S = 400.0
BACKOFF_S = 0.5  # the shortest wait of the edge in this world


def start(hello: Hello, **changes: object) -> Start:
    """An honest Start for a cloud that has nothing yet, with these changes."""
    begun = Start(1, Offset(hello.history.journal_id, "", 0), Resume.FIRST, "cloud", "g", LIMITS, now_us())
    return replace(begun, **changes)  # type: ignore[arg-type]


def says(*messages: bytes | Callable[[Hello], FromCloud | bytes]) -> Script:
    """Say these things and then nothing more."""

    async def play(stream: MessageStream, hello: Hello) -> None:
        for message in messages:
            said = message if isinstance(message, bytes) else message(hello)
            await stream.send(said if isinstance(said, bytes) else encode_from_cloud(said))
        await trio.sleep_forever()

    return play


def answers(*messages: Callable[[PushBatch], FromCloud | bytes]) -> Script:
    """An honest Start, and these answers to the first batch."""

    async def play(stream: MessageStream, hello: Hello) -> None:
        await stream.send(encode_from_cloud(start(hello)))
        while not isinstance(batch := decode_from_edge(await stream.receive()), PushBatch):
            pass
        for message in messages:
            said = message(batch)
            await stream.send(said if isinstance(said, bytes) else encode_from_cloud(said))
        await trio.sleep_forever()

    return play


def orders(criteria: str) -> Script:
    """Acknowledge everything, and want another filter."""

    async def play(stream: MessageStream, hello: Hello) -> None:
        await stream.send(encode_from_cloud(start(hello)))
        await stream.send(encode_from_cloud(PushFilterUpdate(2, criteria)))
        while True:
            batch = decode_from_edge(await stream.receive())
            if isinstance(batch, PushBatch):
                await stream.send(encode_from_cloud(Ack(batch.through_position)))

    return play


def at(hello: Hello, position: int, **event: object) -> Offset:
    return replace(Offset(hello.history.journal_id, "", position), **event)  # type: ignore[arg-type]


def raw_start(**fields: object) -> bytes:
    return wire.FromCloud(wire.Start(**{"resume": "first", "window_events": 1, **fields})).encode()  # type: ignore[arg-type]


def ragged_ack(batch: PushBatch) -> bytes:
    return wire.FromCloud(wire.Ack(batch.through_position, parked_position=[1, 2], parked_code=["x"])).encode()


def parked(batch: PushBatch) -> tuple[ParkedEvent, ...]:
    return tuple(ParkedEvent(number, "Sensor|edge-1/t1", number, "x" * 100) for number in range(20_000))


def unsettled(hello: Hello) -> Start:
    place = PushFilterState(PushFilter(), PushFilter(1, "not criteria"), 0, 0)
    return start(hello, place=place)


ATTACKS = {
    "bytes that are no message": ("link.malformed", says(b"\xff\xff\xff")),
    "a message without content": ("link.malformed", says(b"")),
    "an ack before Start": ("link.protocol", says(lambda _: Ack(1))),
    "two Starts": ("link.protocol", says(start, start)),
    "a message larger than any may be": ("link.message_too_large", says(b"\0" * 5_000_000)),
    "a Start of no known kind": ("link.malformed", says(raw_start(resume="worse"))),
    "a Start by which nothing may be sent": ("link.malformed", says(lambda h: start(h, limits=replace(LIMITS, batch_bytes=0)))),
    "a Start before the beginning": ("link.malformed", says(lambda h: start(h, stored=at(h, -1)))),
    "a Start of another journal": ("push.history_mismatch", says(lambda h: start(h, stored=Offset("other", "", 0)))),
    "a Start behind the head": ("push.history_mismatch", says(lambda h: start(h, stored=at(h, h.history.head_position + 1)))),
    "a Start far behind the head": ("push.history_mismatch", says(lambda h: start(h, stored=at(h, 2**62)))),
    "a Start at an event that is another": (
        "push.history_mismatch",
        says(lambda h: start(h, stored=at(h, 9, timestamp_us=1, persistence_id="Sensor|x", seq_nr=1))),
    ),
    "a Start with lanes that cross": (
        "link.malformed",
        says(lambda h: start(h, place=PushFilterState(change_position=5, backfill_position=9))),
    ),
    "a Start with criteria that are none": ("filter.invalid", says(unsettled)),
    "an order for criteria that are none": ("filter.invalid", orders("{]")),
    "an order for an expression without end": (
        "filter.bad_regex", orders('[{"include_regex":["(a{1,1000}){1,1000}"]}]')
    ),
    "an ack of what was not sent": ("link.protocol", answers(lambda b: Ack(b.through_position + 10_000))),
    "an ack that goes back": ("link.protocol", answers(lambda b: Ack(b.through_position), lambda _: Ack(1))),
    "an ack below everything": ("link.protocol", answers(lambda _: Ack(-5))),
    "an ack of a lane that is not open": ("link.protocol", answers(lambda _: Ack(3, lane=PushLane.BACKFILL))),
    "an ack with ragged columns": ("events.ragged", answers(ragged_ack)),
    "an ack that names more than it acknowledges": ("link.protocol", answers(lambda b: Ack(b.through_position, parked(b)))),
    "silence": ("link.timeout", says()),
    "silence after Start": ("link.stalled", says(start)),
}  # fmt: skip


@asynccontextmanager
async def hostile(world: PushWorld, play: Script) -> AsyncIterator[list[int]]:
    """A cloud that plays this on every stream; the list has a number for each dial."""
    dials: list[int] = []

    async def serve(stream: MessageStream) -> None:
        dials.append(len(dials))
        hello = decode_from_edge(await stream.receive())
        assert isinstance(hello, Hello)
        await play(stream, hello)

    async with world.network.serve(
        {PUSH_PATH: StreamMethod(serve)}, host="cloud", port=7443, message_max_bytes=8_000_000, connections_max=9
    ):
        yield dials


async def tell_an_honest_cloud(world: PushWorld, edge: Journal, link: LinkState) -> None:
    """The address is an honest cloud's again: everything is there, as the edge has it."""
    async with world.cloud() as (cloud, _):
        await wait_for_head(cloud, edge.log.history.head_position, at_most_s=4_000.0)
        assert same_story(await whole_log(edge), await whole_log(cloud))
        assert link.parked <= len(NAMES)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_the_edge_keeps_everything_and_names_what_is_wrong(attack: str, autojump_clock: MockClock) -> None:
    code, play = ATTACKS[attack]
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, NAMES[:200])
        async with hostile(world, play) as dials:
            await trio.sleep(LONG_S)
            assert link.last_code == code
            assert 1 < len(dials) <= LONG_S / BACKOFF_S + 1  # dialled again, and not in a storm
        await append(edge, NAMES[200:250])
        assert (await edge.log.stats()).head_position == 250
        await tell_an_honest_cloud(world, edge, link)


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 1e300, 1e9])
async def test_no_hint_keeps_the_edge_away_for_longer_than_the_longest_wait(
    seconds: float, autojump_clock: MockClock
) -> None:
    world = PushWorld()
    async with world.edge() as (edge, link):
        await append(edge, NAMES[:20])
        async with hostile(world, says(start, lambda _: Drain(seconds, "go away"))) as dials:
            await trio.sleep(3 * LONG_S)
            assert len(dials) > 1
        await tell_an_honest_cloud(world, edge, link)


async def test_endless_messages_cost_the_edge_no_memory(autojump_clock: MockClock) -> None:
    """Signs of life and orders for filters without end, and never an ack: one window is in flight, one filter waits."""
    world = PushWorld()

    async def talk(stream: MessageStream, hello: Hello) -> None:
        await stream.send(encode_from_cloud(start(hello)))
        number = 0
        while True:
            number += 1
            await stream.send(encode_from_cloud(Heartbeat(number, now_us())))
            await stream.send(encode_from_cloud(PushFilterUpdate(number, '[{"exclude_all":true}]')))
            await trio.sleep(0.5)

    async with world.edge() as (edge, link):
        await append(edge, NAMES, payload_bytes=10_000)
        async with hostile(world, talk):
            for _ in range(200):
                await trio.sleep(2)
                assert link.in_flight_bytes <= LIMITS.window_bytes
                assert link.sent_position - link.acked_position <= LIMITS.window_events
            await append(edge, NAMES[:10])
            assert link.acked_position == 0
        await tell_an_honest_cloud(world, edge, link)


HIDING = PushFilter(1, EVERYTHING, EVERYTHING)
LEAKS: dict[str, Callable[[Hello], Start]] = {
    "asks for everything": lambda h: start(h, requested=HIDING),
    "says that everything is in force": lambda h: start(h, place=PushFilterState(HIDING, HIDING)),
    "says that a change to everything is under way": lambda h: start(
        h, place=PushFilterState(PushFilter(1, '[{"exclude_all":true}]'), HIDING, 100, 0), stored=at(h, 100)
    ),
    "asks for the forbidden by its name": lambda h: start(
        h, requested=PushFilter(3, parse_filter('[{"exclude_all":true},{"include_tags":["secret"]}]').criteria)
    ),
    "asks for entities by their ids": lambda h: start(
        h, requested=PushFilter(3, '[{"exclude_all":true},{"include_ids":["Sensor|edge-1/t1","Sensor|edge-1/t2"]}]')
    ),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
async def test_no_filter_of_the_cloud_opens_what_the_edge_keeps_to_itself(leak: str, autojump_clock: MockClock) -> None:
    world, got = PushWorld(), list[EventBatch]()

    async def collect(stream: MessageStream, hello: Hello) -> None:
        await stream.send(encode_from_cloud(LEAKS[leak](hello)))
        update = encode_from_cloud(PushFilterUpdate(9, EVERYTHING, Past.FULL))
        while True:
            match decode_from_edge(await stream.receive()):
                case PushBatch() as batch:
                    got.append(batch.events)
                    await stream.send(encode_from_cloud(Ack(batch.through_position, lane=batch.lane)))
                    await stream.send(update)
                case Heartbeat() | Hello():
                    pass
                case PastQuestion(names):  # nothing, it says: so it is brought all that it may have
                    await stream.send(encode_from_cloud(PastKnown((0,) * len(names))))
                case applied:
                    backfilled = 0 if applied.needs_backfill else applied.position
                    await stream.send(encode_from_cloud(Ack(backfilled, lane=PushLane.BACKFILL)))

    async with world.edge(own_filter=NO_SECRETS) as (edge, _):
        for _ in range(10):
            await append(edge, NAMES[:10], tags="open")
            await append(edge, NAMES[:10], tags="secret")
        async with hostile(world, collect):
            await trio.sleep(LONG_S)
    seen = concat(got)
    secrets = {f"{number};".encode() for number in range(200) if number % 20 >= 10}
    assert not [payload for payload in seen.payload if payload.partition(b"x")[0] in secrets]
    assert "secret" not in {tag for tags in seen.tags for tag in tags.split("\x1f")}
    if leak != "asks for the forbidden by its name":
        assert seen.payload, "it was shown nothing at all"
