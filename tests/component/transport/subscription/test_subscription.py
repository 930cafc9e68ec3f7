"""Subscriptions between a real endpoint with its firehose and a real consumer, over memory pipes and a mock clock."""

from __future__ import annotations

from zlib import crc32

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch, join_metadata
from common.core.events.deleted import stated_by
from common.core.events.replacing import replacing
from common.core.events.stated_range import StatedRange
from common.core.filters.permission import match_batch, within
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import Begin
from common.journal.memory.state import MemoryDatabase
from common.journal.memory.subscriptions import MemorySubscriptions
from common.journal.stores.log import TrimLimit
from common.runtime.http.where import find_event
from common.transport.link.departure import leave_links
from common.transport.memory.line import Direction
from common.transport.subscription.catalogue import StreamCatalogue
from common.transport.subscription.sinks import JournalSink
from tests.support.push import same_story
from tests.support.subscription.subscriptions import (
    SubscriptionWorld,
    criteria,
    live_connection,
    log_of,
    parted,
    publish,
    rows_of,
    wait_for_head,
    wait_for_position,
    wait_until,
    whole_inbox,
    whole_log,
)

NAMES = [f"Order|{i % 7}" for i in range(200)]
OTHERS = [f"Invoice|{i % 3}" for i in range(50)]


async def test_a_backlog_and_the_tail_arrive_once_and_in_order(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer() as (consumer, state):
        await publish(source, NAMES)
        await publish(source, OTHERS)
        await wait_for_position(state, 250)
        await publish(source, NAMES[:3])
        await wait_for_position(state, 253)
        rows = await whole_inbox(consumer)
        log = await whole_log(source)
        orders = [index for index, name in enumerate(log.persistence_id) if name.startswith("Order|")]
        assert [row.event.payload for row in rows] == [log.payload[index] for index in orders]
        assert (await consumer.subscriptions.get("orders")).place.live.position == 253  # type: ignore[union-attr]


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cuts_at_every_message_lose_and_repeat_nothing(direction: Direction, autojump_clock: MockClock) -> None:
    """The line is cut after the first message, then after the second …, each time with more to send."""
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer() as (consumer, state):
        for messages in range(1, 10):
            line = await live_connection(world.network)
            line.cut_after(direction, messages=messages)
            for _ in range(20):
                await publish(source, NAMES[:10])
                await trio.sleep(0.05)
        await wait_for_position(state, 200 * 9)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))
        assert state.connects > 3


