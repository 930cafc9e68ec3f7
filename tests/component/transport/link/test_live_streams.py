"""The streams an endpoint serves: each ends once, with a code, and all can be asked to leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError
from common.core.flow.messages import Drain
from common.transport.link.live_streams import LiveStreams


class Peer:
    """A stream that runs until it is let go."""

    def __init__(self) -> None:
        self.let_go = trio.Event()
        self.answer: list[Drain] = []
        self.ended: list[str] = []

    async def work(self, error: BackhaulError | None = None) -> None:
        await self.let_go.wait()
        if error:
            raise error

    def leave(self, drain: Drain) -> None:
        self.answer.append(drain)
        self.let_go.set()

    @property
    def end(self) -> Callable[[str, str], None]:
        return lambda code, _reason: self.ended.append(code)


async def test_a_stream_is_there_while_it_runs_and_ends_properly() -> None:
    streams: LiveStreams[str, Peer] = LiveStreams("edge")
    peer = Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.run, "a", peer, peer.work(), peer.end)
        await trio.testing.wait_all_tasks_blocked()
        assert list(streams.values()) == [peer]
        peer.let_go.set()
    assert not streams
    assert peer.ended == ["link.ended"]


async def test_a_refusal_is_told_and_goes_on() -> None:
    streams: LiveStreams[str, Peer] = LiveStreams("edge")
    peer = Peer()
    peer.let_go.set()
    with pytest.raises(BackhaulError, match="a newer one"):
        await streams.run("a", peer, peer.work(BackhaulError("push.fenced", "a newer one came", "")), peer.end)
    assert not streams
    assert peer.ended == ["push.fenced"]


async def test_a_newer_stream_keeps_its_place_when_the_older_one_ends() -> None:
    streams: LiveStreams[str, Peer] = LiveStreams("edge")
    older, newer = Peer(), Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.run, "a", older, older.work(), older.end)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(streams.run, "a", newer, newer.work(), newer.end)
        await trio.testing.wait_all_tasks_blocked()
        older.let_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert streams["a"] is newer
        assert older.ended == ["link.ended"]
        newer.let_go.set()


async def test_all_are_asked_to_leave_and_waited_for() -> None:
    streams: LiveStreams[str, Peer] = LiveStreams("consumer")
    peers = {name: Peer() for name in "ab"}
    async with trio.open_nursery() as nursery:
        for name, peer in peers.items():
            nursery.start_soon(streams.run, name, peer, peer.work(), peer.end)
        await trio.testing.wait_all_tasks_blocked()
        await streams.leave(1.5, Peer.leave)
        assert not streams
    assert [drain.redial_within_s for peer in peers.values() for drain in peer.answer] == [1.5, 1.5]


async def test_a_stream_that_is_cancelled_is_lost_or_else_the_service_stops() -> None:
    for drain, code in ((None, "link.lost"), (Drain(1.0, "the service is stopping"), "link.stopping")):
        streams: LiveStreams[str, Peer] = LiveStreams("edge")
        streams.drain = drain
        peer = Peer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run, "a", peer, peer.work(), peer.end)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not streams
        assert peer.ended == [code]
