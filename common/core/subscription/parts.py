"""A delivery in parts: each is whole in itself, because the line may end and the filter change behind any of them.

A consumer takes the ranges of a message before its events, and its place then vouches for the positions up to
``through``. What it knows from beyond them would be dropped as a repeat when it comes: selected by the next filter, or
given anew by a source that has lost what it was. So what is withheld is stated with the part in which its entity has its
next event. What is gone is stated with the first part, for the range may lie there and is not found again behind it; no
filter can want it, and ``reached`` tells a source that has lost it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from common.core.events.stated_range import StatedRange
from common.core.subscription.messages import Deliver
from common.core.subscription.replay import WITHHELD


def halves(message: Deliver) -> tuple[Deliver, Deliver]:
    """A message of two or more events, on a lane that has a place, as two that follow each other."""
    events, middle = message.events, len(message.events) // 2
    through = message.after if middle <= message.snapshots else events.position[middle - 1]
    leaving = tuple(position for position in message.leaving if position <= through)
    named = frozenset(events.persistence_id[:middle])
    ranges = tuple(one for one in message.ranges if one.reason != WITHHELD or one.persistence_id in named)
    first = replace(
        message,
        through=through,
        timestamp_us=0,
        digest="",
        events=events.slice(0, middle),
        ranges=ranges,
        leaving=leaving,
        snapshots=min(message.snapshots, middle),
        reached=reached_by_part(message, ranges),
    )
    rest = replace(
        message,
        after=through,
        events=events.slice(middle, len(events)),
        ranges=tuple(one for one in message.ranges if one.reason == WITHHELD and one.persistence_id not in named),
        leaving=message.leaving[len(leaving) :],
        snapshots=max(0, message.snapshots - middle),
    )
    return first, rest


def reached_by_part(message: Deliver, ranges: Iterable[StatedRange]) -> int:
    """``reached`` of a part of ``message`` that has these of its ranges and ends before it."""
    is_gone_stated = any(one.reason != WITHHELD for one in ranges)
    return max(message.reached, message.through) if is_gone_stated else message.reached
