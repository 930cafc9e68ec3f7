"""Whose silence it is: a consumer that does not acknowledge, or a process that stood still itself.

A process that was stopped, whose machine slept or whose loop was held finds all its peers silent when it goes on: what
they have said meanwhile was not read yet. So each side looks at its own time first, and says what only it can know.
"""

from __future__ import annotations

import trio

from common.core.errors import BackhaulError

NOT_ACKED = "subscription.not_acked"


class SelfStallClock:
    """Looked at every ``planned_s`` seconds; says when this process stood still in between."""

    def __init__(self, planned_s: float) -> None:
        self._planned_s = planned_s
        self._looked_s = trio.current_time()
        self._longest_s = 0.0

    def look(self) -> float:
        """For how long it stood still since the last look, 0 when it did not."""
        now_s = trio.current_time()
        late_s, self._looked_s = now_s - self._looked_s - self._planned_s, now_s
        still_s = late_s if late_s > self._planned_s else 0.0
        self._longest_s = max(self._longest_s, still_s)
        return still_s

    @property
    def longest_still_s(self) -> float:
        """The longest time for which it did, up to now: after a stop nobody knows who looks first."""
        late_s = trio.current_time() - self._looked_s - self._planned_s
        return max(self._longest_s, late_s if late_s > self._planned_s else 0.0)


def not_acked(deliveries: int, silent_s: float, unheard_s: float) -> BackhaulError:
    """What a source says when it leaves a consumer that got everything and does not get on."""
    return BackhaulError(
        NOT_ACKED,
        f"{deliveries} deliveries were not acknowledged for {silent_s:.0f} s,"
        f" the consumer was heard of {unheard_s:.0f} s ago",
        "the consumer's log says why: it was stopped, its inbox is full, a slow disk or handler; it dials again",
        retry_after_s=1.0,
    )


def why_not_acked(error: BackhaulError, still_s: float, busy_s: float) -> BackhaulError:
    """The same as the consumer tells it: it stood still, or has been storing what came for so long (0 = it was not)."""
    if still_s:
        why = f"this process stood still for {still_s:.0f} s"
        hint = "it was stopped, its machine slept, or something held its loop; nothing is lost"
    elif busy_s:
        why = f"what came has been stored for {busy_s:.0f} s and is not yet"
        hint = "make room in the inbox, or look at the disk, the database and the handler; nothing is lost"
    else:
        return error
    return BackhaulError(error.code, f"{error.message}: {why}", hint, retry_after_s=error.retry_after_s)
