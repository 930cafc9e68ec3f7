"""The source's end of a subscription as a pure machine: what each lane may send, and what the consumer's words mean.

``place`` is the consumer's place as it will be when it has dealt with everything sent so far; the shell asks what is to
be done, reads logs and snapshots, and hands what it found to ``deliver``. Nothing is known here of events: which of
them a lane selects is the predicates' business, in what order a consumer takes them ``core.subscription.consumer``'s.

A change of filters: *live* goes on with what both filters let through, *backfill* starts at the beginning with what
only the new one does, and when it is where live is, the new filter is the applied one. So that this ends under load,
live waits for backfill when it is near (``holds_live``).

    lane      begins                          sends                                    ends
    --------  ------------------------------  ---------------------------------------  ---------------------------------
    live      with the stream                 what the applied (and next) filter       with the stream
                                              selects, after its position
    backfill  a filter is asked for           what only the next filter selects, up    at live's position: FilterApplied,
                                              to live's position                       next becomes applied
    replay    the consumer's Replay           one entity, from a number up to live's   replay_done; a change of filter
                                              position                                 sends it back to what it sent last
"""

from __future__ import annotations

from dataclasses import replace

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import persistence_id_problem
from common.core.events.stated_range import StatedRange
from common.core.filters.predicates import EntityPredicate
from common.core.flow.window import AdaptiveWindow
from common.core.subscription.messages import (
    BackfillDone,
    ConsumerAck,
    DeliveryLane,
    FilterApplied,
    FilterUpdate,
    Replay,
    StreamLimits,
)
from common.core.subscription.place import FilterState, LogCursor, ResumePoint, SnapshotScan
from common.core.subscription.replay import WITHHELD, QueuedReplay
from common.core.subscription.replay_queue import ReplayQueue

MEET_WITHIN = 1_000
UPDATES_AT_ONCE = 30
UPDATES_PER_S = 3.0
_MESSAGE_OVERHEAD_BYTES = 256
_BATCHES_MAX = 256


