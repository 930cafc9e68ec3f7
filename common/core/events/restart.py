"""The restart mark: what a follower's program gets when an entity begins again for it, from a number on.

It says: forget what was made of this entity's events from that number on; they come again, in their order. It is a row like an
event's, of a type that no event can have: its number is the last that still holds, the next one follows it. It is made
where it is stored and never sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from common.core.events.batch import EventBatch

RESTART_TYPE: Final = "backhaul.restart"
RESTART_CODEC: Final = "json"


def restart_marks(first: Mapping[str, int]) -> EventBatch:
    """A mark for each persistence id, with the number from which its events come again."""
    names, n = list(first), len(first)
    return EventBatch(
        position=[0] * n,
        timestamp_us=[0] * n,
        stored_us=[0] * n,
        event_time_us=[0] * n,
        persistence_id=names,
        seq_nr=[first[name] - 1 for name in names],
        prev_seq_nr=[first[name] - 1 for name in names],
        origin_seq_nr=[0] * n,
        event_type=[RESTART_TYPE] * n,
        codec=[RESTART_CODEC] * n,
        payload=[orjson.dumps({"from_seq_nr": first[name]}) for name in names],
        tags=[""] * n,
        metadata=[""] * n,
        prev_tags=[""] * n,
    )


def is_restart(events: EventBatch, index: int) -> bool:
    """Whether the row at ``index`` is a restart mark."""
    return events.event_type[index] == RESTART_TYPE
