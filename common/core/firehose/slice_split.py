"""Events divided by slice: computed once for a stretch of the log, then each range of slices takes its part by bisection."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from common.core.events.ids import SliceRange, slice_of


class SliceSplit:
    """Indexes of events, grouped by slice."""

    __slots__ = ("_indexes", "_n", "_slices")

    def __init__(self, persistence_ids: Sequence[str]) -> None:
        slices = list(map(slice_of, persistence_ids))
        # Stable: within a slice the indexes ascend.
        self._indexes = sorted(range(len(slices)), key=slices.__getitem__)
        self._slices = [slices[index] for index in self._indexes]
        self._n = len(slices)

    def of(self, slices: SliceRange) -> Sequence[int]:
        """Indexes of the events in ``slices``, ascending."""
        first = bisect_left(self._slices, slices.first)
        stop = bisect_right(self._slices, slices.last, first)
        if stop - first == self._n:
            return range(self._n)
        return sorted(self._indexes[first:stop])
