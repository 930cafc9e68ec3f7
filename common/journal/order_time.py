"""A place in a log by its order time, which rises along it: found by halving, since no index is kept for it."""

from __future__ import annotations

from common.journal.stores.log import LogStore


async def position_at(log: LogStore, timestamp_us: int) -> int:
    """The position of the last stored event whose order time is at or before ``timestamp_us``; 0 when there is none."""
    found, high = 0, (await log.stats()).head_position
    while found < high:
        middle = (found + high + 1) // 2
        position, event_us = await _first_from(log, middle, high)
        if position and event_us <= timestamp_us:
            found = position
        else:
            high = middle - 1
    return found


async def _first_from(log: LogStore, position: int, through: int) -> tuple[int, int]:
    """Position and order time of the first stored event there; zeros when none is left."""
    after = position - 1
    while after < through:
        page = await log.read(after, through=through, max_events=1, max_bytes=1)
        if page.events:
            return page.events.position[0], page.events.timestamp_us[0]
        after = max(page.through, after + 1)
    return 0, 0
