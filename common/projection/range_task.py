"""One range of a projection while it runs on this node: its lease, its pages, and what is done about faults.

No state is kept that the store does not have, but for the count of an event's failures: after any error the range
starts from its offset. Behind, the next page is read and prepared while the current one commits. At the end of the log
that would only split small batches in two, so there a commit ends before the next read begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.ids import SliceRange
from common.core.flow.backoff import Backoff
from common.core.journal.range_failure import RangeFailure, is_worth_a_write, next_failure
from common.core.journal.statement import Statement
from common.journal.feeds import RangeFeeds
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats
from common.journal.stores.projections import ProjectionLease
from common.projection import parking
from common.projection.beginning import covered
from common.projection.beginning.covered import Covered
from common.projection.beginning.leading import LeadingPage, leading_of
from common.projection.handler_invoker import NO_MARKS, EventFlags, HandlerInvoker, PreparedEffects
from common.projection.handlers import OnFailure
from common.projection.pages import PAGE_FAULTS, Pages, ProjectionPage, place_of
from common.projection.parked_entities import ParkedEntities
from common.projection.progress import OnCommit, ProjectionSettings
from common.projection.range_holder import RangeHolder
from common.projection.range_log import RangeReporter
from common.projection.skips import Skips

_RELEASE_DEADLINE_S: Final = 2.0


@dataclass(slots=True)
class _Ahead:
    """The page that was prepared while another one committed, or why it could not be."""

    page: ProjectionPage | None = None
    error: BackhaulError | None = None


class RangeTask:
    """One range; ``run`` is its task."""

    def __init__(
        self,
        *,
        journal: Journal,
        feeds: RangeFeeds,
        work: HandlerInvoker,
        slices: SliceRange,
        owner: str,
        holder: RangeHolder,
        settings: ProjectionSettings,
        now_us: Callable[[], int],
        random: Random,
        story: RangeReporter,
        on_commit: OnCommit | None,
    ) -> None:
        self._journal = journal
        self._work = work
        self._handler = handler = work.handler
        self._slices = slices
        self._parked_entities = ParkedEntities(handler, slices) if handler.on_failure is OnFailure.PARK else None
        self._skips = Skips(handler.name)
        self._covered = Covered(journal.projections, handler.name)
        self._pages = Pages(feeds, work, slices, settings, self._parked_entities, self._skips, self._covered, now_us)
        self._owner = owner
        self._holder = holder
        self._settings = settings
        self._now_us = now_us
        self._random = random
        self._story = story
        self._on_commit = on_commit
        self._backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s)
        self._lease = ProjectionLease(handler.name, slices, 0, 0)
        self._renew_at = 0.0
        self._seen_changes = 0
        self._save_at = 0.0
        """When an offset is due that no event's commit has saved."""
        self._fault = (0, 0)
        self._failure: RangeFailure | None = None

    async def run(self) -> None:
        """Take the lease, follow the log, and begin again after whatever ends that; returns when the range is no more."""
        while True:
            try:
                await self._holder.start.make_tables(self._handler)
                await self._hold()
                continue
            except BackhaulError as error:
                if error.code == "projection.ranges_changed":
                    return
                retry_in_s = await self._after(error)
            await trio.sleep(retry_in_s)

    # -- faults --------------------------------------------------------------------------------------------------
    async def _after(self, error: BackhaulError) -> float:
        """Seconds to wait before beginning again."""
        if error.code == "projection.fenced":
            if not self._holder.has_left:
                self._story.fenced(self._lease)
            return self._holder.fenced_wait_s
        is_last_chance = False
        if error.code in PAGE_FAULTS:
            self._pages.narrow()
            is_last_chance = self._has_had_its_chances(error)
        retry_in_s = self._backoff.next_delay(self._random.random(), at_least_s=error.retry_after_s or 0.0)
        self._story.failed(error, self._backoff.failures, retry_in_s)
        await self._store_failure(error)
        if is_last_chance and self._parked_entities is not None:
            self._parked_entities.park_next(self._fault[0], error)
            return 0.0
        if is_last_chance and self._handler.on_failure is OnFailure.SKIP:
            self._skips.add(self._fault[0], error)
            return 0.0
        if is_last_chance:
            try:
                await self._journal.projections.set_paused(self._handler.name, True)
            except BackhaulError:
                return retry_in_s  # the event is tried once more, and then this
            self._story.halted(error)
        return retry_in_s

    async def _store_failure(self, error: BackhaulError) -> None:
        """Let every node see it. What the store refuses now is tried again with the next failure."""
        stored, position = self._lease.failing, error.details.get("from_position")
        if self._failure is None or stored is None or self._failure.since_us != stored.since_us:
            self._failure = stored
        self._failure = next_failure(
            self._failure,
            error.code,
            error.message,
            position if isinstance(position, int) else self._lease.position,
            self._now_us(),
        )
        if is_worth_a_write(stored, self._failure):
            with suppress(BackhaulError):
                self._lease = await self._journal.projections.set_failing(self._lease, self._failure)

    def _has_had_its_chances(self, error: BackhaulError) -> bool:
        """Whether the policy takes over: an event, by itself, failed so often."""
        position = error.details.get("from_position")
        if "persistence_id" not in error.details or not isinstance(position, int):
            return False
        at, times = self._fault
        self._fault = (position, times + 1 if at == position else 1)
        return self._handler.on_failure is not OnFailure.RETRY and self._fault[1] >= self._handler.attempts

    # -- the lease -----------------------------------------------------------------------------------------------
    async def _hold(self) -> None:
        """Run the range for as long as it is ours; returns when it is to be another node's."""
        self._seen_changes = self._holder.changes  # before it: what comes while it is taken is news
        self._lease = await self._holder.acquire((self._handler.name, self._slices), self._story.not_ours)
        is_kept = False
        try:
            async with self._work.life.open():
                await self._follow_from_place()
        except BackhaulError as error:
            is_kept = self._holder.keeps_failing and error.code != "projection.fenced"
            raise
        finally:
            if not is_kept:
                with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True):
                    await self._release()

    async def _release(self) -> None:
        try:
            await self._holder.release(self._lease)
        except BackhaulError as error:
            self._story.release_failed(error)

    # -- the log -------------------------------------------------------------------------------------------------
    async def _follow_from_place(self) -> None:
        found = await self._holder.start.read(self._lease)
        self._story.started(self._lease, self._owner, found.stats)
        self._skips.begin(found.decided.get(self._handler.name, ()), self._lease.position)
        if self._parked_entities is not None:
            await self._parked_entities.load(self._journal.projections)
            if self._parked_entities.entities:
                await self._retry_wanted(self._parked_entities)
        if await self._is_led_to_the_log(found.stats):
            with self._pages.following():
                await self._follow()

    async def _is_led_to_the_log(self, stats: JournalStats) -> bool:
        """Over snapshots and deleted numbers, where there are such; False when the range is to be another node's first."""
        leading, self._covered.through = await leading_of(
            self._journal, self._handler, self._lease, stats.head_position, stats.deleted_through
        )
        if leading is None:
            return True
        self._held(trio.current_time(), self._seen_changes)
        while (page := await leading.next(self._pages.max_events)) is not None:
            if page.events:
                await self._take_leading(page)
            elif self._is_lease_due():
                await self._store(self._lease.position, PreparedEffects())
            self._holder.check(self._lease)
            if self._holder.successor(self._lease) is not None:
                return False
        settled = covered.settle(self._handler.name, self._slices, leading.through)
        await self._store(leading.low, PreparedEffects(), [settled])
        self._covered.through = leading.through
        self._story.led_to_the_log(leading, self._lease)
        return True

    async def _take_leading(self, leading: LeadingPage) -> None:
        """Let snapshots and marks take effect, as a page of the log does."""
        page = await self._pages.prepare_leading(leading, self._lease.position)
        events, failure = page.events, None
        for index, event in enumerate(page.prepared.effects):
            try:
                await self._work.effect(event)
            except BackhaulError as error:
                error.details.update(place_of(events.slice(index, index + 1)))
                failure, events = error, events.slice(0, index)
                break
        if failure is None:
            await self._store_page(page, page.parking)
        elif events:
            await self._store(self._lease.position, PreparedEffects(), [covered.cover(self._handler.name, events)])
        self._committed(events)
        if failure is not None:
            raise failure
        self._reported(page)

    async def _follow(self) -> None:
        idle_s = min(self._settings.poll_s, self._settings.lease_s / 3)
        self._held(trio.current_time(), self._seen_changes)
        page = await self._prepare(self._lease.position)
        while True:
            if page.is_full:
                self._story.behind()
                page = await self._commit_and_prepare(page)
            else:
                is_due = self._is_lease_due() or self._is_offset_due(page.through)
                if page.events or page.parked or page.skipped or is_due:
                    await self._commit(page)
                self._story.at_end_of_log()
                if self._lease.failing is not None:  # it had nothing to commit since
                    self._lease = await self._journal.projections.set_failing(self._lease, None)
                with self._holder.interrupting(self._lease):
                    await self._pages.feed.wait_beyond(page.through, idle_s)
                    await self._let_group_fill(page.through)
                page = await self._prepare(page.through)
            self._holder.check(self._lease)
            if self._holder.successor(self._lease) is not None:
                return

    def _held(self, now_s: float, changes: int) -> None:
        """The lease and the offset are as of now; ``changes`` were known before that was asked."""
        self._seen_changes = changes
        self._renew_at = now_s + self._settings.lease_s / 3
        self._save_at = now_s + self._settings.save_s

    def _is_lease_due(self) -> bool:
        """Whether to commit without events, to renew the lease, or to learn that it is another's."""
        is_time = trio.current_time() >= self._renew_at or self._holder.changes != self._seen_changes
        return self._holder.is_renewing and is_time

    def _is_offset_due(self, through: int) -> bool:
        """Whether to commit without events, to move the offset over what other ranges have."""
        return through > self._lease.position and trio.current_time() >= self._save_at

    async def _let_group_fill(self, after: int) -> None:
        wait_s = min(self._handler.group_wait_s, self._settings.lease_s / 3, self._settings.save_s)
        if wait_s and self._journal.log.head_signal.position > after:
            await self._journal.log.head_signal.wait_above(after + self._pages.group_events - 1, wait_s)

    async def _prepare(self, after: int) -> ProjectionPage:
        return await self._pages.prepare(after, self._lease.ahead)

    async def _commit(self, page: ProjectionPage) -> None:
        passed = self._passed_statements(page.through)
        if page.prepared.effects:
            events = await self._let_effects_happen(page)
            await self._store_page(page, passed)
        else:
            events = page.events
            await self._store_page(page, [*passed, *page.parking])
        if passed:
            self._covered.through = 0
        self._committed(events)
        self._reported(page)

    def _passed_statements(self, through: int) -> Sequence[Statement]:
        """For the commit with which the range has passed all that the log has of covered numbers."""
        is_past = 0 < self._covered.through <= through
        return covered.forget(self._handler.name, self._slices) if is_past else ()

    async def _store_page(self, page: ProjectionPage, more: Sequence[Statement]) -> None:
        try:
            await self._store(page.through, page.prepared, more)
        except BackhaulError as error:
            if error.code in PAGE_FAULTS and page.events and "from_position" not in error.details:
                error.details.update(place_of(page.events))
            raise

    def _reported(self, page: ProjectionPage) -> None:
        """A page is done: it counts as progress."""
        if page.parked:
            self._story.parked(page.parked, page.parking[-1:])
        if page.skipped:
            self._story.skipped(page.skipped, self._skips.found)
        if page.events or page.parked or page.skipped:
            self._backoff.progressed()
            self._pages.widen()

    def _committed(self, events: EventBatch) -> None:
        self._story.committed(self._lease, events)
        if self._on_commit is not None and events:
            self._on_commit(self._story.progress, events)

    async def _store(self, through: int, prepared: PreparedEffects, more: Sequence[Statement] = ()) -> None:
        """Commit, and hold the range with what came of it."""
        lease_s, in_transaction = self._settings.lease_s, prepared.in_transaction
        began_s, changes = trio.current_time(), self._holder.changes
        if in_transaction is None:
            self._lease = await self._journal.projections.commit(
                self._lease, through, [*prepared.statements, *more], lease_s
            )
        else:
            self._lease = await self._journal.projections.commit_in_transaction(
                self._lease, through, in_transaction, [*prepared.statements, *more], lease_s
            )
        stored_s = trio.current_time()
        self._story.progress.commit_latency.add(stored_s - began_s)
        self._held(stored_s, changes)

    async def _let_effects_happen(self, page: ProjectionPage) -> EventBatch:
        """One event after the other; what is done is kept in time, and before the fault of one that follows.

        Returns the events whose offset is not saved yet.
        """
        events, kept = page.events, 0
        if page.parking:
            await self._store(self._lease.position, PreparedEffects(), page.parking)
        for index, event in enumerate(page.prepared.effects):
            error: BackhaulError | None = None
            try:
                await self._work.effect(event)
            except BackhaulError as fault:
                error = fault
                error.details.update(place_of(events.slice(index, index + 1)))
            done = index if error else index + 1
            if kept < done and (error or self._is_lease_due() or trio.current_time() >= self._save_at):
                await self._store(events.position[done - 1], PreparedEffects())
                self._committed(events.slice(kept, done))
                kept = done
            if error:
                raise error
        return events.slice(kept, len(events))

    async def _commit_and_prepare(self, page: ProjectionPage) -> ProjectionPage:
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
            ahead.page = await self._prepare(after)
        except BackhaulError as error:
            ahead.error = error

    # -- parked events ---------------------------------------------------------------------------------------------
    async def _retry_wanted(self, parked_entities: ParkedEntities) -> None:
        """Try again what an operator wants tried, an entity's events in order, each in a commit of its own."""
        name = self._handler.name
        for persistence_id in await parking.wanted_entities(self._journal.projections, name, self._slices):
            stored = 0
            while True:
                event, is_snapshot = await parking.first_parked(self._journal.projections, name, persistence_id)
                if not event:
                    parked_entities.entities.pop(persistence_id, None)
                    self._story.unparked(persistence_id, stored)
                    break
                try:
                    await self._take_parked(event, EventFlags(replaces=[0]) if is_snapshot else NO_MARKS)
                except BackhaulError as error:
                    if error.code not in PAGE_FAULTS:
                        raise
                    statements = parking.failed_again(name, persistence_id, event.position[0], error)
                    await self._store(self._lease.position, PreparedEffects(statements))
                    self._story.parked_again(event, error)
                    break
                stored += 1

    async def _take_parked(self, event: EventBatch, flags: EventFlags) -> None:
        prepared = await self._work.prepare(event, flags)
        for one in prepared.effects:
            await self._work.effect(one)
        await self._store(self._lease.position, prepared, [parking.done(self._handler.name, event.position[0])])
