"""Messages that push and subscription streams have in common: the sign of life and the request to leave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeHealth:
    """How an edge says that it is. Sizes in bytes, 0 for what is not known; ``lag_us`` is the age of what waits longest."""

    head_position: int = 0
    lag_us: int = 0
    lag_bytes: int = 0
    used_bytes: int = 0
    cap_bytes: int = 0
    free_bytes: int = 0
    version: str = ""
    certificate_expires_us: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life that says how many bytes have come so far; an edge's may also say how it is."""

    bytes_received: int
    clock_us: int
    health: EdgeHealth | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """The node stops, or has too many: leave, and dial again within that time."""

    redial_within_s: float
    reason: str
