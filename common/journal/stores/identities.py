"""Peers that an operator shut out, whatever their certificates say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BlockedIdentity:
    """An id that is refused, why, and since when (microseconds)."""

    id: str
    reason: str
    blocked_us: int


class IdentityStore(Protocol):
    """Blocked ids, for all nodes of the journal."""

    async def blocked(self) -> list[BlockedIdentity]:
        """All of them, in order of id."""

    async def block(self, identity: str, reason: str) -> BlockedIdentity:
        """Shut an id out; one that is keeps its time and takes the reason."""

    async def allow(self, identity: str) -> bool:
        """Let an id in again; False when it was not blocked."""
