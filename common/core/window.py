"""How much may be in flight: bytes that the line delivers well inside the time after which it is called dead.

A fixed window on a slow line queues so much that a sign of life sits behind it and a working link is cut. So the
limit follows the measured rate: what the line acknowledges in a third of the progress timeout (DESIGN.md 10).
An empty window always admits one batch, whatever its size, or a slow line would never move a large event.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_START_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class _Sent:
    through: int
    events: int
    weight: int
    at_s: float


class AdaptiveWindow:
    """What was sent and not yet acknowledged, with bounds in batches, events and (adaptive) bytes. Times in seconds."""

    def __init__(self, *, batches_max: int, events_max: int, bytes_max: int, ack_target_s: float) -> None:
        self._batches_max = batches_max
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._ack_target_s = ack_target_s
        self._sent: deque[_Sent] = deque()
        self._last_ack_s = 0.0
        self._ceiling = float(min(_START_BYTES, bytes_max))
        self.in_flight_bytes = 0
        self.in_flight_events = 0

    @property
    def bytes_limit(self) -> int:
        """Bytes that may be in flight now."""
        return int(self._ceiling)

    @property
    def room_bytes(self) -> int:
        """Bytes that may still be sent now; 0 when the window is full; the whole limit when it is empty."""
        if not self._sent:
            return self.bytes_limit
        if len(self._sent) >= self._batches_max or self.in_flight_events >= self._events_max:
            return 0
        return max(0, self.bytes_limit - self.in_flight_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for an ack."""
        return not self._sent

    @property
    def sent_through(self) -> int:
        """Highest position in flight, or 0."""
        return self._sent[-1].through if self._sent else 0

    def sent(self, through: int, events: int, weight: int, now_s: float) -> None:
        """A batch of ``weight`` bytes that ends at position ``through`` has been handed to the line."""
        self._sent.append(_Sent(through, events, weight, now_s))
        self.in_flight_bytes += weight
        self.in_flight_events += events

    def acked(self, position: int, now_s: float) -> float | None:
        """Everything up to ``position`` is acknowledged. Returns the age in seconds of the newest batch it covers."""
        covered = []
        while self._sent and self._sent[0].through <= position:
            covered.append(self._sent.popleft())
        if not covered:
            return None
        weight = sum(batch.weight for batch in covered)
        self.in_flight_bytes -= weight
        self.in_flight_events -= sum(batch.events for batch in covered)
        # While the line is busy the time between acks is what the line needed; after a pause it is the time since sending.
        busy_s = now_s - max(self._last_ack_s, covered[0].at_s)
        self._last_ack_s = now_s
        age_s = now_s - covered[-1].at_s
        if age_s > self._ack_target_s:
            self._ceiling = max(1.0, min(self._ceiling, weight / max(busy_s, 1e-6) * self._ack_target_s))
        else:
            self._ceiling = min(float(self._bytes_max), self._ceiling * 2)
        return age_s
