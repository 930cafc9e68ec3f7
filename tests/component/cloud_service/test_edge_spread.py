"""A node sends its surplus of edges away, slowly, and those that have been connected for too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from cloud_service.edge_spread import EdgeSpread
from common.core.members.member import Member, MemberReport
from tests.support.projections import clock_us


class Endpoint:
    """Edges by the time they came; those that are sent away are gone at once."""

    def __init__(self, since_us: Sequence[int]) -> None:
        self.streams = [SimpleNamespace(since_us=us) for us in since_us]
        self.reasons: set[str] = set()

    @property
    def staying(self) -> int:
        return len(self.streams)

    def drain_some(self, count: int, _redial_within_s: float, reason: str) -> int:
        self.reasons.add(reason)
        gone, self.streams = self.streams[:count], self.streams[count:]
        return len(gone)


def member(name: str, edges: int, *, is_drained: bool = False) -> Member:
    return Member(MemberReport(f"{name}/1", name, 0, edges=edges), 3.0, 0.1, 9, is_drained=is_drained)


async def after(
    seconds: float,
    endpoint: Endpoint,
    *members: Member,
    age_max_s: float | None = None,
    generation: Callable[[], str] = lambda: "g1",
) -> Endpoint:
    membership: Any = SimpleNamespace(instance="n1/1", seen=SimpleNamespace(members=members))
    parts: Any = endpoint
    spread = EdgeSpread(parts, membership, redial_s=1.0, age_max_s=age_max_s, now_us=clock_us, generation=generation)
    with trio.move_on_after(seconds):
        await spread.run()
    return endpoint


def edges(count: int) -> Endpoint:
    return Endpoint([clock_us()] * count)


async def test_a_surplus_goes_after_a_while_down_to_the_share(autojump_clock: MockClock) -> None:
    others = member("n1", 300), member("n2", 0)
    assert (await after(14, edges(300), *others)).staying == 300
    slow = await after(22, edges(300), *others)
    assert 250 < slow.staying < 300
    endpoint = edges(300)
    # What has gone from here is there: the total stays.
    for _ in range(40):
        await after(30, endpoint, member("n1", endpoint.staying), member("n2", 300 - endpoint.staying))
    assert 150 <= endpoint.staying <= 195
    assert endpoint.reasons == {"this node has more edges than its share"}


async def test_a_node_near_its_share_keeps_what_it_has_and_so_does_one_that_is_alone(autojump_clock: MockClock) -> None:
    assert (await after(600, edges(120), member("n1", 120), member("n2", 100))).staying == 120
    assert (await after(600, edges(120), member("n1", 120))).staying == 120
    drained = member("n2", 0, is_drained=True)
    assert (await after(600, edges(120), member("n1", 120), drained)).staying == 120


async def test_a_drained_node_sends_all_away(autojump_clock: MockClock) -> None:
    assert (await after(200, edges(120), member("n1", 120, is_drained=True), member("n2", 0))).staying == 0


async def test_old_connections_go_a_few_at_a_time(autojump_clock: MockClock) -> None:
    endpoint = Endpoint([clock_us()] * 100 + [clock_us() + 3_600_000_000] * 100)
    await after(50, endpoint, member("n1", 200), age_max_s=60)
    assert endpoint.staying == 200
    await after(30, endpoint, member("n1", 200), age_max_s=60)
    assert 100 < endpoint.staying < 200
    await after(120, endpoint, member("n1", 200), age_max_s=60)
    assert endpoint.staying == 100
    assert endpoint.reasons == {"the connection has reached its greatest age"}


async def test_all_connect_again_when_the_journal_has_another_history(autojump_clock: MockClock) -> None:
    """One that has nothing to push would else not hear that what it pushed is gone."""

    def generation() -> str:
        return "g1" if trio.current_time() < began_s + 5.5 else "g2"

    for count in (1, 120, 1_000):
        began_s, endpoint = trio.current_time(), edges(count)
        await after(5, endpoint, member("n1", count), generation=generation)
        assert endpoint.staying == count
        began_s = trio.current_time()
        await after(7, endpoint, member("n1", count), generation=generation)
        assert endpoint.staying < count
        began_s = trio.current_time()
        await after(60, endpoint, member("n1", count), generation=generation)
        assert endpoint.staying == 0
        assert endpoint.reasons == {"the journal has another history"}
