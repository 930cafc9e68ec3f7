"""Numbers of an entity that will never come, stated so that no receiver waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

REPLACED: Final = "snapshot"
"""The reason of numbers for which a snapshot stands."""


@dataclass(frozen=True, slots=True)
class StatedRange:
    """Numbers ``from_seq_nr`` to ``to_seq_nr`` of one entity that the sender will never deliver, and why."""

    persistence_id: str
    from_seq_nr: int
    to_seq_nr: int
    reason: str


def last_of_each(ranges: Iterable[StatedRange]) -> list[StatedRange]:
    """One range an entity: the last one given, joined with those before it that it goes on from."""
    found: dict[str, StatedRange] = {}
    for stated in ranges:
        before = found.get(stated.persistence_id)
        goes_on = before is not None and before.reason == stated.reason and stated.from_seq_nr <= before.to_seq_nr + 1
        found[stated.persistence_id] = (
            replace(stated, from_seq_nr=min(before.from_seq_nr, stated.from_seq_nr)) if before and goes_on else stated
        )
    return list(found.values())
