"""When a consumer acknowledges what it has taken: by size, or after a while.

An ack steers flow and lag only, and costs the source as much as a delivery. So it waits for so much to acknowledge (a part of
the least a source lets be under way on a line that is not slow), but not for long.
"""

from __future__ import annotations

from math import inf

_AT_BYTES = 16_384
_AFTER_S = 0.25


class DelayedAck:
    """Deliveries taken and acknowledged. Times in seconds; sizes as the source's window counts them."""

    def __init__(self, *, window_bytes: int, progress_timeout_s: float) -> None:
        self._at_bytes = min(_AT_BYTES, window_bytes // 4)
        self._after_s = min(_AFTER_S, progress_timeout_s / 20)
        self._taken = 0
        self._bytes = 0
        self.due_s = inf
        """When an ack is due, whatever else is taken."""

    def took(self, deliveries: int, size: int, now_s: float) -> None:
        """So many have taken effect."""
        if deliveries:
            self._taken += deliveries
            self._bytes += size
            self.due_s = now_s if self._bytes >= self._at_bytes else min(self.due_s, now_s + self._after_s)

    def acknowledge(self) -> int:
        """How many deliveries to acknowledge; that is done then."""
        self._bytes, self.due_s = 0, inf
        return self._taken
