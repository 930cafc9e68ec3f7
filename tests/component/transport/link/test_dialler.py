"""A peer of several addresses: which one is dialled next, and what follows one that does not answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Container
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest

from common.core.addresses import Address, parse_peer
from common.core.errors import ConfigurationError
from common.transport.link.dialler import PeerDialler
from common.transport.stream import Channel, PeerGone


class Lines:
    """Addresses that answer, but those that are stopped; `dialled` has every one that was tried."""

    def __init__(self, stopped: Container[str] = ()) -> None:
        self.stopped = stopped
        self.dialled: list[str] = []

    def dialler(self, peer: str, seed: int = 1) -> PeerDialler:
        return PeerDialler(parse_peer(peer), self._dial, random.Random(seed))

    def _dial(self, address: Address) -> AbstractAsyncContextManager[Channel]:
        @asynccontextmanager
        async def channel() -> AsyncIterator[Channel]:
            self.dialled.append(address.host)
            if address.host == "unreadable":
                raise ConfigurationError("tls.files_unreadable", "no certificate")
            if address.host in self.stopped:
                raise PeerGone("link.timeout", f"{address} did not answer")
            yield cast(Channel, address)

        return channel()


@pytest.mark.parametrize("peer", ["a:1,b:1", "a:1,b:1,c:1", "a:1,b:1,c:1,d:1,e:1"])
async def test_no_address_is_dialled_twice_in_a_row(peer: str) -> None:
    for seed in range(20):
        lines = Lines()
        dial = lines.dialler(peer, seed)
        for _ in range(60):
            async with dial():
                pass
        assert all(one != next_one for one, next_one in zip(lines.dialled, lines.dialled[1:], strict=False))
        counts = [lines.dialled.count(host) for host in set(lines.dialled)]
        assert max(counts) == min(counts)


async def test_services_begin_at_different_addresses() -> None:
    lines = Lines()
    for seed in range(40):
        async with lines.dialler("a:1,b:1", seed)():
            pass
    assert 10 < lines.dialled.count("a") < 30


async def test_a_stopped_node_is_passed_over_within_one_try() -> None:
    lines = Lines(stopped={"a"})
    dial = lines.dialler("a:1,b:1")
    for _ in range(10):
        async with dial() as channel:
            assert cast(Address, channel).host == "b"


async def test_each_address_is_tried_once_before_a_try_has_failed() -> None:
    lines = Lines(stopped={"a", "b", "c"})
    with pytest.raises(PeerGone, match="did not answer"):
        async with lines.dialler("a:1,b:1,c:1")():
            pass
    assert sorted(lines.dialled) == ["a", "b", "c"]


async def test_what_an_operator_must_change_is_not_hidden_by_another_address() -> None:
    lines = Lines()
    with pytest.raises(ConfigurationError):
        async with lines.dialler("unreadable:1")():
            pass


async def test_the_end_of_a_conversation_is_not_the_dials_failure() -> None:
    lines = Lines()
    with pytest.raises(PeerGone):
        async with lines.dialler("a:1,b:1")():
            raise PeerGone("link.lost", "cut")
    assert len(lines.dialled) == 1
