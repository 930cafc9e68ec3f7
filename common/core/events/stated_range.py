"""Numbers of an entity that will never come, stated so that no receiver waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

REPLACED: Final = "snapshot"
"""The reason of numbers for which a snapshot stands."""


class StatedRange(NamedTuple):
    """Numbers ``from_seq_nr`` to ``to_seq_nr`` of one entity that the sender will never deliver, and why.

    A plain tuple: there may be one an entity of a message, and one is made in less than half of a frozen dataclass's time.
    """

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
            stated._replace(from_seq_nr=min(before.from_seq_nr, stated.from_seq_nr)) if before and goes_on else stated
        )
    return list(found.values())
