"""A projection's handler over another service's stream: its statements are stored with the subscription's place.

The same handler runs over the local journal and over a stream: what it returns is committed with the offset either way.
One that runs inside the transaction cannot, since the place of a stream is stored by the subscription; receive the stream
into this service's own journal (`into_journal`) and run it there. A fault ends the stream, which is dialled again later.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.deleted import with_deleted
from common.core.events.ids import entity_type_of
from common.journal.stores.journal import Journal
from common.projection.beginning.leading import takes_no_snapshots
from common.projection.handler_invoker import EventFlags, HandlerInvoker
from common.projection.handlers import Handler, OnFailure
from common.transport.subscription.sinks import Effect, Taken


def check_remote(handler: Handler) -> None:
    """Refuse a handler that cannot run over a stream: ConfigurationError ``projection.not_remote``."""
    if handler.in_transaction is not None or handler.on_failure is not OnFailure.RETRY:
        raise ConfigurationError(
            "projection.not_remote",
            f"projection {handler.name} runs inside the transaction, or parks or stops on failure",
            "a handler over a stream has statements=, each=, effect= or act=, and retries; or receive into the own journal",
        )


class HandlerSink:
    """A ``Sink`` that is a handler."""

    def __init__(
        self, work: HandlerInvoker, journal: Journal, on_fault: Callable[[BackhaulError], None] = lambda _: None
    ) -> None:
        """``on_fault`` is called with what the handler failed with. Raises ConfigurationError ``projection.not_remote``."""
        check_remote(work.handler)
        self._on_fault = on_fault
        self._work = work
        self._journal = journal
        self._has_tables = False

    @property
    def takes_restarts(self) -> bool:
        """See ``Sink.takes_restarts``."""
        return self._work.handler.restarts

    def open(self) -> AbstractAsyncContextManager[None]:
        """The handler's ``start`` and ``stop`` around each stream."""
        return self._work.life.open()

    async def prepare(self, taken: Taken) -> Effect:
        """See ``Sink.prepare``. Raises what the handler's function is refused with."""
        handler, events = self._work.handler, taken.events
        marks = EventFlags(taken.leaving, taken.replaces)
        if handler.sees_deleted and taken.deleted:
            events, moved = with_deleted(events, taken.deleted)
            marks = EventFlags({moved[index] for index in taken.leaving}, {moved[index] for index in taken.replaces})
        if not self._has_tables:
            await self._journal.projections.migrate(handler.name, handler.migrations)
            self._has_tables = True
        if handler.entity_types:
            kept = [at for at, name in enumerate(events.persistence_id) if entity_type_of(name) in handler.entity_types]
            events, marks = events.select(kept), _of(marks, kept)
        try:
            if marks.replaces and not handler.snapshots:
                index = min(marks.replaces)
                raise takes_no_snapshots(handler.name, events.persistence_id[index], events.seq_nr[index])
            prepared = await self._work.prepare(events, marks)
            for event in prepared.effects:
                await self._work.effect(event)
        except BackhaulError as error:
            self._on_fault(error)
            raise
        return Effect(statements=prepared.statements)


def _of(marks: EventFlags, kept: list[int]) -> EventFlags:
    """The marks of the events at these indexes."""
    return EventFlags(
        [at for at, index in enumerate(kept) if index in marks.leaving],
        [at for at, index in enumerate(kept) if index in marks.replaces],
    )
