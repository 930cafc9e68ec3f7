"""A delivery of which an application's function withholds events: cut so that every number is led over in its order.

A consumer takes the ranges of a delivery before its events. What is withheld after an event of the same entity must
therefore come in another delivery; all else stays together. The place moves as if nothing had been withheld, and the
message's own ranges go as ``core.subscription.parts`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.parts import reached_by_part
from common.core.subscription.replay import WITHHELD


def served_parts(message: Deliver, serve: Callable[[EventBatch], EventBatch]) -> list[Deliver]:
    """``message`` with its events as ``serve`` returns them: some may be missing, the others are in the same order."""
    given = message.events
    kept = serve(given)
    if len(kept) == len(given):
        return [replace(message, events=kept)]
    parts: list[Deliver] = []
    begin, taken, after, snapshots = 0, 0, message.after, 0
    ranges: list[StatedRange] = []
    names, entering = frozenset(given.persistence_id), dict[str, StatedRange]()
    for stated in message.ranges:
        if stated.reason == WITHHELD and stated.persistence_id in names:
            entering[stated.persistence_id] = stated
        else:
            ranges.append(stated)
    seen: set[str] = set()

    def part(through: int) -> Deliver:
        events = kept.slice(begin, taken)
        here = set(events.position)
        leaving = tuple(position for position in message.leaving if position in here)
        return replace(
            message,
            after=after,
            through=through,
            events=events,
            ranges=tuple(ranges),
            leaving=leaving,
            snapshots=snapshots,
        )

    for index, (name, seq_nr) in enumerate(zip(given.persistence_id, given.seq_nr, strict=True)):
        is_snapshot = index < message.snapshots
        if name in entering:
            ranges.append(entering.pop(name))
        if taken < len(kept) and kept.seq_nr[taken] == seq_nr and kept.persistence_id[taken] == name:
            seen.add(name)
            taken += 1
            snapshots += is_snapshot
            continue
        if name in seen:
            # Snapshots may have any position: only events of the log move the place.
            is_in_log = message.lane is not DeliveryLane.REPLAY and index > message.snapshots
            through = given.position[index - 1] if is_in_log else after
            through = message.through if message.lane is DeliveryLane.REPLAY else through
            reached = reached_by_part(message, ranges)
            parts.append(replace(part(through), timestamp_us=0, digest="", reached=reached))
            begin, after, snapshots = taken, message.after if message.lane is DeliveryLane.REPLAY else through, 0
            ranges, seen = [], set()
        ranges.append(StatedRange(name, 1 if is_snapshot else seq_nr, seq_nr, WITHHELD))
    parts.append(part(message.through))
    return parts