async def test_both_ends_restart_and_go_on_where_they_were(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    for _ in range(4):
        async with world.source() as (source, _endpoint):
            for _ in range(3):
                async with world.consumer() as (consumer, _state):
                    await publish(source, NAMES)
                    await trio.sleep(0.0107)
    async with world.source() as (source, _endpoint), world.consumer() as (consumer, state):
        await wait_for_position(state, 200 * 12)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


async def test_a_filter_is_changed_at_runtime_and_backfilled_at_once(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    red, both = criteria("red"), criteria("red", "blue")
    async with world.source() as (source, _), world.consumer(criteria=red) as (consumer, state):
        for tag in ("red", "blue", "green"):
            await publish(source, [f"Order|{tag}{i}" for i in range(30)] * 3, tags=[tag])
        await wait_for_position(state, 270)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source), red)
        await consumer.subscriptions.set_requested("orders", both)
        state.filter_changed()
        await wait_until(lambda: state.applied_version == state.requested_version == 2, 5.0)  # on an idle stream
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source), both)
        await consumer.subscriptions.set_requested("orders", criteria("blue"))
        state.filter_changed()
        await wait_until(lambda: state.applied_version == 3)
        for tag in ("red", "blue"):
            await publish(source, [f"Order|{tag}{i}" for i in range(30)], tags=[tag])
        await trio.sleep(1)
        before = rows_of(await whole_inbox(consumer))
        assert before["Order|red1"] == [1, 2, 3]
        assert before["Order|blue1"] == [1, 2, 3, 4]
        await consumer.subscriptions.set_requested("orders", both)
        state.filter_changed()
        await wait_until(lambda: state.applied_version == 4)
        await trio.sleep(1)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source), both)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_backfill_goes_on_after_cuts_at_every_message(direction: Direction, autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer(criteria=criteria("red")) as (consumer, state):
        for round_ in range(12):
            await publish(source, [f"Order|{i}" for i in range(30)], tags=["red" if round_ % 3 else "blue"])
        await wait_for_position(state, 360)
        await consumer.subscriptions.set_requested("orders", criteria("blue", "green"))
        state.filter_changed()
        for messages in range(1, 8):
            line = await live_connection(world.network)
            line.cut_after(direction, messages=messages)
            await publish(source, [f"Order|{i}" for i in range(30)], tags=["green", "blue"][: messages % 2 + 1])
            await trio.sleep(0.7)
        await wait_until(lambda: state.applied_version == 2 and state.awaiting == 0)
        await wait_for_position(state, source.log.history.head_position)
        await trio.sleep(30)
        found = rows_of(await whole_inbox(consumer))
        for numbers in found.values():
            assert numbers == sorted(set(numbers))
            assert numbers[-1] == 19


async def test_entities_that_cross_the_lanes_of_a_change_are_replayed(autojump_clock: MockClock) -> None:
    """While a backfill is under way, entities come from what only the new filter selects into what both do."""
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer(criteria=criteria("red")) as (consumer, state):
        for _ in range(60):
            await publish(source, [f"Order|{i}" for i in range(50)], tags=["blue"])
        await wait_for_position(state, 3000)
        (await live_connection(world.network)).bytes_per_s = 20_000
        await consumer.subscriptions.set_requested("orders", criteria("red", "blue"))
        state.filter_changed()
        await wait_until(lambda: state.backfill_position >= 0)
        for _ in range(3):
            await publish(source, [f"Order|{i}" for i in range(10)], tags=["red"])
            await publish(source, [f"Order|{i}" for i in range(10)], tags=["blue"])
        await wait_until(lambda: state.applied_version == 2 and state.awaiting == 0)
        await wait_for_position(state, 3060)
        assert endpoint.streams[0].replays > 0
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source), criteria("red", "blue"))


