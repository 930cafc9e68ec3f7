"""The sending end of a push stream as a pure machine: what may be sent, what an answer means, what is a broken promise.

The producer (edge) sends its journal from the position the endpoint (cloud, ``core.push.receiver``) names, lane by lane
(``core.push.filter_transition``), keeps to the window, and takes acks. It reads no clock, stream or store: the shell in
``common.transport`` does.

    state      on                                    does                                  goes to
    ---------  ------------------------------------  ------------------------------------  ---------
    (Start)    same event at the stored position     resume there                          LIVE, or BACKFILL if one is begun
    (Start)    less stored than was acknowledged     PEER_LOST_HISTORY: push again          LIVE
    (Start)    another event, journal or head        ``push.history_mismatch``              ended
    LIVE       room in the window                    send after ``position``               LIVE
    LIVE       another filter wanted, none in flight PushFilterApplied at ``position``     BACKFILL (or LIVE: nothing below)
    BACKFILL   room in the window                    send up to the change position        BACKFILL
    BACKFILL   ack of the change position            the new filter is the applied one     LIVE
    any        an entity comes in                    ask what is known of it, send its     same
                                                     past, then what was to be sent
    any        ack within what was sent              free the window                       same
    any        ack of less or more than was sent     ``link.protocol``                     ended
    any        Drain                                 send nothing more, await acks         draining
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import Enum, auto

from common.core.errors import BackhaulError
from common.core.events.batch import Envelope
from common.core.filters.past import Past
from common.core.flow.window import AdaptiveWindow
from common.core.journal.append import PushLane
from common.core.journal.history import History, Offset
from common.core.push.filter_transition import EVERYTHING, FilterTransition, PushFilterApplied
from common.core.push.messages import Ack, PushBatch, PushLimits, Start


class StartVerdict(Enum):
    """What the producer makes of the place that the cloud names."""

    GO_ON = auto()
    PEER_LOST_HISTORY = auto()
    """The endpoint has less than it once acknowledged: what is still kept here is pushed again."""


def check_start(start: Start, history: History, acked: Offset | None, at_stored: Envelope | None) -> StartVerdict:
    """Compare the endpoint's last stored event with the producer's own log, before anything is sent or trimmed.

    ``at_stored`` is the own event at that position (None when it was deleted or is position 0); ``acked`` the last
    acknowledged place this side remembers.

    Raises:
        BackhaulError: ``push.history_mismatch`` when the two logs cannot be copies of one.
    """
    stored = start.stored
    same_event = (
        at_stored is None
        or not stored.timestamp_us
        or (
            (at_stored.timestamp_us, at_stored.persistence_id, at_stored.seq_nr)
            == (stored.timestamp_us, stored.persistence_id, stored.seq_nr)
        )
    )
    if stored.journal_id != history.journal_id or stored.position > history.head_position or not same_event:
        raise BackhaulError(
            "push.history_mismatch",
            f"the cloud's last event of this journal (position {stored.position}) is not the one in this journal",
            "two services may be using one edge id or a copied journal: give each its own id and file",
            details={"position": stored.position, "head": history.head_position},
        )
    if acked and acked.journal_id == history.journal_id and stored.position < acked.position:
        return StartVerdict.PEER_LOST_HISTORY
    return StartVerdict.GO_ON


class Producer:
    """The sending end after Start. ``position`` is how far was sent, ``acked`` how far is durable over there.

    Those two are the live lane's. Live or backfill is served at a time, and the other only when all of the one is
    acknowledged; batches of the past lane go between those of either. Acks come in the order in which batches were sent.
    """

    def __init__(
        self,
        start: Start,
        limits: PushLimits,
        *,
        batches_max: int,
        ack_target_s: float,
        own_filter: str = EVERYTHING,
        own_past: Past = Past.FULL,
    ) -> None:
        theirs = start.limits
        self._batch_bytes = min(limits.batch_bytes, theirs.batch_bytes)
        self.message_bytes = min(limits.window_bytes, theirs.window_bytes)
        """A message that is larger is to be cut, if it can be."""
        self.window = AdaptiveWindow(
            batches_max=batches_max,
            events_max=min(limits.window_events, theirs.window_events),
            bytes_max=min(limits.window_bytes, theirs.window_bytes),
            ack_target_s=ack_target_s,
        )
        self.position = start.stored.position
        self.acked = start.stored.position
        self.draining = False
        self.lanes = FilterTransition(start.place, replace(start.requested, producer=own_filter), own_past)
        self._backfill_sent = start.place.backfill_position
        self.past_sent = 0
        """Batches of the past lane that this stream has sent."""
        self._past_acked = 0
        self._unacked: deque[tuple[PushLane, int]] = deque()
        self._sent_batches = self._acked_batches = 0
        self._change_is_sent = False

    @property
    def progress(self) -> tuple[int, ...]:
        """What is acknowledged, and of which change: differs whenever something has moved."""
        place = self.lanes.place
        return (self.acked, place.change_position, place.backfill_position, self._past_acked)

    @property
    def cursor(self) -> int:
        """Where the lane that is served goes on."""
        return self.position if self.lanes.lane is PushLane.LIVE else self._backfill_sent

    @property
    def bound(self) -> int | None:
        """Where the lane that is served ends; None when it goes on with the log."""
        return None if self.lanes.lane is PushLane.LIVE else self.lanes.place.change_position

    def change_filter(self) -> PushFilterApplied | None:
        """What to tell about a change of filter that begins now; None when there is none, or while something is in flight.

        It is acknowledged as its backfill lane's beginning (or end, when there is nothing to backfill).
        """
        if self.draining or not self.lanes.is_change_wanted or self._change_is_sent or not self.window.is_empty:
            return None
        self._change_is_sent = True
        applied = self.lanes.change(self.position)
        self._backfill_sent = self.lanes.place.backfill_position
        return applied

    def room_bytes(self) -> int:
        """Size of the batch that may be sent now; 0 = wait for an ack."""
        if self.lanes.is_change_wanted or self.cursor == self.bound:
            return 0  # the other lane is next, when everything is acknowledged
        return 0 if self.draining else self.window.room_for(self._batch_bytes)

    def sent(self, batch: PushBatch, weight: int, now_s: float) -> None:
        """The batch was handed to the line."""
        self._sent_batches += 1
        self._unacked.append((batch.lane, batch.through_position))
        self.window.sent(self._sent_batches, len(batch.events), weight, now_s)
        if batch.lane is PushLane.LIVE:
            self.position = batch.through_position
        elif batch.lane is PushLane.BACKFILL:
            self._backfill_sent = batch.through_position
        else:
            self.past_sent = batch.through_position

    def ack(self, ack: Ack, now_s: float) -> float | None:
        """Take an acknowledgement; returns the age in seconds of what it settles (None when it is a repeat).

        Raises:
            BackhaulError: ``link.protocol`` when it acknowledges what was not sent, less than before, or names more parked events
                than it acknowledges positions.
        """
        is_past = ack.lane is PushLane.PAST
        acked, sent = {
            PushLane.LIVE: (self.acked, self.position),
            PushLane.BACKFILL: (self.lanes.place.backfill_position, self._backfill_sent),
            PushLane.PAST: (self._past_acked, self.past_sent),
        }[ack.lane]
        if not acked <= ack.position <= sent:
            raise BackhaulError(
                "link.protocol",
                f"ack of {ack.lane.value} position {ack.position} while {acked} to {sent} may be acknowledged",
                "this is a fault of the peer: report it",
            )
        parked_max = self.window.in_flight_events if is_past else ack.position - acked
        if len(ack.parked) > parked_max:
            raise BackhaulError(
                "link.protocol",
                f"ack of {parked_max} events names {len(ack.parked)} parked ones",
                "this is a fault of the peer: report it",
            )
        if is_past:
            self._past_acked = ack.position
        elif ack.lane is PushLane.LIVE:
            self.acked = ack.position
        else:
            self._change_is_sent = False
            self.lanes.backfilled(ack.position)
        return self.window.acked(self._settled(ack), now_s)

    def _settled(self, ack: Ack) -> int:
        """How many batches are acknowledged: all up to the last one of the ack's lane that it covers."""
        unacked, covered = self._unacked, 0
        for count, (lane, through) in enumerate(unacked, start=1):
            if lane is ack.lane:
                if through > ack.position:
                    break
                covered = count
        for _ in range(covered):
            unacked.popleft()
        self._acked_batches += covered
        return self._acked_batches
