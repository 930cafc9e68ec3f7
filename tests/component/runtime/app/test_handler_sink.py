"""One handler over the local journal and over a stream, as a service serves it: equal tables in the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from trio.testing import MockClock

from common.core.errors import ConfigurationError
from common.core.events.stated_range import StatedRange
from common.core.journal.snapshot import NewSnapshot
from common.core.subscription.messages import Begin
from common.core.subscription.place import NO_RESUME_POINT
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.projection.handler_executor import call_inline
from common.projection.handler_invoker import HandlerInvoker
from common.projection.handlers import Event, Handler
from common.runtime.app.handler_sink import HandlerSink
from common.transport.subscription.catalogue import StreamCatalogue, StreamDefinition
from common.transport.subscription.sinks import Taken
from common.watchdog import Watchdog
from tests.support.builders import events
from tests.support.ledgers import Ledger, decode, fold
from tests.support.projections import Commits, log_of, running
from tests.support.subscription.subscriptions import SubscriptionWorld, criteria, publish, wait_for_position, wait_until

NAMES = [f"Order|{number % 7}" for number in range(200)]


class LateJournal:
    """Stands for the consumer's journal, which is open only once the sink has been made."""

    journal: Journal

    def __getattr__(self, name: str) -> object:
        return getattr(self.journal, name)


@pytest.mark.parametrize("form", ["statements", "each", "effect"])
async def test_a_handler_makes_the_same_table_wherever_its_events_come_from(
    autojump_clock: MockClock, form: str
) -> None:
    world = SubscriptionWorld()
    local, remote = Ledger(form), Ledger(form)
    async with world.source() as (source, _):
        await publish(source, NAMES)
        commits = Commits()
        async with running(source, local.handler, commits=commits, decode=decode):
            await commits.reach(200)
            late = LateJournal()
            there: Mapping[str, tuple[int, int]] = {}
            work = HandlerInvoker(remote.handler, decode, call_inline, Watchdog())
            sink = HandlerSink(work, late)  # type: ignore[arg-type]
            for lap in range(3):  # the consumer is restarted, and goes on where it was
                async with world.consumer(sink=sink) as (consumer, state):
                    late.journal = consumer
                    await publish(source, NAMES[:50])
                    await wait_for_position(state, 250 + 50 * lap)
                    there = await remote.accounts(consumer)
            await commits.reach(350)
        assert await local.accounts(source) == fold(await log_of(source))
        assert there == fold(await log_of(source))


@pytest.mark.parametrize("form", ["each", "effect"])
async def test_a_handler_is_told_what_leaves_the_filter_and_what_is_a_snapshot(
    autojump_clock: MockClock, form: str
) -> None:
    seen: list[tuple[str, int, bool, bool]] = []

    def note(event: Event) -> None:
        seen.append((event.entity_id, event.envelope.seq_nr, event.leaving, event.replaces))

    async def note_elsewhere(event: Event) -> None:
        note(event)

    orders = frozenset({"Order"})
    handler = Handler("notes", each=note, entity_types=orders, snapshots=True)
    if form == "effect":
        handler = Handler("notes", effect=note_elsewhere, entity_types=orders, snapshots=True)
    world, late = (
        SubscriptionWorld(catalogue=StreamCatalogue([StreamDefinition("all", frozenset())])),
        LateJournal(),
    )
    sink = HandlerSink(HandlerInvoker(handler, decode, call_inline, Watchdog()), late)  # type: ignore[arg-type]
    async with world.source() as (source, _):
        await publish(source, ["Alien|x", "Order|a", "Order|a"], tags=["red"])
        await source.snapshots.put([NewSnapshot(name, 1, "State", "json", b"{}") for name in ("Alien|x", "Order|a")])
        async with world.consumer(sink=sink, stream_id="all", criteria=criteria("red"), start=Begin.SNAPSHOTS) as (
            consumer,
            state,
        ):
            late.journal = consumer
            await wait_for_position(state, 3)
            await publish(source, ["Alien|x", "Order|b"], tags=["red"])
            await publish(source, ["Alien|x", "Order|a"], tags=["blue"])
            await publish(source, ["Order|b"], tags=["red"])
            await wait_for_position(state, 8)
    answer = [("a", 1, False, True), ("a", 2, False, False), ("b", 1, False, False), ("a", 3, True, False)]
    assert seen == [*answer, ("b", 2, False, False)]


