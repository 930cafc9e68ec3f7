"""The tasks that read the journal for subscribers behind the ring: a few, in turn, so that none holds up the others.

A subscriber that leaves only withdraws its wish; a read that has begun ends by itself, and its page may serve another.
While the journal cannot be reached, wishes wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.firehose.catch_up import CatchUpRequest, CatchUps, FoundPage, ReadPlan
from common.core.firehose.ring import LogSource, LogStretch
from common.core.flow.backoff import Backoff
from common.firehose.deletions import deleted_ahead, find_deleted
from common.firehose.settings import FirehoseSettings
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage


class CatchUpReaders:
    """Answers requests, and wakes who asked."""

    def __init__(
        self,
        journal: Journal,
        source: Callable[[], LogSource],
        settings: FirehoseSettings,
    ) -> None:
        self._journal = journal
        self._source = source
        self._settings = settings
        self._work = trio.lowlevel.ParkingLot()
        self.queue = CatchUps(
            in_hand_max_bytes=settings.in_hand_max_bytes,
            shelf_max_bytes=settings.shelf_max_bytes,
            block_events=settings.block_events,
        )

    def ask(self, request: CatchUpRequest) -> None:
        """Have it answered, at once if the page is at hand."""
        self.queue.ask(request)
        self._work.unpark()  # also when it is answered: what comes next may be read meanwhile

    def withdraw(self, request: CatchUpRequest) -> None:
        """Nobody waits for it any more."""
        self.queue.withdraw(request)

    async def run(self) -> None:
        """Read until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(self._settings.catch_ups_at_once):
                nursery.start_soon(self._read_in_turn, name=f"firehose catch-up {number + 1}")

    async def _read_in_turn(self) -> NoReturn:
        backoff = Backoff(self._settings.retry_min_s, self._settings.retry_max_s)
        while True:
            begun = self.queue.begin()
            if begun is None:
                await self._work.park()
                continue
            request, look = begun
            self._work.unpark()  # for what comes after this
            try:
                found = await self._find(request, look)
            except BackhaulError as error:
                if error.kind is ErrorKind.UNAVAILABLE:
                    self.queue.put_back(request)
                    await trio.sleep(backoff.next_delay(0.5, at_least_s=error.retry_after_s or 0.0))
                    continue
                self.queue.failed(request, error)
                request.wake()
            else:
                backoff.progressed()
                for one in self.queue.answered(request, found):
                    one.wake()
            # Those who were passed over because this was being read may be next.
            self._work.unpark_all()

    async def _find(self, request: CatchUpRequest, look: ReadPlan) -> FoundPage:
        source = self._source()
        read = await self._journal.log.read(
            look.after,
            through=look.through,
            max_events=look.max_events,
            max_bytes=look.max_bytes,
            selection=look.selection,
        )
        read, deleted = await find_deleted(self._journal, look.after, read, max_entities=self._settings.deleted_max)
        page = LogStretch(
            source, look.after, read.through, read.events, place=await self._place(source, read, look.after)
        )
        chosen = request.selection.of(read.events) if look.selection != request.selection else read.events
        if chosen is not read.events:
            page = LogStretch(source, look.after, read.through, chosen, place=page.place)
        return FoundPage(page, deleted, read.head, await deleted_ahead(self._journal.log, look.after, read))

    async def _place(self, source: LogSource, read: LogPage, after: int) -> tuple[int, str] | None:
        """Of the event at the page's end, when the page does not hold it; None when it does, or there is no such event."""
        if read.through <= after or (read.events and read.events.position[-1] == read.through):
            return None
        last = await self._journal.log.read(read.through - 1, through=read.through, max_events=1, max_bytes=1)
        if not last.events:
            return None
        return LogStretch(source, read.through - 1, read.through, last.events).place
