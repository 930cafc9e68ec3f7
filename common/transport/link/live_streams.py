"""The streams that an endpoint serves now, one a peer: who is connected, how each ends, and asking all to leave.

A peer that opens a newer stream takes the place of its older one, which ends by itself a little later. Whatever ends a
stream, also a cancellation, is reported once, with a code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, TypeVar

import trio

from common.core.errors import BackhaulError
from common.core.flow.messages import Drain
from common.transport.link.call_status import first_refusal

K = TypeVar("K")
S = TypeVar("S")


class LiveStreams(Mapping[K, S], Generic[K, S]):
    """By peer. ``peer`` is what a log line calls one."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._live: dict[K, S] = {}
        self._left = trio.lowlevel.ParkingLot()
        self.drain: Drain | None = None
        """Set once all are asked to leave; those that still come are asked, too."""

    def __getitem__(self, key: K) -> S:
        return self._live[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._live)

    def __len__(self) -> int:
        return len(self._live)

    async def leave(self, redial_within_s: float, tell: Callable[[S, Drain], None]) -> None:
        """Ask all to dial again elsewhere, by ``tell``; returns when none is left."""
        self.drain = Drain(redial_within_s, "the service that was dialled is stopping")
        for live in self._live.values():
            tell(live, self.drain)
        while self._live:
            await self._left.park()

    async def run(self, key: K, live: S, work: Awaitable[None], ended: Callable[[str, str], None]) -> None:
        """Do a stream's work; ``ended`` is given code and reason at the end. Raises what the peer must be sent."""
        self._live[key] = live
        # When this call is cancelled: its connection is gone, or the service stops.
        code, reason = "link.lost", "the connection is gone"
        try:
            await work
            code, reason = "link.ended", f"the {self._peer} ended the stream in good order: it stops, or dials again"
        except* BackhaulError as group:
            error = first_refusal(group)
            code, reason = error.code, error.message
            raise error from None
        finally:
            if code == "link.lost" and self.drain:
                code, reason = "link.stopping", self.drain.reason
            if self._live.get(key) is live:
                del self._live[key]
                self._left.unpark_all()
            ended(code, reason)
