"""A leaving mark in the own log, as an edge's wall puts it there: handlers see that the entity has left, and no value."""

from __future__ import annotations

from common.core.events.batch import Envelope, EventBatch, new_events
from common.core.events.leaving import marked
from common.core.journal.statement import Statement
from common.projection.handler_executor import call_inline
from common.projection.handler_invoker import HandlerInvoker
from common.projection.handlers import Event, Handler
from common.watchdog import Watchdog


def log() -> EventBatch:
    events = new_events(["Order|1"] * 3, ["Moved"] * 3, [b"1", b"2", b"3"], tags=["t:here", "t:there", "t:here"])
    events.seq_nr = [1, 2, 3]
    return marked(events, [1])


def readable(envelope: Envelope) -> object:
    assert envelope.payload, "a mark has nothing to decode"
    return envelope.payload


async def test_each_event_says_whether_it_is_a_mark() -> None:
    seen: list[Event] = []

    def each(event: Event) -> None:
        seen.append(event)

    await HandlerInvoker(Handler("h", each=each), readable, call_inline, Watchdog()).prepare(log())
    assert [(event.value, event.leaving, event.envelope.seq_nr) for event in seen] == [
        (b"1", False, 1),
        (None, True, 2),
        (b"3", False, 3),
    ]


async def test_columns_hold_no_marks() -> None:
    given: list[list[bytes]] = []

    def statements(events: EventBatch) -> list[Statement]:
        given.append(events.payload)
        return []

    invoker = HandlerInvoker(Handler("h", statements=statements), readable, call_inline, Watchdog())
    await invoker.prepare(log())
    await invoker.prepare(log().slice(1, 2))
    assert given == [[b"1", b"3"]]
