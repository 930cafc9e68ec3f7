"""Run a projection: follow the journal by slice range and let each event take effect exactly once.

One task holds one range: it takes the range's lease, reads pages behind the stored offset, lets the handler
turn them into statements, and commits statements and offset in one transaction that the lease's epoch guards.
An owner that lost the lease (paused, cut off, slower than ``lease_s``) writes nothing any more, however late
it wakes. No state is kept that the store does not have: after any error the range starts from its offset.

    WAITING, PAUSED ── lease taken ──> BEHIND ── end of the log ──> LIVE ── a full page ──> BEHIND
    BEHIND, LIVE ── fenced ──> WAITING or PAUSED, by what the store says then
    any ── an error ──> FAILING ── backoff ──> as at the start

Behind, the next page is read and prepared while the current one commits. At the end of the log that would
only split small batches in two, so there a commit ends before the next read begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NoReturn

import trio

from common.core.backoff import Backoff
from common.core.errors import BackhaulError, ErrorKind
from common.core.ids import SliceRange, slice_ranges
from common.journal.interface import Journal, ProjectionLease, ProjectionRow
from common.projection.handlers import Handler
from common.projection.pages import PAGE_FAULTS, Page, Pages, place_of
from common.projection.progress import OnCommit, ProjectionProgress, ProjectionSettings
from common.projection.story import RangeStory

# Also a cancelled range finishes taking a lease, so that it knows what to give back, and gives it back.
_ACQUIRE_DEADLINE_S: Final = 3.0
_RELEASE_DEADLINE_S: Final = 2.0


async def run_projections(
    journal: Journal,
    handlers: Sequence[Handler],
    *,
    owner: str,
    settings: ProjectionSettings,
    now_us: Callable[[], int],
    random: Random,
    on_commit: OnCommit | None = None,
    task_status: trio.TaskStatus[list[ProjectionProgress]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run every range of all ``handlers``, each on its own, until cancelled; starts with their progress.

    The rest is as in ``run_projection``.
    """
    assert len({handler.name for handler in handlers}) == len(handlers), "two projections share a name"
    ranges = slice_ranges(settings.ranges)
    work = [(one, ProjectionProgress(one.name, slices)) for one in handlers for slices in ranges]
    task_status.started([progress for _, progress in work])

    async def run_range(handler: Handler, progress: ProjectionProgress) -> None:
        await run_projection(
            journal,
            handler,
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
    handler: Handler,
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
    story = RangeStory(progress or ProjectionProgress(handler.name, slices))
    held = _Range(
        journal=journal,
        handler=handler,
        slices=slices,
        owner=owner,
        settings=settings,
        random=random,
        story=story,
        on_commit=on_commit,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.summarise, journal, settings.summary_s, now_us)
            await held.run()
    finally:
        story.stopped()


@dataclass(slots=True)
class _Ahead:
    """The page that was prepared while another one committed, or why it could not be."""

    page: Page | None = None
    error: BackhaulError | None = None


class _Range:
    """One range while it runs. ``run`` is its task."""

    def __init__(
        self,
        *,
        journal: Journal,
        handler: Handler,
        slices: SliceRange,
        owner: str,
        settings: ProjectionSettings,
        random: Random,
        story: RangeStory,
        on_commit: OnCommit | None,
    ) -> None:
        self._journal = journal
        self._handler = handler
        self._slices = slices
        self._pages = Pages(journal, handler, slices, settings)
        self._owner = owner
        self._settings = settings
        self._random = random
        self._story = story
        self._on_commit = on_commit
        self._backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s)
        self._lease = ProjectionLease(handler.name, slices, 0, 0)
        self._renew_at = 0.0

    async def run(self) -> NoReturn:
        """Take the lease, follow the log, and begin again after whatever ends that."""
        has_tables = False
        while True:
            try:
                if not has_tables:
                    await self._journal.migrate(self._handler.name, self._handler.migrations)
                    has_tables = True
                await self._hold()
            except BackhaulError as error:
                retry_in_s = self._after(error)
            await trio.sleep(retry_in_s)

    def _after(self, error: BackhaulError) -> float:
        """Seconds to wait before beginning again."""
        if error.code == "projection.fenced":
            self._story.fenced(self._lease)
            return self._settings.standby_poll_s
        if error.code in PAGE_FAULTS:
            self._pages.narrow()
        retry_in_s = self._backoff.next_delay(self._random.random(), at_least_s=error.retry_after_s or 0.0)
        self._story.failed(error, self._backoff.failures, retry_in_s)
        return retry_in_s

    # -- the lease ---------------------------------------------------------------------------------------------
    async def _hold(self) -> NoReturn:
        self._lease = await self._acquire()
        try:
            self._story.started(self._lease, self._owner, await self._journal.stats())
            await self._follow()
        finally:
            with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True):
                await self._release()

    async def _acquire(self) -> ProjectionLease:
        """Wait until the range is ours."""
        while True:
            # Shielded: a lease that was taken unheard would keep others out until it lapses.
            with trio.move_on_after(_ACQUIRE_DEADLINE_S, shield=True) as asking:
                lease = await self._journal.acquire(
                    self._handler.name, self._slices, self._owner, self._settings.lease_s
                )
                if lease is not None:
                    return lease
            if asking.cancelled_caught:
                raise BackhaulError(
                    "projection.acquire_timeout",
                    f"the store did not answer within {_ACQUIRE_DEADLINE_S:g} s",
                    hint="look at the database's load and locks",
                    kind=ErrorKind.UNAVAILABLE,
                )
            row = self._own_row(await self._journal.rows())
            if row is not None:
                self._story.not_ours(row)
            await trio.sleep(self._settings.standby_poll_s * (0.5 + self._random.random() / 2))

    def _own_row(self, rows: Sequence[ProjectionRow]) -> ProjectionRow | None:
        wanted = (self._handler.name, self._slices)
        return next((row for row in rows if (row.name, row.slices) == wanted), None)

    async def _release(self) -> None:
        try:
            await self._journal.release(self._lease)
        except BackhaulError as error:
            self._story.release_failed(error)

    # -- the log -----------------------------------------------------------------------------------------------
    async def _follow(self) -> NoReturn:
        renew_s = self._settings.lease_s / 3
        idle_s = min(self._settings.poll_s, renew_s)
        self._renew_at = trio.current_time() + renew_s
        page = await self._pages.prepare(self._lease.position)
        while True:
            if page.is_full:
                self._story.behind()
                page = await self._commit_and_prepare(page)
                continue
            if page.events or trio.current_time() >= self._renew_at:
                # Without events this renews the lease, and moves the offset over what other ranges have.
                await self._commit(page)
            self._story.at_end_of_log()
            # Also above what was heard: a prompt that knows of more than the log has must not make this spin.
            await self._journal.prompt.wait_above(max(page.through, page.heard), idle_s)
            page = await self._pages.prepare(page.through)

    async def _commit(self, page: Page) -> None:
        try:
            self._lease = await self._journal.commit(self._lease, page.through, page.statements, self._settings.lease_s)
        except BackhaulError as error:
            if error.code in PAGE_FAULTS and page.events:
                error.details.update(place_of(page.events))
            raise
        self._renew_at = trio.current_time() + self._settings.lease_s / 3
        self._story.committed(self._lease, page.events)
        if not page.events:
            return
        self._backoff.progressed()
        self._pages.widen()
        if self._on_commit is not None:
            self._on_commit(self._story.progress, page.events)

    async def _commit_and_prepare(self, page: Page) -> Page:
        """Commit ``page`` and prepare the next one meanwhile; an error of the latter waits for the commit."""
        ahead, failure = _Ahead(), None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prepare_ahead, page.through, ahead)
            try:
                await self._commit(page)
            except BackhaulError as error:
                failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if ahead.error is not None:
            raise ahead.error
        assert ahead.page is not None
        return ahead.page

    async def _prepare_ahead(self, after: int, ahead: _Ahead) -> None:
        try:
            ahead.page = await self._pages.prepare(after)
        except BackhaulError as error:
            ahead.error = error
