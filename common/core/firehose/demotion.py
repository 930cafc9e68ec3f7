"""How a subscriber that is too slow for the ring is treated: where it is served from, and when it may come back.

It starts behind and joins the ring once it is level with it. One that falls out again was too slow: it is demoted, and
the first time it may rejoin as soon as it has caught up. One that is demoted over and over would only cost the ring
work, so it stays on the journal for a time that doubles with each demotion, and is forgiven after a while at the tail.

    CATCHING_UP ── level ──> TAIL ── fell out ──> DEMOTED ── level, may join ──> TAIL
                              └── sent back ──> CATCHING_UP
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SubscriberTier(StrEnum):
    """Where a cursor is served from."""

    TAIL = "tail"
    """From memory, as events come."""
    CATCHING_UP = "catching_up"
    """From the journal, until it is near the head."""
    DEMOTED = "demoted"
    """From the journal, because it was too slow for the memory."""


@dataclass(frozen=True, slots=True)
class DemotionRule:
    """Seconds: what the second demotion in a row costs, the most that any does, and what at the tail is forgiveness."""

    first_s: float = 1.0
    most_s: float = 60.0
    forgiven_after_s: float = 60.0


class DemotionHistory:
    """One subscriber's standing and its demotions. Times in seconds of the caller's clock."""

    def __init__(self, rule: DemotionRule) -> None:
        self._rule = rule
        self._in_a_row = 0
        self._since_s = 0.0
        self._stays_until_s = 0.0
        self.standing = SubscriberTier.CATCHING_UP
        self.demotions = 0
        self.stays_s = 0.0

    def may_join(self, now_s: float) -> bool:
        """Whether it may be served from the ring once it is level with it."""
        return now_s >= self._stays_until_s

    def joined(self, now_s: float) -> None:
        """It is served from the ring now."""
        self.standing = SubscriberTier.TAIL
        self._since_s = now_s

    def sent_back(self) -> None:
        """It is behind again through no fault of its own: the ring began anew, or it selects something else."""
        if self.standing is SubscriberTier.TAIL:
            self.standing = SubscriberTier.CATCHING_UP

    def fell_out(self, now_s: float) -> None:
        """The ring has gone past it: demoted. ``stays_s`` is then for how long it stays on the journal at least."""
        assert self.standing is SubscriberTier.TAIL, self.standing
        if now_s - self._since_s >= self._rule.forgiven_after_s:
            self._in_a_row = 0
        self._in_a_row += 1
        self.stays_s = 0.0
        if self._in_a_row > 1:
            self.stays_s = min(self._rule.most_s, self._rule.first_s * 2.0 ** min(self._in_a_row - 2, 60))
        self.standing = SubscriberTier.DEMOTED
        self.demotions += 1
        self._stays_until_s = now_s + self.stays_s
