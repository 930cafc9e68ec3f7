"""How long events took, and how they waited through a cut: from the storing times of both journals, one clock. Pure.

Times are UTC microseconds as the journals hold them, results seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from examples.demo.proof import Stored
from examples.demo.series import Reading

Waits = Sequence[tuple[int, int]]
"""(stored at the edge, stored in the cloud) of each event that is in both journals."""

_CURVE_STEPS: Final = 40


@dataclass(frozen=True, slots=True)
class Latency:
    """From the edge's commit to the cloud's, over ``events`` events; seconds."""

    events: int
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class CutLag:
    """How far the cloud fell behind while a line was dark, and how it caught up; ``curve`` is events waiting, over time."""

    dark_s: float
    most_events: int
    longest_s: float
    caught_up_s: float
    curve: tuple[int, ...]


def waits(in_file: Sequence[Stored], in_cloud: Sequence[Stored]) -> list[tuple[int, int]]:
    """Join both journals by reading; a reading's first occurrence counts."""
    arrived: Mapping[Reading, int] = {event.reading: event.stored_us for event in reversed(in_cloud)}
    return [(event.stored_us, arrived[event.reading]) for event in in_file if event.reading in arrived]


def latency(pairs: Waits) -> Latency | None:
    """Percentiles; None without events."""
    times = sorted((there - here) / 1e6 for here, there in pairs)
    if not times:
        return None
    return Latency(len(times), _at(times, 0.5), _at(times, 0.9), _at(times, 0.99), times[-1])


def _at(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of the values do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def lag_through(pairs: Waits, began_us: int, ended_us: int) -> CutLag | None:
    """Lag through a cut from ``began_us`` to ``ended_us``; None when no event was stored at the edge meanwhile."""
    cut_off = [(here, there) for here, there in pairs if began_us <= here < ended_us and there >= here]
    if not cut_off:
        return None
    through_us = max(there for _, there in cut_off)
    changes = sorted([(here, 1) for here, _ in pairs] + [(there, -1) for _, there in pairs])
    waiting = list(zip((at for at, _ in changes), accumulate(step for _, step in changes), strict=True))
    within = [count for at, count in waiting if began_us <= at <= through_us]
    return CutLag(
        dark_s=(ended_us - began_us) / 1e6,
        most_events=max(within, default=0),
        longest_s=max((there - here) / 1e6 for here, there in cut_off),
        caught_up_s=max(0.0, (through_us - ended_us) / 1e6),
        curve=_curve(waiting, began_us, through_us),
    )


def _curve(waiting: Sequence[tuple[int, int]], began_us: int, through_us: int) -> tuple[int, ...]:
    """Most events waiting in each of equal steps, from a tenth before the beginning to a tenth behind the end."""
    margin_us = max(1, (through_us - began_us) // 10)
    first_us, last_us = began_us - margin_us, through_us + margin_us
    step_us = max(1, (last_us - first_us) // _CURVE_STEPS)
    steps = [0] * _CURVE_STEPS
    held, index = 0, 0
    for step in range(_CURVE_STEPS):
        end_us = first_us + (step + 1) * step_us
        steps[step] = held
        while index < len(waiting) and waiting[index][0] < end_us:
            held = waiting[index][1]
            if waiting[index][0] >= first_us:
                steps[step] = max(steps[step], held)
            else:
                steps[step] = held
            index += 1
    return tuple(max(0, count) for count in steps)
