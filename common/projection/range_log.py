"""The log of a projection's range: each change of its state, with the log line that says why.

The names of the lines and what to do about each are in ``docs/logs.md``. Payloads are never logged, nor what a handler
said when it raised, since that may quote one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.journal.slice_load import SliceLoad
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.stores.log import JournalStats
from common.journal.stores.projections import ProjectionLease, ProjectionRow
from common.projection.beginning.leading import Leading
from common.projection.progress import ProjectionProgress, ProjectionState
from common.projection.status import Lag, measure_lag

# A range that is behind for less may only have been started.
_HOT_LAG_S = 5.0


class RangeReporter:
    """The progress of one range and its log. Only the range's own task calls this, but for ``summarise``."""

    def __init__(self, progress: ProjectionProgress) -> None:
        self.progress = progress
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            projection=progress.name, slices=str(progress.slices)
        )
        # Repeats are rate limited; ranges do not silence each other.
        self._key = f"{progress.name} {progress.slices}"
        self._has_caught_up = False
        self._known_holder: tuple[str, int] | None = None
        self._load = SliceLoad()

    def not_ours(self, row: ProjectionRow, names_holder: bool) -> None:
        """The range is paused, or another node holds it."""
        self.progress.position, self.progress.epoch = row.position, row.epoch
        if row.paused:
            if self.progress.state is not ProjectionState.PAUSED:
                self._log.info("projection.paused", position=row.position, epoch=row.epoch)
            self.progress.state = ProjectionState.PAUSED
            return
        self.progress.state = ProjectionState.WAITING
        if names_holder and row.owner and self._known_holder != (row.owner, row.epoch):
            self._known_holder = (row.owner, row.epoch)
            self._log.info(
                "projection.waiting",
                holder=row.owner,
                lease_left_s=round(row.lease_left_s, 1),
                position=row.position,
                epoch=row.epoch,
            )

    def started(self, lease: ProjectionLease, owner: str, stats: JournalStats) -> None:
        """The range is ours."""
        self.progress.state = ProjectionState.BEHIND
        self.progress.position, self.progress.epoch = lease.position, lease.epoch
        self._has_caught_up = False
        self._known_holder = None
        self._log.info(
            "projection.started",
            position=lease.position,
            head=stats.head_position,
            epoch=lease.epoch,
            owner=owner,
            repeat_key=self._key,
        )

    def led_to_the_log(self, leading: Leading, lease: ProjectionLease) -> None:
        """What the range does not read from the log was dealt with."""
        self.progress.position = lease.position
        if leading.snapshots or leading.takes_all:
            self._log.info(
                "projection.took_snapshots",
                snapshots=leading.snapshots,
                position=lease.position,
                through=leading.through,
                repeat_key=self._key,
            )
        if leading.marks or leading.first_passed is not None:
            first = leading.first_passed
            self._log.warning(
                "projection.trimmed",
                deleted_through=leading.deleted_through,
                marks=leading.marks,
                passed=leading.passed,
                persistence_id=first.persistence_id if first else "",
                deleted_to=first.to_seq_nr if first else 0,
                repeat_key=self._key,
            )

    def behind(self) -> None:
        """There is more than a page to do."""
        self.progress.state = ProjectionState.BEHIND

    def committed(self, lease: ProjectionLease, events: EventBatch) -> None:
        """Another stretch of the log has taken effect, with or without events of this range."""
        self.progress.position = lease.position
        if events:
            self.progress.events += len(events)
            self.progress.commits += 1
            if self.progress.state is ProjectionState.BEHIND:
                self._load.add(events.persistence_id)

    def at_end_of_log(self) -> None:
        """Nothing is left to do for now."""
        self.progress.state = ProjectionState.LIVE
        self.progress.error_code = self.progress.error = ""
        self.progress.fault = None
        if not self._has_caught_up:
            self._has_caught_up = True
            self._log.info(
                "projection.caught_up",
                position=self.progress.position,
                events=self.progress.events,
                repeat_key=self._key,
            )

    def fenced(self, lease: ProjectionLease) -> None:
        """A commit was refused: the lease is no longer ours, and nothing was written."""
        self.progress.state = ProjectionState.WAITING
        self._log.warning("projection.fenced", position=lease.position, epoch=lease.epoch, repeat_key=self._key)

    def failed(self, error: BackhaulError, failures_in_a_row: int, retry_in_s: float) -> None:
        """Something else went wrong; nothing was written, and it is tried again."""
        self.progress.state = ProjectionState.FAILING
        self.progress.failures += 1
        self.progress.error_code, self.progress.error, self.progress.fault = error.code, error.message, error
        self._log.error(
            "projection.failed",
            code=error.code,
            reason=error.message,
            hint=error.hint,
            details=error.details,
            position=self.progress.position,
            failures_in_a_row=failures_in_a_row,
            retry_in_s=round(retry_in_s, 2),
            repeat_key=f"{self._key} {error.code} {self.progress.position}",
        )

    def halted(self, error: BackhaulError) -> None:
        """The policy for an event that keeps failing has paused the projection."""
        self._log.error("projection.halted", code=error.code, reason=error.message, details=error.details)

    def parked(self, events: EventBatch, statements: Sequence[Statement]) -> None:
        """Events were set aside: the first of each entity with the reason, those behind it by number only."""
        about = [row for statement in statements for row in statement.rows]
        for index, row in enumerate(about):
            self._log.warning(
                "projection.parked",
                persistence_id=events.persistence_id[index],
                seq_nr=events.seq_nr[index],
                position=events.position[index],
                code=row[2],
                reason=row[3],
                repeat_key=f"{self._key} {events.persistence_id[index]} {row[2]}",
            )

    def skipped(self, events: EventBatch, why: Mapping[int, tuple[str, str]]) -> None:
        """Events were left out for good."""
        self.progress.skipped += len(events)
        for index, position in enumerate(events.position):
            self._log.warning(
                "projection.skipped",
                persistence_id=events.persistence_id[index],
                seq_nr=events.seq_nr[index],
                position=position,
                code=why[position][0],
                reason=why[position][1],
                repeat_key=f"{self._key} {position}",
            )

    def parked_again(self, event: EventBatch, error: BackhaulError) -> None:
        """A parked event was tried again, as an operator wished, and failed again."""
        self._log.warning(
            "projection.parked_again",
            persistence_id=event.persistence_id[0],
            seq_nr=event.seq_nr[0],
            position=event.position[0],
            code=error.code,
            reason=error.message,
        )

    def unparked(self, persistence_id: str, events: int) -> None:
        """All parked events of an entity have taken effect; what follows goes its normal way."""
        self._log.info("projection.unparked", persistence_id=persistence_id, events=events)

    def release_failed(self, error: BackhaulError) -> None:
        """The lease could not be given back; it lapses by itself."""
        self._log.info("projection.release_failed", code=error.code, reason=error.message, repeat_key=self._key)

    def stopped(self) -> None:
        """This process no longer runs the range."""
        self._log.info("projection.stopped", position=self.progress.position, state=self.progress.state.value)

    async def summarise(self, journal: Journal, interval_s: float, now_us: Callable[[], int]) -> NoReturn:
        """Log where the range is every ``interval_s``, unless another owner has it and logs it."""
        progress = self.progress
        events_before = progress.events
        while True:
            await trio.sleep(interval_s)
            events, events_before = progress.events - events_before, progress.events
            if progress.state is ProjectionState.WAITING:
                continue
            try:
                lag = await measure_lag(journal, progress.position, progress.slices, now_us())
            except BackhaulError:
                continue  # the range meets the same error and logs it
            self._log.info(
                "projection.summary",
                state=progress.state.value,
                position=progress.position,
                head=lag.head,
                lag_events=lag.events,
                lag_s=round(lag.seconds, 3),
                events_per_s=round(events / interval_s, 1),
                failures=progress.failures,
                error_code=progress.error_code,
            )
            self._say_what_is_hot(lag)

    def _say_what_is_hot(self, lag: Lag) -> None:
        """A range that does not keep up because of one slice is not helped by more ranges."""
        hot = self._load.take()
        if hot is not None and lag.seconds >= _HOT_LAG_S:
            self._log.warning(
                "projection.hot_slice",
                slice=hot.slice,
                events=hot.events,
                of_events=hot.of_events,
                persistence_id=hot.persistence_id,
                entity_events=hot.entity_events,
                lag_s=round(lag.seconds, 3),
                repeat_key=self._key,
            )
