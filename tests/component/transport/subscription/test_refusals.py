"""What a source refuses, each with its own code, and that nobody else feels it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.policy.parsing import parse_policy
from common.core.policy.walls import Wall
from common.core.subscription.messages import (
    ENTITY_EVENTS_PATH,
    EVENT_PATH,
    LATEST_OFFSET_PATH,
    SUBSCRIBE_PATH,
    Begin,
    ConsumerAck,
    Deliver,
    EntityQuery,
    FilterUpdate,
    FromConsumer,
    FromSource,
    Replay,
    StreamLimits,
    Subscribe,
)
from common.core.subscription.place import NO_FILTER, NO_RESUME_POINT, FilterState, LogCursor, ResumePoint
from common.transport.codec.subscription import decode_from_source, encode_from_consumer
from common.transport.stream import DialledStream, PeerInfo
from common.transport.subscription.catalogue import StreamCatalogue, StreamDefinition
from tests.support import questions
from tests.support.subscription.subscriptions import (
    LIMITS,
    SOURCE,
    SubscriptionWorld,
    criteria,
    log_of,
    publish,
    rows_of,
    wait_for_position,
    whole_inbox,
    whole_log,
)

SUBSCRIBE = Subscribe("Order", "edge-9", "mine", NO_RESUME_POINT, NO_FILTER, LIMITS, 0)
NAMES = [f"Order|{i % 7}" for i in range(200)]


async def say(stream: DialledStream, message: FromConsumer) -> None:
    await stream.send(encode_from_consumer(message))


async def hear(stream: DialledStream) -> FromSource:
    return decode_from_source(await stream.receive())


@asynccontextmanager
async def dialled(world: SubscriptionWorld, *first: FromConsumer) -> AsyncIterator[DialledStream]:
    """A stream to the source, spoken by hand. What the source should end, and does not, ends here, by the mock clock."""
    with trio.fail_after(10_000):
        async with world.dial() as channel, channel.open_stream(SUBSCRIBE_PATH) as stream:
            for message in first:
                await say(stream, message)
            yield stream


async def hear_out(stream: DialledStream) -> None:
    """Receive until the stream ends."""
    while True:
        await stream.receive()


async def refusal(world: SubscriptionWorld, *messages: FromConsumer) -> str:
    """The code with which a stream that says this ends."""
    async with dialled(world, *messages) as stream:
        with trio.fail_after(200), pytest.raises(BackhaulError) as refused:
            await hear_out(stream)
    return refused.value.code


def with_filter(text: str) -> Subscribe:
    return replace(SUBSCRIBE, requested=FilterState(1, text))


def elsewhere(journal_id: str, generation_id: str, position: int, digest: str = "") -> Subscribe:
    return replace(SUBSCRIBE, place=ResumePoint(journal_id, generation_id, LogCursor(position, digest), NO_FILTER))


async def test_each_bad_beginning_has_its_own_code_and_others_do_not_feel_it(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer() as (consumer, state):
        await publish(source, NAMES)
        history = source.log.history
        journal_id, generation_id = history.journal_id, history.generation_id
        cases: list[tuple[FromConsumer, str]] = [
            (FilterUpdate(1, "[]"), "link.protocol"),
            (replace(SUBSCRIBE, protocol_version=2), "subscription.version"),
            (replace(SUBSCRIBE, consumer_id=""), "subscription.invalid_consumer"),
            (replace(SUBSCRIBE, consumer_id="x\0"), "subscription.invalid_consumer"),
            (replace(SUBSCRIBE, subscription="x\0"), "link.protocol"),
            (replace(SUBSCRIBE, stream_id="a|b"), "subscription.no_such_stream"),
            (elsewhere("other", "g", 5), "subscription.other_journal"),
            (elsewhere(journal_id, generation_id, 201), "subscription.beyond_head"),
            (elsewhere(journal_id, "gone", 100), "subscription.diverged"),
            (elsewhere(journal_id, generation_id, 100, "k0123456789abcdef"), "subscription.diverged"),
            (with_filter("{"), "filter.invalid"),
            (with_filter('[{"include_regex":["("]}]'), "filter.bad_regex"),
            (with_filter('[{"include_topics":["#/a"]}]'), "filter.bad_topic"),
            (with_filter('[{"include_topics":["a+"]}]'), "filter.bad_topic"),
            (with_filter(json.dumps([{"include_ids": [str(i) for i in range(5_000)]}])), "filter.too_large"),
        ]
        for message, code in cases:
            assert await refusal(world, message) == code, message
        await publish(source, NAMES)
        await wait_for_position(state, 400)
        assert state.connects == 1
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))
        assert len(endpoint.streams) == 1


async def test_each_broken_rule_on_an_open_stream_has_its_own_code(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        await publish(source, NAMES)
        cases: list[tuple[list[FromConsumer], str]] = [
            ([ConsumerAck(100)], "link.protocol"),
            ([SUBSCRIBE], "link.protocol"),
            ([FilterUpdate(0, "[]")], "link.protocol"),
            ([FilterUpdate(1, "[{}]")], "filter.invalid"),
            ([FilterUpdate(1, '[{"include_regex":["(a*)*$("]}]')], "filter.bad_regex"),
            ([FilterUpdate(version, "[]") for version in range(1, 40)], "subscription.too_many_updates"),
            ([Replay("no entity", 1)], "link.protocol"),
            ([Replay(f"Order|{number}", 1) for number in range(500)], "subscription.too_many_replays"),
        ]
        for bad, code in cases:
            assert await refusal(world, SUBSCRIBE, *bad) == code, bad[0]


async def test_a_consumer_that_never_subscribes_is_left(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source():
        assert await refusal(world) == "link.timeout"


async def test_a_consumer_that_never_acks_hurts_only_itself(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer() as (_, state):
        await publish(source, NAMES)
        began_s = trio.current_time()
        assert await refusal(world, SUBSCRIBE) == "subscription.not_acked"
        assert trio.current_time() - began_s < 60
        await wait_for_position(state, 200)
        assert [stream.consumer_id for stream in endpoint.streams] == ["edge-1"]


async def test_a_consumer_that_never_reads_hurts_only_itself(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    limits = StreamLimits(10_000_000, 1_000_000, 100)
    async with world.source() as (source, endpoint), world.consumer() as (_, state):
        async with dialled(world, replace(SUBSCRIBE, limits=limits)):
            for _ in range(20):
                await publish(source, NAMES, payload_bytes=2_000)
            await wait_for_position(state, 4_000)
            await trio.sleep(100)
            assert [stream.consumer_id for stream in endpoint.streams] == ["edge-1"]


async def test_a_newer_stream_takes_the_place_of_the_older(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (_, endpoint):
        async with dialled(world, SUBSCRIBE) as older:
            await hear(older)
            async with dialled(world, SUBSCRIBE) as newer:
                await hear(newer)
                with pytest.raises(BackhaulError) as refused:
                    await older.receive()
                assert refused.value.code == "subscription.replaced"
                assert len(endpoint.streams) == 1


async def test_a_consumer_its_certificate_does_not_name_learns_nothing(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld(source_settings=replace(SOURCE, require_identity=True))
    async with world.source() as (source, _):
        await publish(source, NAMES)
        assert await refusal(world, SUBSCRIBE) == "auth.identity_mismatch"
        assert await refusal(world, replace(SUBSCRIBE, stream_id="a|b")) == "auth.identity_mismatch"
        query = EntityQuery("Order", "edge-9", "Order|1", 1, 1)
        async with world.dial(dialler=PeerInfo("x:1", ("edge-1",))) as channel:
            for path, request in all_questions(query):
                with pytest.raises(BackhaulError) as refused:
                    await channel.unary(path, request, 5.0)
                assert refused.value.code == "auth.identity_mismatch"


def all_questions(query: EntityQuery) -> list[tuple[str, bytes]]:
    return [
        (LATEST_OFFSET_PATH, questions.encode_latest_offset_request(query)),
        (ENTITY_EVENTS_PATH, questions.encode_entity_events_request(query)),
        (EVENT_PATH, questions.encode_event_request(query)),
    ]


async def test_what_the_streams_filter_withholds_is_never_seen(autojump_clock: MockClock) -> None:
    """Not by a filter that asks for it, not as a place, not by a question."""
    served = StreamDefinition("orders", frozenset({"Order"}))
    wall = '[{"exclude_all":true},{"include_topics":["site/{id}/#"]}]'
    policy = parse_policy(f"[[rule]]\nwho = '*'\nread = {{stream = 'orders', filter = '{wall}'}}", "policy")
    world = SubscriptionWorld(
        catalogue=StreamCatalogue([served]), source_settings=replace(SOURCE, policy=lambda: policy)
    )
    async with world.source() as (source, _), world.consumer(stream_id="orders") as (consumer, state):
        for site in ("edge-1", "edge-2", "edge-12"):
            await publish(source, [f"Order|{site}/{i}" for i in range(5)] * 2, tags=[f"t:site/{site}/door"])
        await publish(source, ["Invoice|edge-1/1"], tags=["t:site/edge-1/door"])
        await consumer.subscriptions.set_requested("orders", '[{"exclude_all":true},{"include_regex":[".*"]}]')
        state.filter_changed()
        await wait_for_position(state, 31)
        await trio.sleep(30)
        rows = await whole_inbox(consumer)
        assert {row.event.persistence_id for row in rows} == {f"Order|edge-1/{i}" for i in range(5)}
        assert len(rows) == 10
        async with world.dial() as channel:
            offset = questions.decode_latest_offset(
                await channel.unary(
                    LATEST_OFFSET_PATH,
                    questions.encode_latest_offset_request(EntityQuery("orders", "edge-1")),
                    5.0,
                )
            )
            assert offset.head_position == 31
            for name, seen in [("Order|edge-1/1", [1, 2]), ("Order|edge-2/1", []), ("Invoice|edge-1/1", [])]:
                query = EntityQuery("orders", "edge-1", name, 1)
                answer = await channel.unary(ENTITY_EVENTS_PATH, questions.encode_entity_events_request(query), 5.0)
                assert questions.decode_entity_events(answer).events.seq_nr == seen
                request = questions.encode_event_request(query)
                if seen:
                    answer = await channel.unary(EVENT_PATH, request, 5.0)
                    assert questions.decode_event_reply(answer).persistence_id == [name]
                    continue
                with pytest.raises(BackhaulError) as refused:
                    await channel.unary(EVENT_PATH, request, 5.0)
                assert refused.value.code == "subscription.no_such_event"
        assert await refusal(world, replace(SUBSCRIBE, stream_id="orders", consumer_id="#")) == (
            "subscription.invalid_consumer"
        )


async def test_an_entity_may_be_wanted_from_a_number_on(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    wanted = json.dumps([{"exclude_all": True}, {"include_ids": [{"id": "a", "from_seq_nr": 4}, "b"]}])
    async with world.source() as (source, _):
        await publish(source, ["Order|a", "Order|b", "Order|c"] * 6)
        async with world.consumer(criteria=wanted) as (consumer, state):
            await wait_for_position(state, 18)
            assert rows_of(await whole_inbox(consumer)) == {"Order|a": [4, 5, 6], "Order|b": [1, 2, 3, 4, 5, 6]}
            more = [*json.loads(wanted), {"include_ids": [{"id": "c", "from_seq_nr": 5}]}]
            await consumer.subscriptions.set_requested("orders", json.dumps(more))
            state.filter_changed()
            await trio.sleep(5)
            assert rows_of(await whole_inbox(consumer))["Order|c"] == [5, 6]


async def test_progress_never_names_what_is_withheld(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        await publish(source, NAMES)
        async with dialled(world, replace(SUBSCRIBE, requested=FilterState(1, criteria("none")))) as stream:
            said = b""
            with trio.move_on_after(30):
                while True:
                    data = await stream.receive()
                    assert not isinstance(decode_from_source(data), Deliver)
                    said += data
            assert b"Order" not in said


def test_a_consumer_id_in_an_expression_is_no_expression() -> None:
    allowed = Wall('[{"exclude_all":true},{"include_regex":["{id}/.*"]}]').filter_for("edge.1")
    assert allowed.matches("T|edge.1/a", "")
    assert not allowed.matches("T|edgex1/a", "")


async def test_what_the_policy_does_not_open_is_no_stream(autojump_clock: MockClock) -> None:
    """Not for a subscription, and not for a question: neither says that it is there."""
    policy = parse_policy("[[rule]]\nwho = 'edge-2'\nread = '*'", "policy")
    world = SubscriptionWorld(source_settings=replace(SOURCE, policy=lambda: policy))
    async with world.source() as (source, _), world.consumer(stream_id="Order") as (_, state):
        await publish(source, ["Order|1"])
        await trio.sleep(5)
        assert (state.position, state.last_code) == (0, "subscription.no_such_stream")
        async with world.dial() as channel:
            for path, request in all_questions(EntityQuery("Order", "edge-1", "Order|1", 1, 1)):
                with pytest.raises(BackhaulError) as refused:
                    await channel.unary(path, request, 5.0)
                assert refused.value.code == "subscription.no_such_stream"


async def test_a_consumer_is_sent_away_when_the_policy_takes_its_stream(autojump_clock: MockClock) -> None:
    now = [parse_policy("[[rule]]\nwho = '*'\nread = '*'", "policy")]
    world = SubscriptionWorld(source_settings=replace(SOURCE, policy=lambda: now[0]))
    async with world.source() as (source, _), world.consumer(stream_id="Order") as (_, state):
        await publish(source, ["Order|1"])
        await wait_for_position(state, 1)
        now[0] = parse_policy("[[rule]]\nwho = 'edge-2'\nread = '*'", "policy")
        await trio.sleep(60)
        await publish(source, ["Order|1"])
        await trio.sleep(60)
        assert (state.position, state.last_code) == (1, "subscription.no_such_stream")


@pytest.mark.parametrize("start", [Begin.LOG, Begin.SNAPSHOTS])
async def test_an_empty_log_can_be_followed(start: Begin, autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer(start=start) as (consumer, state):
        await trio.sleep(5)
        await publish(source, NAMES[:3])
        await wait_for_position(state, 3)
        assert len(await whole_inbox(consumer)) == 3


async def test_what_is_withheld_on_serve_is_not_answered_either(autojump_clock: MockClock) -> None:
    """Asked once, a consumer learns no more than its stream would tell it: the number is stated, the event unknown."""

    def without_the_second(events: EventBatch) -> EventBatch:
        return events.select([index for index, seq_nr in enumerate(events.seq_nr) if seq_nr != 2])

    world = SubscriptionWorld(catalogue=StreamCatalogue().transformed_by(without_the_second))
    async with world.source() as (source, _), world.dial() as channel:
        await publish(source, ["Order|1"] * 3)
        asked = questions.encode_entity_events_request(EntityQuery("Order", "edge-1", "Order|1", 1))
        found = questions.decode_entity_events(await channel.unary(ENTITY_EVENTS_PATH, asked, 5.0))
        assert found.events.seq_nr == [1, 3]
        assert found.ranges == (StatedRange("Order|1", 2, 2, "withheld"),)
        one = questions.encode_event_request(EntityQuery("Order", "edge-1", "Order|1", 2))
        with pytest.raises(BackhaulError) as refused:
            await channel.unary(EVENT_PATH, one, 5.0)
        assert refused.value.code == "subscription.no_such_event"
