"""Run projections: follow the journal by slice range and let each event take effect exactly once.

One task holds one range: it takes the range's lease, reads pages behind the stored offset, lets the handler
turn them into statements, and commits statements and offset in one transaction that the lease's epoch guards.
An owner that lost the lease (paused, cut off, slower than ``lease_s``) writes nothing any more, however late
it wakes. What one range does is in ``range_task``; here is which ranges run.

    WAITING, PAUSED ── lease taken ──> BEHIND ── end of the log ──> LIVE ── a full page ──> BEHIND
    BEHIND, LIVE ── fenced ──> WAITING or PAUSED, by what the store says then
    any ── an error ──> FAILING ── backoff ──> as at the start
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange, slice_ranges
from common.core.flow.backoff import Backoff
from common.core.schedule import time_us
from common.journal.feeds import RangeFeeds
from common.journal.order_time import position_at
from common.journal.stores.journal import Journal
from common.projection.handler_executor import HandlerExecutor, ThreadExecutor
from common.projection.handler_invoker import Decode, HandlerInvoker, undecoded
from common.projection.handler_life import HandlerLife
from common.projection.handlers import LOG, NOW, SNAPSHOTS, Handler
from common.projection.progress import OnCommit, ProjectionProgress, ProjectionSettings
from common.projection.range_holder import LoneHolder, RangeHolder
from common.projection.range_log import RangeReporter
from common.projection.range_task import RangeTask
from common.watchdog import Watchdog

_log: Final = structlog.get_logger()


async def run_projections(
    journal: Journal,
    feeds: RangeFeeds,
    handlers: Sequence[Handler],
    *,
    owner: str,
    holder: RangeHolder | None = None,
    settings: ProjectionSettings,
    now_us: Callable[[], int],
    random: Random,
    on_commit: OnCommit | None = None,
    decode: Decode = undecoded,
    plain_calls: Callable[[], HandlerExecutor] = ThreadExecutor,
    watchdog: Watchdog | None = None,
    shown: list[ProjectionProgress] | None = None,
    task_status: trio.TaskStatus[list[ProjectionProgress]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run every range of all ``handlers``, each on its own, until cancelled; starts with their progress.

    They read the log through ``feeds``, which the node's ranges share. ``holder`` says which are this node's; without it
    each takes a lease for itself.
    ``decode`` gives handlers of single events what a payload means; ``plain_calls`` makes what plain functions are
    called by, one a range; ``watchdog`` names async ones that hold the loop; ``shown`` is filled with their progress. The
    rest is as in ``run_projection``.
    """
    assert len({handler.name for handler in handlers}) == len(handlers), "two projections share a name"
    shown = [] if shown is None else shown

    watchdog = watchdog or Watchdog()
    lives = {handler.name: HandlerLife(handler, watchdog) for handler in handlers}
    holder = holder or lone_holder(journal, owner, settings, random)

    def new_work(handler: Handler) -> HandlerInvoker:
        return HandlerInvoker(handler, decode, plain_calls(), watchdog, lives[handler.name])

    projections = [
        _Projection(
            journal,
            feeds,
            handler,
            new_work,
            shown=shown,
            owner=owner,
            holder=holder,
            settings=settings,
            now_us=now_us,
            random=random,
            on_commit=on_commit,
        )
        for handler in handlers
    ]
    task_status.started(shown)
    async with trio.open_nursery() as nursery:
        for one in projections:
            nursery.start_soon(one.run, name=f"projection {one.handler.name}")


