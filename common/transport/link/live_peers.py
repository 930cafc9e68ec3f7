"""Peers that are connected now, for the watch over certificates and blocked ids: at either end of a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from common import audit
from common.core.errors import BackhaulError
from common.core.policy.credentials import TrustNow, always_trusted
from common.transport.stream import Channel, PeerInfo

_DAY_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class LivePeer:
    """The id a peer goes by (its address, where it was dialled), its certificate, and how its connection is ended."""

    name: str
    info: PeerInfo
    end: Callable[[BackhaulError], None]
    names: tuple[str, ...] = field(init=False)
    """Every id that the peer goes by or could go by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", (self.name, *self.info.identities))

    @property
    def expires_s(self) -> float:
        """When its certificate runs out, in seconds since 1970; infinity without one."""
        return self.info.credential.expires_s if self.info.credential else _DAY_NEVER


def check_trusted(trust: TrustNow, name: str, info: PeerInfo, now_s: float) -> None:
    """Refuse a peer that may not be connected now: ``auth.expired``, ``auth.refused``."""
    objection = trust().objection((name, *info.identities), info.credential, now_s)
    if objection is not None:
        audit.refused(who=name, source=info.address, what="connect", rule="trust", result=objection.code)
        raise objection


class DialledPeers:
    """What this service has dialled. ``trust`` is set by the watch; until then everybody is trusted."""

    def __init__(self) -> None:
        self.trust: TrustNow = always_trusted
        self._live: set[LivePeer] = set()

    def __iter__(self) -> Iterator[LivePeer]:
        return iter(list(self._live))

    @asynccontextmanager
    async def watched(
        self, dialled: AbstractAsyncContextManager[Channel], name: str, now_us: Callable[[], int]
    ) -> AsyncIterator[Channel]:
        """The channel, among the live ones while the block runs; the block is left with what ends the peer."""
        async with dialled as channel:
            check_trusted(self.trust, name, channel.peer, now_us() / 1e6)
            ended = trio.Event()
            faults: list[BackhaulError] = []

            def end(error: BackhaulError) -> None:
                faults.append(error)
                ended.set()

            peer = LivePeer(name, channel.peer, end)
            self._live.add(peer)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_leave_when, ended, faults, channel)
                    yield channel
                    nursery.cancel_scope.cancel()
            finally:
                self._live.discard(peer)


async def _leave_when(ended: trio.Event, faults: list[BackhaulError], channel: Channel) -> None:
    await ended.wait()
    channel.abort()
    raise faults[0]
