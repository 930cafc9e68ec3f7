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

import trio

from common.core.ids import SliceRange, slice_ranges
from common.journal.interface import Journal
from common.projection.calls import PlainCalls, ThreadCalls
from common.projection.handlers import Handler
from common.projection.progress import OnCommit, ProjectionProgress, ProjectionSettings
from common.projection.range_task import RangeTask
from common.projection.story import RangeStory
from common.projection.work import Decode, Work, undecoded
from common.watchdog import Watchdog


async def run_projections(
    journal: Journal,
    handlers: Sequence[Handler],
    *,
    owner: str,
    settings: ProjectionSettings,
    now_us: Callable[[], int],
    random: Random,
    on_commit: OnCommit | None = None,
    decode: Decode = undecoded,
    plain_calls: Callable[[], PlainCalls] = ThreadCalls,
    watchdog: Watchdog | None = None,
    task_status: trio.TaskStatus[list[ProjectionProgress]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run every range of all ``handlers``, each on its own, until cancelled; starts with their progress.

    ``decode`` gives handlers of single events what a payload means; ``plain_calls`` makes what plain functions are
    called by, one a range; ``watchdog`` names async ones that hold the loop. The rest is as in ``run_projection``.
    """
    assert len({handler.name for handler in handlers}) == len(handlers), "two projections share a name"
    ranges = slice_ranges(settings.ranges)
    work = [(one, ProjectionProgress(one.name, slices)) for one in handlers for slices in ranges]
    task_status.started([progress for _, progress in work])

    async def run_range(handler: Handler, progress: ProjectionProgress) -> None:
        await run_projection(
            journal,
            Work(handler, decode, plain_calls(), watchdog or Watchdog()),
            progress.slices,
            owner=owner,
            settings=settings,
            now_us=now_us,
            random=random,
            progress=progress,
            on_commit=on_commit,
        )

    async with trio.open_nursery() as nursery:
        for handler, progress in work:
            nursery.start_soon(run_range, handler, progress, name=f"projection {handler.name} {progress.slices}")


async def run_projection(
    journal: Journal,
    work: Work,
    slices: SliceRange,
    *,
    owner: str,
    settings: ProjectionSettings,
    now_us: Callable[[], int],
    random: Random,
    progress: ProjectionProgress | None = None,
    on_commit: OnCommit | None = None,
) -> None:
    """Run one range until cancelled; a ``BackhaulError`` and whatever the handler raises is retried.

    ``owner`` names this process and this start of it: two that share a name would share a lease. Cancelled at
    any point, the page in hand is either committed or not, no transaction stays open, and the lease is given
    back (within seconds, if the store answers). Other errors of the journal come out: they are bugs.
    """
    story = RangeStory(progress or ProjectionProgress(work.handler.name, slices))
    task = RangeTask(
        journal=journal,
        work=work,
        slices=slices,
        owner=owner,
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
    finally:
        story.stopped()
