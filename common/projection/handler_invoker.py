"""From events to what is to be committed: the handler's function is called here, whatever its form.

Nothing is stored here. ``prepare`` calls the pure forms and returns their statements; what runs inside the transaction
or has effects elsewhere comes back as work that the range's commit does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from common.core.errors import FOREIGN, BackhaulError
from common.core.events.batch import Envelope, EventBatch
from common.core.events.deleted import DELETED_TYPE, stated_by
from common.core.events.leaving import has_marks, is_mark
from common.core.events.replacing import replacing
from common.core.events.restart import is_restart
from common.core.journal.statement import Statement
from common.journal.tables import Tables
from common.projection.beginning.leading import takes_no_snapshots
from common.projection.handler_executor import HandlerExecutor, call_async, call_inline, raised, returned_wrong
from common.projection.handler_life import HandlerLife
from common.projection.handlers import Event, Handler
from common.watchdog import Watchdog

UNREADABLE: Final = frozenset({"types.unreadable", "types.newer_version"})
"""Codes of an event that is not what its type says."""


class Decode(Protocol):
    """What an event's payload means to the application; payloads of unknown types come back as they are."""

    def __call__(self, envelope: Envelope) -> object: ...


def undecoded(envelope: Envelope) -> bytes:
    """The payload as it is: for applications without event types."""
    return envelope.payload


@dataclass(frozen=True, slots=True)
class PreparedEffects:
    """What events are to do. One of the three is in use, by the handler's form; all are empty for no events."""

    statements: Sequence[Statement] = ()
    in_transaction: Callable[[Tables], Awaitable[None]] | None = None
    effects: Sequence[Event] = ()


@dataclass(frozen=True, slots=True)
class EventFlags:
    """What a stream says of its events beside them, by index: the fields of ``Event`` of these names."""

    leaving: Collection[int] = ()
    replaces: Collection[int] = ()


NO_MARKS: Final = EventFlags()


class HandlerInvoker:
    """One handler's function, ready to be called for one range."""

    def __init__(
        self,
        handler: Handler,
        decode: Decode,
        plain_calls: HandlerExecutor,
        watchdog: Watchdog,
        life: HandlerLife | None = None,
    ) -> None:
        """``life`` is shared by all ranges of the handler; one of its own when not given."""
        self.handler = handler
        self.life = life or HandlerLife(handler, watchdog)
        self._watchdog = watchdog
        self._decode = decode
        self._plain_calls = call_inline if handler.is_quick else plain_calls

    async def prepare(self, events: EventBatch, marks: EventFlags = NO_MARKS) -> PreparedEffects:
        """What ``events`` are to do. Of ``marks`` the form that takes columns is not given.

        Raises:
            BackhaulError: ``projection.handler_failed``, ``projection.handler_returned``, ``projection.handler_timeout``,
                ``projection.takes_no_snapshots``, those in ``UNREADABLE``.
        """
        handler = self.handler
        if not events:
            return PreparedEffects()
        if handler.statements is not None:
            if has_marks(events):  # columns do not say what leaves
                events = events.select([index for index in range(len(events)) if not is_mark(events, index)])
                if not events:
                    return PreparedEffects()
            return PreparedEffects(
                await self._plain_calls(lambda: self._columns(events), handler.deadline_s, handler.function)
            )
        snapshots = replacing(events)
        if snapshots:  # they came up from an edge, and stand in the log
            first = snapshots[0]
            if not handler.snapshots:
                raise takes_no_snapshots(handler.name, events.persistence_id[first], events.seq_nr[first])
            marks = EventFlags(marks.leaving, {*marks.replaces, *snapshots})
        if handler.each is not None:
            return PreparedEffects(
                await self._plain_calls(lambda: self._each(events, marks), handler.deadline_s, handler.function)
            )
        seen = self._seen(events, marks)
        if handler.in_transaction is not None:
            return PreparedEffects(in_transaction=lambda tables: self._call_in_transaction(tables, seen))
        return PreparedEffects(effects=seen)

    async def effect(self, event: Event) -> None:
        """Let one event have its effect elsewhere."""
        effect = self.handler.effect
        assert effect is not None
        await call_async(lambda: effect(event), self.handler.deadline_s, effect, self._watchdog)

    def _seen(self, events: EventBatch, marks: EventFlags) -> list[Event]:
        leaving, replaces = marks.leaving, marks.replaces
        try:
            return [
                Event(None, envelope, leaving=True)
                if is_mark(events, index)
                else Event(None, envelope, restarts=True)
                if is_restart(events, index)
                else Event(None, envelope, deleted=stated_by(envelope))
                if envelope.event_type == DELETED_TYPE
                else Event(self._decode(envelope), envelope, index in leaving, index in replaces)
                for index, envelope in enumerate(events.envelopes())
            ]
        except FOREIGN as error:
            if isinstance(error, BackhaulError) and error.code in UNREADABLE:
                raise  # of what is stored, not of the handler
            raise raised(self._decode, error) from error

    def _columns(self, events: EventBatch) -> Sequence[Statement]:
        function = self.handler.statements
        assert function is not None
        try:
            returned: object = function(events)
        except FOREIGN as error:
            raise raised(function, error) from error
        return _statements(function, returned, none_is_nothing=False)

    def _each(self, events: EventBatch, marks: EventFlags) -> Sequence[Statement]:
        function = self.handler.each
        assert function is not None
        found: list[Statement] = []
        for event in self._seen(events, marks):
            try:
                returned = function(event)
            except FOREIGN as error:
                raise raised(function, error) from error
            found.extend(_statements(function, returned, none_is_nothing=True))
        return joined(found)

    def _call_in_transaction(self, tables: Tables, events: Sequence[Event]) -> Awaitable[None]:
        handler = self.handler
        return self._plain_calls(lambda: self._in_transaction(tables, events), handler.deadline_s, handler.function)

    def _in_transaction(self, tables: Tables, events: Sequence[Event]) -> None:
        function = self.handler.in_transaction
        assert function is not None
        for event in events:
            try:
                returned: object = function(tables, event)
            except BackhaulError as error:
                if error.code.startswith(("projection.", "journal.")):
                    raise  # of the tables, not of the application
                raise raised(function, error) from error
            except FOREIGN as error:
                raise raised(function, error) from error
            if returned is not None:
                raise returned_wrong(function, returned, "nothing: what it writes, it writes with `tables`")


def joined(statements: Iterable[Statement]) -> list[Statement]:
    """Neighbours of one text as one statement with more rows, which databases run much faster; the order is kept."""
    found: list[Statement] = []
    for statement in statements:
        if found and found[-1].sql == statement.sql:
            rows = found[-1].rows
            assert isinstance(rows, list)
            rows.extend(statement.rows)
        else:
            found.append(Statement(statement.sql, list(statement.rows)))
    return found


def _statements(function: Callable[..., Any], returned: object, *, none_is_nothing: bool) -> Sequence[Statement]:
    if returned is None and none_is_nothing:
        return ()
    if isinstance(returned, Statement):
        returned = (returned,)
    if isinstance(returned, Sequence) and all(
        isinstance(one, Statement) and isinstance(one.rows, list | tuple) for one in returned
    ):
        return returned
    raise returned_wrong(function, returned, "statements")
