"""Dials a peer of one address or several, in an order that changes.

A balancer that looks only at TCP hands a dialling service to a stopped node again and again: its kernel still accepts.
So no address is dialled twice in a row while there is another, and one that does not answer is followed by the next one at
once; the caller's backoff begins when none of them has answered. Services begin at random addresses, so that they spread.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import structlog

from common.core.addresses import Address, PeerAddress
from common.transport.stream import Channel, PeerGone

_log = structlog.get_logger()

DialAddress = Callable[[Address], AbstractAsyncContextManager[Channel]]


class PeerDialler:
    """Called for a channel to the peer, once a try. Each call begins with the address after the one dialled last."""

    def __init__(self, peer: PeerAddress, dial: DialAddress, chance: random.Random) -> None:
        self._addresses = list(peer.addresses)
        self._dial = dial
        self._chance = chance
        self._round: list[Address] = []
        self._last: Address | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Channel]:
        """The channel to the first address that answers. Raises what the last one was refused with."""
        async with AsyncExitStack() as stack:
            yield await self._first(stack)

    async def _first(self, stack: AsyncExitStack) -> Channel:
        untried = len(self._addresses)
        while True:
            untried -= 1
            try:
                return await stack.enter_async_context(self._dial(self._next()))
            except PeerGone as error:
                if not untried:
                    raise
                _log.info("link.next_address", code=error.code, reason=error.message, repeat_key=error.message)

    def _next(self) -> Address:
        """The rest of a round first; a new round begins with another address than the last round has ended with."""
        if not self._round:
            self._round = self._chance.sample(self._addresses, len(self._addresses))
            if len(self._round) > 1 and self._round[-1] == self._last:
                self._round[0], self._round[-1] = self._round[-1], self._round[0]
        self._last = self._round.pop()
        return self._last