class _Projection:
    """One projection: runs the ranges that the store has, and looks again when they have changed."""

    def __init__(
        self,
        journal: Journal,
        feeds: RangeFeeds,
        handler: Handler,
        new_work: Callable[[Handler], HandlerInvoker],
        *,
        shown: list[ProjectionProgress],
        owner: str,
        holder: RangeHolder,
        settings: ProjectionSettings,
        now_us: Callable[[], int],
        random: Random,
        on_commit: OnCommit | None,
    ) -> None:
        self.handler = handler
        self._journal = journal
        self._feeds = feeds
        self._new_work = new_work
        self._shown = shown
        self._owner = owner
        self._holder = holder
        self._settings = settings
        self._now_us = now_us
        self._random = random
        self._on_commit = on_commit
        self._backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s)
        self._running: dict[SliceRange, trio.CancelScope] = {}
        self._has_changed = trio.Event()
        shown.extend(self._progress_of(slice_ranges(settings.ranges)))

    async def run(self) -> NoReturn:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._has_changed = trio.Event()
                ranges = await self._ranges()
                self._show(ranges)
                for slices in self._running.keys() - set(ranges):
                    self._running[slices].cancel()  # it would find out with its next commit
                for progress in self._own:
                    if progress.slices not in self._running:
                        scope = self._running[progress.slices] = trio.CancelScope()
                        name = f"projection {self.handler.name} {progress.slices}"
                        nursery.start_soon(self._run_range, progress, scope, name=name)
                await self._has_changed.wait()

    async def _ranges(self) -> list[SliceRange]:
        while True:
            try:
                found = await self._journal.projections.declare(
                    self.handler.name, slice_ranges(self._settings.ranges), await self._begin()
                )
                await self._holder.start.make_tables(self.handler)
            except BackhaulError as error:
                retry_in_s = self._backoff.next_delay(self._random.random(), at_least_s=error.retry_after_s or 0.0)
                RangeReporter(self._own[0]).failed(error, self._backoff.failures, retry_in_s)
                await trio.sleep(retry_in_s)
            else:
                self._backoff.progressed()
                self._holder.prepared(self.handler.name)
                return found

    async def _begin(self) -> int:
        """Where the projection begins, if it is new; what is stored stays."""
        start_from = self.handler.start_from
        if start_from in (LOG, SNAPSHOTS):
            return 0
        if any(row.name == self.handler.name for row in await self._journal.projections.rows()):
            return 0
        if start_from == NOW:
            return (await self._journal.log.stats()).head_position
        return await position_at(self._journal.log, time_us(start_from) or 0)

    async def _run_range(self, progress: ProjectionProgress, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await run_projection(
                    self._journal,
                    self._feeds,
                    self._new_work(self.handler),
                    progress.slices,
                    owner=self._owner,
                    holder=self._holder,
                    settings=self._settings,
                    now_us=self._now_us,
                    random=self._random,
                    progress=progress,
                    on_commit=self._on_commit,
                )
        finally:
            del self._running[progress.slices]
        # The range is no more, so others have come: all are looked up, and those that run go on.
        _log.info("projection.ranges_changed", projection=self.handler.name, slices=str(progress.slices))
        self._has_changed.set()

    @property
    def _own(self) -> list[ProjectionProgress]:
        return [progress for progress in self._shown if progress.name == self.handler.name]

    def _progress_of(self, ranges: Sequence[SliceRange]) -> list[ProjectionProgress]:
        known = {progress.slices: progress for progress in self._own}
        return [known.get(slices) or ProjectionProgress(self.handler.name, slices) for slices in ranges]

    def _show(self, ranges: Sequence[SliceRange]) -> None:
        own = self._own
        at = self._shown.index(own[0])
        self._shown[at : at + len(own)] = self._progress_of(ranges)


def lone_holder(journal: Journal, owner: str, settings: ProjectionSettings, random: Random) -> LoneHolder:
    """Leases for each range by itself."""
    return LoneHolder(journal, owner, lease_s=settings.lease_s, standby_poll_s=settings.standby_poll_s, random=random)


async def run_projection(
    journal: Journal,
    feeds: RangeFeeds,
    work: HandlerInvoker,
    slices: SliceRange,
    *,
    owner: str,
    holder: RangeHolder | None = None,
    settings: ProjectionSettings,
    now_us: Callable[[], int],
    random: Random,
    progress: ProjectionProgress | None = None,
    on_commit: OnCommit | None = None,
) -> None:
    """Run one range until cancelled, or until the store no longer has it.

    A ``BackhaulError`` and whatever the handler raises is retried. ``owner`` names this process and this start of it: two
    that share a name would share a lease. Cancelled at any point, the page in hand is either committed or not, no
    transaction stays open, and the lease is given back (within seconds, if the store answers). Other errors of the
    journal come out: they are bugs.
    """
    story = RangeReporter(progress or ProjectionProgress(work.handler.name, slices))
    task = RangeTask(
        journal=journal,
        feeds=feeds,
        work=work,
        slices=slices,
        owner=owner,
        holder=holder or lone_holder(journal, owner, settings, random),
        settings=settings,
        now_us=now_us,
        random=random,
        story=story,
        on_commit=on_commit,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.summarise, journal, settings.summary_s, now_us)
            await task.run()
            nursery.cancel_scope.cancel()
    finally:
        story.stopped()
