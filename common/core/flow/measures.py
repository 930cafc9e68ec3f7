"""What is counted on the data path, cheaply: an addition each. Metrics read it when they are asked for.

Both are written by one thread. `prometheus_client`'s own counters take a lock and cost ten times as much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

CODES_MAX: Final = 100
OTHER: Final = "other"

# From a synced commit on a good disk to an ack over a bad line.
LATENCY_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class LatencyHistogram:
    """How often something took how long; `counts[i]` are those up to `LATENCY_BOUNDS_S[i]`, the last ones took longer."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """It took so long, once."""
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def plus(self, other: LatencyHistogram) -> LatencyHistogram:
        """Both together, as a new one."""
        both = LatencyHistogram()
        both.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        both.total_s = self.total_s + other.total_s
        return both


class CodeCounts:
    """How often each code came; codes beyond the first hundred are counted as `other`."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, code: str, count: int = 1) -> None:
        """It came so often."""
        if code not in self._counts and len(self._counts) >= CODES_MAX:
            code = OTHER
        self._counts[code] = self._counts.get(code, 0) + count

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self._counts.values())

    def read(self) -> Mapping[str, int]:
        """Code to count."""
        return self._counts