async def test_marks_stay_with_their_events_when_others_are_not_the_handlers(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, bool, bool]] = []

    def note(event: Event) -> None:
        seen.append((event.entity_id, event.leaving, event.replaces))

    handler = Handler("notes", each=note, entity_types=frozenset({"Order"}), snapshots=True)
    taken = Taken(
        events("Alien|x", "Order|a", "Alien|y", "Order|b"), frozenset({3}), frozenset({0, 1}), (), NO_RESUME_POINT
    )
    late = LateJournal()
    async with SubscriptionWorld().consumer() as (late.journal, _):
        await HandlerSink(HandlerInvoker(handler, decode, call_inline, Watchdog()), late).prepare(taken)  # type: ignore[arg-type]
    assert seen == [("a", False, True), ("b", True, False)]


@pytest.mark.parametrize("sees_deleted", [True, False])
async def test_a_handler_that_asks_for_it_is_called_for_what_the_source_had_deleted(
    autojump_clock: MockClock, *, sees_deleted: bool
) -> None:
    seen: list[tuple[str, int, object, StatedRange | None]] = []

    def note(event: Event) -> None:
        seen.append((event.entity_id, event.envelope.seq_nr, event.value, event.deleted))

    handler = Handler("notes", each=note, entity_types=frozenset({"Order"}), sees_deleted=sees_deleted)
    world, late = SubscriptionWorld(), LateJournal()
    sink = HandlerSink(HandlerInvoker(handler, lambda envelope: 1, call_inline, Watchdog()), late)  # type: ignore[arg-type]
    async with world.source() as (source, _):
        await publish(source, ["Order|a", "Order|gone", "Order|gone", "Order|a", "Order|b"])
        await source.log.trim(TrimLimit(3, 10))
        async with world.consumer(sink=sink) as (late.journal, state):
            await wait_until(lambda: state.deleted == 3)
            await wait_for_position(state, 5)
    gone = [("a", 1, None, StatedRange("Order|a", 1, 1, "trimmed"))] if sees_deleted else []
    assert [row for row in seen if row[0] == "a"] == [*gone, ("a", 2, 1, None)]
    assert [row for row in seen if row[0] == "gone"] == (
        [("gone", 2, None, StatedRange("Order|gone", 1, 2, "trimmed"))] if sees_deleted else []
    )


def test_columns_have_no_marks() -> None:
    with pytest.raises(ConfigurationError, match="have no marks"):
        Handler("notes", statements=lambda batch: [], sees_deleted=True)


def test_what_cannot_run_over_a_stream_is_refused() -> None:
    def in_transaction(_tables: object, _event: object) -> None:
        pass

    work = HandlerInvoker(Handler("in_transaction", [], in_transaction=in_transaction), decode, call_inline, Watchdog())
    with pytest.raises(ConfigurationError) as refused:
        HandlerSink(work, LateJournal())  # type: ignore[arg-type]
    assert refused.value.code == "projection.not_remote"


async def test_a_followed_streams_handler_is_started_and_stopped_with_each_connection(
    autojump_clock: MockClock,
) -> None:
    world, story = SubscriptionWorld(), list[str]()

    async def note(what: str) -> None:
        story.append(what)

    async def came(_event: Event) -> None:
        if story[-1] != "event":
            story.append("event")

    async def start() -> None:
        await note("start")

    async def stop() -> None:
        await note("stop")

    late = LateJournal()
    handler = Handler("sent", effect=came, start=start, stop=stop)
    sink = HandlerSink(HandlerInvoker(handler, decode, call_inline, Watchdog()), late)  # type: ignore[arg-type]
    async with world.source() as (source, _):
        for lap in (1, 2):
            async with world.consumer(sink=sink) as (consumer, state):
                late.journal = consumer
                await publish(source, NAMES[:10])
                await wait_for_position(state, 10 * lap)
            assert story == ["start", "event", "stop"] * lap
