"""What was asked of the edge and what it answered: the proof holds the stores to this and to nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Wanted(NamedTuple):
    """One event as it was sent: the entity's persistence id as the journals have it, and the payload's bytes."""

    entity: str
    payload: bytes


@dataclass(slots=True)
class Request:
    """One atomic append under its key.

    ``first_position`` and ``seq_nr`` are the answer's, 0 and empty while there is none. An abandoned one was not
    answered and is not repeated: it may be stored or not.
    """

    key: str
    events: tuple[Wanted, ...]
    first_position: int = 0
    seq_nr: tuple[int, ...] = ()
    was_abandoned: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether it was acknowledged."""
        return self.first_position > 0


@dataclass(slots=True)
class Ledger:
    """Everything the feeders know. ``in_flight`` counts the POSTs that are out now.

    ``found_stored`` and ``found_unstored``: what a repeat of a POST that was lost on the way found; ``asked_again``
    counts acknowledged requests that were sent once more and answered as before.
    """

    requests: list[Request] = field(default_factory=list)
    in_flight: int = 0
    answered_events: int = 0
    found_stored: int = 0
    found_unstored: int = 0
    asked_again: int = 0

    @property
    def answered(self) -> list[Request]:
        """Acknowledged requests."""
        return [request for request in self.requests if request.is_answered]