async def test_an_inbox_tells_what_leaves_the_filter(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer(criteria=criteria("red")) as (consumer, state):
        await publish(source, ["Order|a", "Order|b"], tags=["red"])
        await publish(source, ["Order|a"], tags=["blue"])
        await publish(source, ["Order|a"], tags=["blue"])
        await publish(source, ["Order|a"], tags=["red"])
        await wait_for_position(state, 5)
        await wait_until(lambda: not state.awaiting)
        answer = [(row.event.persistence_id, row.event.seq_nr, row.leaving) for row in await whole_inbox(consumer)]
        assert answer == [
            ("Order|a", 1, False),
            ("Order|b", 1, False),
            ("Order|a", 2, True),
            ("Order|a", 3, False),
            ("Order|a", 4, False),
        ]


@pytest.mark.parametrize("trimmed", [0, 140])
async def test_a_new_consumer_starts_from_snapshots_also_where_events_are_gone(
    trimmed: int, autojump_clock: MockClock
) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        await publish(source, NAMES)
        log = await whole_log(source)
        await source.snapshots.put([snapshot_of(log.persistence_id[i], log.seq_nr[i]) for i in range(150, 157)])
        await source.log.trim(TrimLimit(trimmed, 140))
        async with world.consumer(start=Begin.SNAPSHOTS) as (consumer, state):
            await wait_for_position(state, 200)
            rows = await whole_inbox(consumer)
            assert [row.replaces for row in rows[:7]] == [True] * 7
            assert not any(row.replaces for row in rows[7:])
            first = {row.event.persistence_id: row.event.seq_nr for row in rows[:7]}
            for name, numbers in rows_of(rows).items():
                assert numbers == list(range(first[name], numbers[-1] + 1))
                assert numbers[-1] == log_of(log)[name][-1]
            assert state.repeated < 20, "the log is read from where the snapshots end"


async def test_a_trimmed_consumer_goes_on_with_snapshots_or_stops_as_it_was_told(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        async with world.consumer() as (consumer, state):
            await publish(source, NAMES[:70])
            await wait_for_position(state, 70)
        await publish(source, NAMES)
        log = await whole_log(source)
        await source.snapshots.put([snapshot_of(log.persistence_id[i], log.seq_nr[i]) for i in range(150, 154)])
        await source.log.trim(TrimLimit(140, 140))
        async with world.consumer(on_trimmed=Begin.STOP) as (_, state):
            await trio.sleep(5)
            assert state.last_code == "subscription.trimmed"
        async with world.consumer() as (consumer, state):
            await wait_for_position(state, 270)
            rows = await whole_inbox(consumer)
            assert sum(row.replaces for row in rows) == 4
            for name, numbers in rows_of(rows).items():
                assert numbers == sorted(set(numbers))
                assert numbers[-1] == log_of(log)[name][-1]


async def test_what_the_source_deleted_before_it_came_is_counted_and_said(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        await publish(source, ["Order|a", "Order|gone", "Order|gone", "Order|a", "Order|b"])
        await source.log.trim(TrimLimit(3, 10))
        with structlog.testing.capture_logs() as logs:
            async with world.consumer() as (consumer, state):
                await wait_for_position(state, 5)
                await trio.sleep(5)
                rows = await whole_inbox(consumer)
                assert rows_of(rows) == {"Order|a": [2], "Order|b": [1]}
                assert state.deleted == 3
                marks = [stated_by(row.event) for row in rows if row.is_deleted]
                gone = [StatedRange("Order|a", 1, 1, "trimmed"), StatedRange("Order|gone", 1, 2, "trimmed")]
                assert sorted(marks, key=repr) == gone
                reported = [row.event.seq_nr for row in rows if row.event.persistence_id == "Order|a"]
                assert reported == [1, 2]  # the mark comes first
                found = [await find_event(consumer, "Order|gone", number) for number in (1, 2, 3)]
                assert [one["state"] for one in found] == ["deleted", "deleted", "unknown"]
                assert (await find_event(consumer, "Order|a", 1))["subscription"] == "orders"
        lines = [line for line in logs if line["event"] == "subscription.deleted"]
        assert sum(line["events"] for line in lines) == 3
        assert {line["reason"] for line in lines} == {"trimmed"}


async def test_a_source_that_lost_history_stops_its_consumer_or_is_followed_anew(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _):
        await publish(source, NAMES[:50])
    backup = world.source_disk.copy()
    async with world.source() as (source, _), world.consumer() as (_, state):
        await publish(source, NAMES[:50])
        await wait_for_position(state, 100)
    world.source_disk = backup
    async with world.source() as (source, _):
        await publish(source, ["Order|new"] * 120)
        async with world.consumer() as (_, state):
            await trio.sleep(5)
            assert state.last_code == "subscription.diverged"
        async with world.consumer(on_diverged="restart") as (consumer, state):
            with structlog.testing.capture_logs() as lines:
                await wait_for_position(state, 170)
            [restarted] = [line for line in lines if line["event"] == "subscription.restarted"]
            assert restarted["inbox_rows"] == 100
            old, new = parted(await whole_inbox(consumer), log_of(await whole_log(source)))
            assert [row.id for row in old] == list(range(1, 101)), "nobody has acknowledged them"
            assert rows_of(new) == log_of(await whole_log(source))


async def test_beginning_anew_keeps_the_filter_an_operator_asked_for_whatever_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer(criteria=criteria("red")) as (consumer, state):
        await publish(source, NAMES[:50], tags=["blue"])
        await wait_for_position(state, 50)
        await consumer.subscriptions.set_requested("orders", criteria("blue"))
        state.filter_changed()
        await wait_until(lambda: state.applied_version == 2)
    world.source_disk = MemoryDatabase()

    async def unavailable(*_: object, **__: object) -> None:
        raise BackhaulError("journal.unavailable", "as if it had been killed here", kind=ErrorKind.UNAVAILABLE)

    async with world.source() as (source, _):
        await publish(source, NAMES, tags=["blue"])
        with monkeypatch.context() as broken:
            broken.setattr(MemorySubscriptions, "set_requested", unavailable)
            async with world.consumer(criteria=criteria("red"), on_diverged="restart"):
                await trio.sleep(1)
        async with world.consumer(criteria=criteria("red"), on_diverged="restart") as (consumer, state):
            await wait_for_position(state, 200)
            _, new = parted(await whole_inbox(consumer), log_of(await whole_log(source)))
            assert rows_of(new) == log_of(await whole_log(source))


async def test_another_journal_at_the_same_address_is_told_apart(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer() as (_, state):
        await publish(source, NAMES)
        await wait_for_position(state, 200)
    world.source_disk = MemoryDatabase()
    async with world.source(), world.consumer() as (_, state):
        await trio.sleep(5)
        assert state.last_code == "subscription.other_journal"


async def test_a_held_line_is_left_within_the_timeout_and_resumed(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer() as (consumer, state):
        await publish(source, NAMES)
        await wait_for_position(state, 200)
        await trio.sleep(100)
        assert state.connects == 1, "heartbeats keep an idle link"
        world.network.connections[-1].hold()
        await publish(source, NAMES)
        await trio.sleep(60)
        assert state.connects == 2
        await wait_for_position(state, 400)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))
        assert len(endpoint.streams) == 1


async def test_a_slow_line_moves_large_events(autojump_clock: MockClock) -> None:
    """8 kbit/s and events of 100 kB: each takes 100 s, three times the progress timeout."""
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer() as (_, state):
        (await live_connection(world.network)).bytes_per_s = 1000
        await publish(source, NAMES[:5], payload_bytes=100_000)
        await wait_for_position(state, 5, at_most_s=1000)
        await trio.sleep(30)
        assert state.connects == 1


async def test_a_consumer_that_stops_stores_its_place_and_ends_the_stream(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    with structlog.testing.capture_logs() as lines:
        async with world.source() as (source, endpoint), world.consumer() as (_, state):
            await publish(source, NAMES)
            await wait_for_position(state, 50)
            with trio.fail_after(2):
                await leave_links([state], at_most_s=100)
            await trio.sleep(60)
            assert (state.connects, state.state, endpoint.streams) == (1, "offline", [])
    assert [line["code"] for line in lines if line["event"] == "consumer.disconnected"] == ["link.ended"]
    async with world.source() as (source, _), world.consumer() as (consumer, state):
        await wait_for_position(state, 200)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


async def test_a_draining_source_is_left_without_loss(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.consumer() as (consumer, state):
        async with world.source() as (source, endpoint):
            await publish(source, NAMES)
            await trio.sleep(0.3)
            with trio.fail_after(5):
                await endpoint.drain(1.0)
            assert endpoint.streams == []
        async with world.source() as (source, _):
            await wait_for_position(state, 200)
            assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


async def test_a_full_inbox_holds_its_subscription_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, _), world.consumer(inbox_max_bytes=10_000) as (consumer, state):
        seen: list[bytes] = []
        await publish(source, NAMES, payload_bytes=200)
        await trio.sleep(100)
        assert state.position < 200
        for _ in range(100):
            rows = await whole_inbox(consumer)
            seen += [row.event.payload for row in rows]
            if rows:
                await consumer.subscriptions.ack_inbox("orders", rows[-1].id)
            elif len(seen) >= len(NAMES):
                break  # a round in which nothing came any more
            await trio.sleep(40)
        assert seen == (await whole_log(source)).payload


async def test_a_subscription_may_write_into_the_consumers_own_journal(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    sink = JournalSink("orders", event_max_bytes=1_000_000, parked_max=100)
    async with world.source() as (source, _):
        await publish(source, NAMES)
        for _ in range(3):
            async with world.consumer(sink=sink) as (consumer, state):
                await publish(source, NAMES)
                await trio.sleep(0.05)
        async with world.consumer(sink=sink) as (consumer, state):
            await wait_for_position(state, 800)
            await wait_for_head(consumer, 800)
            assert same_story(await whole_log(source), await whole_log(consumer))
            assert (await consumer.log.stats()).parked == 0


async def test_a_snapshot_in_the_consumers_own_journal_passes_no_wall_there(autojump_clock: MockClock) -> None:
    """It may fold events of other tags than its own, and only the source knows."""
    world = SubscriptionWorld()
    sink = JournalSink("orders", event_max_bytes=1_000_000, parked_max=100)
    async with world.source() as (source, _):
        await publish(source, ["Order|1"], tags=["secret"])
        await publish(source, ["Order|1"], tags=["red"])
        await source.snapshots.put([NewSnapshot("Order|1", 2, "State", "json", b"folds a secret")])
        await source.log.trim(TrimLimit(2, 10))
        await publish(source, ["Order|1"], tags=["red"])
        async with world.consumer(sink=sink) as (consumer, state):
            await wait_for_position(state, 3)
            log = await whole_log(consumer)
    assert log.payload[0] == b"folds a secret"
    assert replacing(log) == [0], "handlers there are to set what it says, not to add it"
    wall = within(parse_filter('[{"exclude_tags":["secret"]}]'), EVERY_ENTITY)
    assert [log.seq_nr[index] for index in match_batch(wall, log).indexes] == [2]


async def test_one_node_of_a_service_follows_and_another_takes_over(autojump_clock: MockClock) -> None:
    world = SubscriptionWorld()
    async with world.source() as (source, endpoint), world.consumer() as (consumer, first):
        await publish(source, NAMES)
        await wait_for_position(first, 200)
        async with world.consumer(seed=2) as (_, second):
            await trio.sleep(60)
            assert (first.state, second.state) == ("connected", "standby")
            assert len(endpoint.streams) == 1
    async with world.source() as (source, _), world.consumer(seed=2) as (consumer, second):
        await publish(source, NAMES)
        await wait_for_position(second, 400)
        assert rows_of(await whole_inbox(consumer)) == log_of(await whole_log(source))


def snapshot_of(name: str, seq_nr: int) -> NewSnapshot:
    return NewSnapshot(name, seq_nr, "State", "json", b"{}")


async def test_what_is_withheld_on_serve_is_led_over_and_the_place_goes_on(autojump_clock: MockClock) -> None:
    """Through the tail, a catch-up, a change of filters and a cut: nothing is waited for or seen twice."""

    def served(events: EventBatch) -> EventBatch:
        kept = [index for index, payload in enumerate(events.payload) if crc32(payload) % 3]
        found = events.select(kept)
        found.metadata = [join_metadata({"served": "yes"})] * len(kept)
        return found

    world = SubscriptionWorld(catalogue=StreamCatalogue().transformed_by(served))
    async with world.source() as (source, endpoint), world.consumer(criteria=criteria("red")) as (consumer, state):
        for _ in range(4):
            await publish(source, [f"Order|{i % 9}" for i in range(100)], tags=["red"])
            await publish(source, [f"Order|b{i % 9}" for i in range(100)], tags=["blue"])
        await wait_for_position(state, source.log.history.head_position)
        await consumer.subscriptions.set_requested("orders", criteria("red", "blue"))
        state.filter_changed()
        (await live_connection(world.network)).cut_after("down", messages=3)
        await publish(source, [f"Order|b{i % 9}" for i in range(100)], tags=["blue"])
        await wait_until(lambda: state.applied_version == 2)
        await wait_for_position(state, source.log.history.head_position)
        log = await whole_log(source)
        rows = await whole_inbox(consumer)
        wanted = log_of(log.select([index for index, payload in enumerate(log.payload) if crc32(payload) % 3]))
        assert rows_of(rows) == wanted
        assert {dict(row.event.metadata)["served"] for row in rows} == {"yes"}
        assert sum(one.replays for one in endpoint.streams) == 0
