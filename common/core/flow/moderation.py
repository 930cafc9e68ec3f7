"""Adaptive moderation: while the loop is busy, groups begin no closer to each other than a spacing that follows its load.

Network cards moderate interrupts in this way (Intel's ITR, Linux' DIM): under load an interrupt stands for several packets,
at rest each packet has its own. A group's fixed cost (a synced commit, a message, an ack, a projection's transaction) is
then paid by more events, so that load raises the size of groups and not the length of queues.

    load                    spacing
    ----------------------  -----------------------------------
    up to ``_IDLE_LOAD``    0: a group begins when it can
    in between              in proportion
    from ``_FULL_LOAD``     ``spacing_max_s``

Waiting for nobody is never worth it: a group begins at once when as many requests are queued as were ever in flight together
lately. A lone caller, who sends the next request after the answer to the last one, therefore never waits, and callers in
a closed loop only until the last of them is there.
"""

from __future__ import annotations

from typing import Final

# Shares of one processor that the loop's thread wants.
_IDLE_LOAD: Final = 0.25
_FULL_LOAD: Final = 0.6
# Below this a wait is shorter than the clock of epoll, and groups are not larger for it.
_LEAST_SPACING_S: Final = 0.001
# The fixed cost of a group of so many rows (events and stated ranges) is a small part of it: it gains nothing by waiting.
_ENOUGH_ROWS: Final = 16
# "Lately" is the present window of so many groups and the one before it.
_WINDOW_GROUPS: Final = 8
# How often the load is measured, and how much a measurement counts.
LOAD_EVERY_S: Final = 0.05
_LOAD_SHARE: Final = 0.3
_SIZE_SHARE: Final = 0.1


class LoadMeter:
    """Share of the time for which a thread ran or waited for a processor, smoothed over some 200 ms; at most 1."""

    def __init__(self) -> None:
        self.load = 0.0
        self._last: tuple[float, float] | None = None

    def is_due(self, now_s: float) -> bool:
        """Whether ``measured`` is to be called."""
        return self._last is None or now_s - self._last[0] >= LOAD_EVERY_S

    def measured(self, now_s: float, wanted_s: float) -> None:
        """The thread has so far run or waited for a processor for ``wanted_s`` seconds."""
        if self._last is not None and now_s > self._last[0]:
            share = min(1.0, max(0.0, (wanted_s - self._last[1]) / (now_s - self._last[0])))
            self.load += _LOAD_SHARE * (share - self.load)
        self._last = (now_s, wanted_s)


class Moderation:
    """When the next group may begin. Times in seconds of one clock; it is told of arrivals and of groups."""

    def __init__(self, spacing_max_s: float) -> None:
        assert spacing_max_s >= 0, spacing_max_s
        self._spacing_max_s = spacing_max_s
        self._began_s = float("-inf")
        self._most = self._most_before = 0
        self._groups = 0
        self.spacing_s = 0.0
        """Between the beginnings of two groups, as of the last one."""
        self.group_events = 0.0
        """Events of a group, smoothed."""

    def arrived(self, in_flight: int) -> None:
        """A request came; with it so many are queued or being committed."""
        self._most = max(self._most, in_flight)

    def begin_at_s(self, load: float, queued: int, rows: int) -> float:
        """When the next group may begin, with so many requests and rows in the queue; -inf = now, whatever the time."""
        self.spacing_s = self._spacing(load)
        if not self.spacing_s or self.is_enough(queued, rows):
            return float("-inf")
        return self._began_s + self.spacing_s

    def is_enough(self, queued: int, rows: int) -> bool:
        """Whether a group of these would gain nothing by waiting."""
        return rows >= _ENOUGH_ROWS or queued >= max(self._most, self._most_before)

    def began(self, now_s: float, events: int) -> None:
        """A group of so many events begins."""
        self._began_s = now_s
        self.group_events += (events - self.group_events) * (_SIZE_SHARE if self.group_events else 1.0)
        self._groups += 1
        if self._groups == _WINDOW_GROUPS:
            self._groups, self._most_before, self._most = 0, self._most, 0

    def _spacing(self, load: float) -> float:
        share = min(1.0, max(0.0, (load - _IDLE_LOAD) / (_FULL_LOAD - _IDLE_LOAD)))
        spacing_s = self._spacing_max_s * share
        return spacing_s if spacing_s >= _LEAST_SPACING_S else 0.0


class Pacing:
    """When the next message about committed groups may leave, so that in a busy service it takes several groups along.

    Groups that are a spacing apart vary by their commits' times: a message waits only when it would leave within half a
    spacing of the last one. A lone caller's groups do, since they wait for nothing (``Moderation``); each of them would be
    a message, an ack and a commit of the receiver by itself.
    """

    def __init__(self) -> None:
        self._left_s = float("-inf")

    def left(self, now_s: float, positions: int) -> None:
        """A message left that goes on by so many positions of the log; a large one gains nothing from more."""
        self._left_s = now_s if positions < _ENOUGH_ROWS else float("-inf")

    def due_s(self, now_s: float, spacing_s: float) -> float:
        """When the next one may leave, with groups kept ``spacing_s`` apart; -inf = now, whatever the time."""
        return self._left_s + spacing_s if now_s - self._left_s < spacing_s / 2 else float("-inf")