class Serving:
    """One consumer's session. Times in seconds."""

    def __init__(
        self,
        place: ResumePoint,
        requested: FilterState,
        limits: StreamLimits,
        *,
        ack_target_s: float,
        now_s: float,
        wall: str = "",
    ) -> None:
        self._wall = wall
        self._place = place
        self._moved: tuple[int, str, int, SnapshotScan | None] | None = None
        self._live_position = place.live.position
        self.limits = limits
        self.deliveries = 0
        self.acked = 0
        self.window = AdaptiveWindow(
            batches_max=_BATCHES_MAX,
            events_max=_BATCHES_MAX * limits.batch_events,
            bytes_max=limits.window_bytes,
            ack_target_s=ack_target_s,
        )
        newest = place.next or place.applied
        is_other = requested.version != newest.version or wall != newest.wall
        self.pending: FilterState | None = replace(requested, wall=wall) if is_other else None
        self._updates_left = float(UPDATES_AT_ONCE)
        self._updated_s = now_s
        self._replays = ReplayQueue()

    @property
    def place(self) -> ResumePoint:
        """Where the consumer is after everything sent so far. Put together when asked for: most moves nobody looks at."""
        if self._moved is not None:
            self._place, self._moved = replace(self._place, live=LogCursor(*self._moved)), None
        return self._place

    # -- what to send ----------------------------------------------------------------------------------------------
    def room_bytes(self) -> int:
        """Size of what may be sent now; 0 = wait for an ack."""
        return self.window.room_for(self.limits.batch_bytes)

    def admits(self, size: int) -> bool:
        """Whether a message of this size may go now: beside what is in flight, or alone.

        Lanes look for room before they read, so several may have found the same: the sender checks again.
        """
        return self.window.admits(size + _MESSAGE_OVERHEAD_BYTES)

    @property
    def holds_live(self) -> bool:
        """Whether live waits, so that backfill can meet it."""
        backfill = self._place.backfill
        if backfill is None or backfill.scan is not None:
            return False
        return self.place.live.position - backfill.position <= MEET_WITHIN and not self.has_met

    @property
    def has_met(self) -> bool:
        """Whether backfill is where live is, so that the change can end."""
        backfill = self._place.backfill
        return backfill is not None and backfill.scan is None and backfill.position >= self.place.live.position

    @property
    def wants_change(self) -> bool:
        """Whether the next change can begin."""
        return self.pending is not None and self.place.next is None and self.place.live.scan is None

    @property
    def next_replay(self) -> QueuedReplay | None:
        """Whose events are to be sent again."""
        return self._replays.first

    def next_replays(self, count: int) -> list[QueuedReplay]:
        """The same, with those behind it."""
        return self._replays.next(count)

    def ranges_to_state(self, lane: DeliveryLane, ranges: tuple[StatedRange, ...]) -> tuple[StatedRange, ...]:
        """What of a stretch's ranges may be said on a lane.

        While a change runs, live does not say that the numbers before an entering event are withheld: backfill may be about
        to bring some of them. The consumer sees a gap and has the entity replayed instead.
        """
        if lane is DeliveryLane.LIVE and self.place.next is not None:
            return tuple(stated for stated in ranges if stated.reason != WITHHELD)
        return ranges

    def leaving_to_tell(self, events: EventBatch, leaving: tuple[int, ...], wanted: EntityPredicate) -> tuple[int, ...]:
        """Positions of the events that take their entity out of the filter, not only out of a lane of a change."""
        if not leaving or self.place.next is None:
            return leaving
        at = {position: index for index, position in enumerate(events.position)}
        return tuple(
            position
            for position in leaving
            if not wanted.matches(events.persistence_id[at[position]], events.tags[at[position]])
        )

    @property
    def states_first(self) -> bool:
        """Whether numbers that the filter wants entities from are still to be stated: no lane goes on before."""
        return self._replays.has_starts

    def is_start(self, replay: QueuedReplay) -> bool:
        """Whether the filter wants the entity from a number on, and the next page is to state those below."""
        return self._replays.is_start(replay)

    # -- what was sent ---------------------------------------------------------------------------------------------
    def move(
        self,
        lane: DeliveryLane,
        through: int,
        *,
        digest: str = "",
        timestamp_us: int = 0,
        scan: SnapshotScan | None = None,
    ) -> int:
        """A lane goes on to ``through``; answers the position it was at."""
        if lane is DeliveryLane.LIVE:
            after, self._live_position = self._live_position, through
            assert after <= through
            self._moved = (through, digest, timestamp_us, scan)
            return after
        place, cursor = self.place, LogCursor(through, digest, timestamp_us, scan)
        assert place.backfill is not None
        assert place.backfill.position <= through <= place.live.position
        self._place = replace(place, backfill=cursor)
        return place.backfill.position

    def sent(self, events: int, size: int, now_s: float) -> None:
        """A delivery of so many events and bytes is handed to the line."""
        self.deliveries += 1
        self.window.sent(self.deliveries, events, size + _MESSAGE_OVERHEAD_BYTES, now_s)

    def begin_change(self, begin: LogCursor | None) -> FilterApplied:
        """The pending filter's turn has come. ``begin`` is where its backfill starts, None when it lets through no more."""
        assert self.wants_change
        assert self.pending is not None
        following, self.pending = self.pending, None
        self._replays.filter_changes()
        position = self.place.live.position
        if begin is None:
            self._place = replace(self.place, applied=following)
        else:
            self._place = replace(self.place, next=following, backfill=begin, change_position=position)
        return FilterApplied(following.version, position, begin, following.wall)

    def end_change(self) -> BackfillDone:
        """Backfill has met live: the next filter is the applied one."""
        assert self.has_met
        following = self.place.next
        assert following is not None
        self._place = replace(self.place, applied=following, next=None, backfill=None)
        return BackfillDone(following.version, self.place.live.position)

    def replay_goes_on(self, rest: QueuedReplay) -> None:
        """A page of the first replay was sent: the rest follows after the others had a turn."""
        self._replays.goes_on(rest)

    def replay_ends(self) -> None:
        """The first replay was sent whole."""
        self._replays.ends()

    # -- what the consumer says ------------------------------------------------------------------------------------
    def ack(self, ack: ConsumerAck, now_s: float) -> float | None:
        """Take an ack; the age in seconds of what it settles (None when it settles nothing).

        Raises:
            BackhaulError: ``link.protocol`` when it acknowledges what was not sent, or less than before.
        """
        if not self.acked <= ack.deliveries <= self.deliveries:
            raise _broken(
                f"ack of {ack.deliveries} deliveries while {self.acked} to {self.deliveries} may be acknowledged"
            )
        self.acked = ack.deliveries
        return self.window.acked(ack.deliveries, now_s)

    def ask_filter(self, update: FilterUpdate, now_s: float) -> None:
        """Another filter is wanted: it takes the place of one that waits.

        Raises:
            BackhaulError: ``subscription.too_many_updates``; ``link.protocol`` for a version that is not a new one.
        """
        passed_s, self._updated_s = now_s - self._updated_s, now_s
        self._updates_left = min(UPDATES_AT_ONCE, self._updates_left + passed_s * UPDATES_PER_S) - 1
        if self._updates_left < 0:
            raise BackhaulError(
                "subscription.too_many_updates",
                f"more than {UPDATES_AT_ONCE} filter updates at once, and {UPDATES_PER_S:g} a second after that",
                "send one list of criteria instead of many",
                kind=ErrorKind.FULL,
                retry_after_s=10.0,
            )
        newest = self.pending or self.place.next or self.place.applied
        if update.version <= newest.version:
            raise _broken(f"filter version {update.version} after {newest.version}")
        self.pending = FilterState(update.version, update.criteria, self._wall)

    def ask_replay(self, wanted: Replay) -> None:
        """Events of an entity are missing at the consumer.

        Raises:
            BackhaulError: ``subscription.too_many_replays`` beyond what Subscribed allowed; ``link.protocol``.
        """
        if wanted.from_seq_nr < 1 or persistence_id_problem(wanted.persistence_id):
            raise _broken("a replay of no entity, or from before its first event")
        self._replays.ask(wanted)

    def state_start(self, persistence_id: str, from_seq_nr: int) -> None:
        """The applied or next filter wants an entity from a number on: that is stated though nobody asks."""
        self._replays.state_start(persistence_id, from_seq_nr)


def _broken(what: str) -> BackhaulError:
    return BackhaulError("link.protocol", what, "speak the steps of protos/backhaul/v1/subscribe.proto")
