"""Numbers of an entity that will never come, stated so that no receiver waits for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StatedRange:
    """Numbers ``from_seq_nr`` to ``to_seq_nr`` of one entity that the sender will never deliver, and why."""

    persistence_id: str
    from_seq_nr: int
    to_seq_nr: int
    reason: str
