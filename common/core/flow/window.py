"""How much may be in flight: bytes that the line delivers well inside the time after which it is called dead.

A fixed window on a slow line queues so much that a sign of life sits behind it and a working link is cut. So the
limit follows the age of acknowledgements: what was acknowledged late says how much the line carries in
the time allowed, and only what was acknowledged early, with that much in flight, lets the limit grow, at most to twice
that. An unused window therefore never grows. An empty one always admits one batch, whatever its size, or a slow line
would never move a large event.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

_START_BYTES = 65_536
_LEAST_BYTES = 1_024


# Where a batch ends, its events, its weight, the bytes in flight with it when it was sent, and when. A plain tuple: a node
# keeps as many as all its consumers owe it, and Python's collections need not look through these.
_Sent: TypeAlias = tuple[int, int, int, int, float]


class AdaptiveWindow:
    """What was sent and not yet acknowledged, bounded in batches, events and (adaptive) bytes. Times in seconds."""

    def __init__(self, *, batches_max: int, events_max: int, bytes_max: int, ack_target_s: float) -> None:
        self._batches_max = batches_max
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._ack_target_s = ack_target_s
        self._sent: deque[_Sent] = deque()
        self._limit = min(_START_BYTES, bytes_max)
        self.in_flight_bytes = 0
        self.in_flight_events = 0

    @property
    def bytes_limit(self) -> int:
        """Bytes that may be in flight now."""
        return self._limit

    @property
    def room_bytes(self) -> int:
        """Bytes that may still be sent now; 0 when the window is full; the whole limit when it is empty."""
        sent, room = self._sent, self._limit - self.in_flight_bytes
        if not sent:
            return self._limit
        is_full = room <= 0 or len(sent) >= self._batches_max or self.in_flight_events >= self._events_max
        return 0 if is_full else room

    def room_for(self, batch_bytes: int) -> int:
        """Bytes for a batch of at most ``batch_bytes``; 0 = wait for an ack.

        A sliver of room, less than a quarter of a batch, is left alone: on a full window it would make every batch small.
        """
        room, most = self.room_bytes, min(self._limit, batch_bytes)
        return min(room, most) if room >= most // 4 else 0

    def admits(self, weight: int) -> bool:
        """Whether a batch of this weight may go now: beside what is in flight, or alone."""
        return not self._sent or weight <= self.room_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for an ack."""
        return not self._sent

    def sent(self, through: int, events: int, weight: int, now_s: float) -> None:
        """A batch of ``weight`` bytes that ends at position ``through`` has been handed to the line."""
        self.in_flight_bytes += weight
        self.in_flight_events += events
        self._sent.append((through, events, weight, self.in_flight_bytes, now_s))

    def acked(self, position: int, now_s: float) -> float | None:
        """Everything up to ``position`` is acknowledged; answers the age in seconds of the newest batch it covers."""
        in_flight, at_s = -1, 0.0
        while self._sent and self._sent[0][0] <= position:
            _, events, weight, in_flight, at_s = self._sent.popleft()
            self.in_flight_bytes -= weight
            self.in_flight_events -= events
        if in_flight < 0:
            return None
        age_s = now_s - at_s
        if age_s > self._ack_target_s:
            carried = int(in_flight * self._ack_target_s / age_s)
            self._limit = max(min(_LEAST_BYTES, self._bytes_max), min(self._limit, carried))
        elif age_s <= self._ack_target_s / 2:
            self._limit = min(self._bytes_max, max(self._limit, 2 * in_flight))
        return age_s
