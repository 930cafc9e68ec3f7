"""Messages that push and subscription streams have in common: the sign of life and the request to leave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life that says how many bytes have come so far."""

    bytes_received: int
    clock_us: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The node stops: leave, and dial again after the pause."""

    retry_after_s: float
    reason: str
