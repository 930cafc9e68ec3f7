"""When a kept link is dialled again: soon after progress, later after failures, as the peer hints, late after a refusal."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import structlog
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError, ErrorKind
from common.core.flow.backoff import Backoff
from common.core.flow.messages import Drain
from common.transport.link.keep import _LONG_WAIT, _NEEDS_ROOM, keep_link
from common.transport.push.link_state import LinkState
from common.transport.stream import DialledStream, PeerGone, PeerInfo, PeerRefused
from tests.support.push import now_us

Report = Callable[[], None]
Try = Callable[[Report, Report], Drain | float | None]
"""One conversation, told how to report that it is connected and that it progressed; a number is seconds for which it
stands before it ends."""


LONGEST = 1.0 - 1e-9
"""Chance that makes every delay as long as it can be, nearly."""


class Chance(random.Random):
    """Always the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


class Peer:
    """Answers each dial with the next of ``tries``; keeps when it was dialled and when it ended."""

    peer = PeerInfo("peer:1")

    def __init__(self, tries: Sequence[Try]) -> None:
        self._tries = list(tries)
        self.dialled_s: list[float] = []
        self.ended_s: list[float] = []

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Any]:
        self.dialled_s.append(trio.current_time())
        yield self

    @asynccontextmanager
    async def open_stream(self, _path: str) -> AsyncIterator[DialledStream]:
        yield cast(DialledStream, None)

    async def converse(self, _stream: DialledStream, connected: Report, progressed: Report) -> Drain | None:
        if not self._tries:
            await trio.sleep_forever()
        try:
            outcome = self._tries.pop(0)(connected, progressed)
            if isinstance(outcome, Drain):
                return outcome
            await trio.sleep(outcome or 0.0)
            return None
        finally:
            self.ended_s.append(trio.current_time())

    @property
    def delays_s(self) -> list[float]:
        """How long was waited after each try."""
        return [after - before for before, after in zip(self.ended_s, self.dialled_s[1:], strict=False)]


async def delays_of(*tries: Try, chance: float = LONGEST) -> list[float]:
    """How long a link waits after each of these tries."""
    peer = Peer(tries)
    with trio.move_on_after(10_000):
        await keep_link(
            peer.dial,
            "/x",
            peer.converse,
            LinkState(),
            backoff=Backoff(0.5, 30.0),
            chance=Chance(chance),
            now_us=now_us,
        )
    assert len(peer.delays_s) == len(tries)
    return peer.delays_s


def unreachable(_connected: Report, _progressed: Report) -> None:
    raise PeerGone("link.refused", "nothing listens")


def connected_for(seconds: float) -> Try:
    def stand(connected: Report, _progressed: Report) -> float:
        connected()
        return seconds

    return stand


def refusal(error: BackhaulError) -> Try:
    def refuse(_connected: Report, _progressed: Report) -> None:
        raise error

    return refuse


async def test_only_a_connection_that_stood_for_a_minute_makes_the_next_delay_short(autojump_clock: MockClock) -> None:
    tries = [unreachable] * 8
    *_, after_failures, after_short = await delays_of(*tries, connected_for(59.0))
    assert after_failures == after_short == pytest.approx(30.0)
    assert (await delays_of(*tries, connected_for(61.0)))[-1] == pytest.approx(1.0)
    accepted_and_dropped = await delays_of(*[connected_for(0.0)] * 8)
    assert accepted_and_dropped[-1] == pytest.approx(30.0), "a mere connect is no progress"


async def test_a_minute_of_dialling_is_no_stable_connection(autojump_clock: MockClock) -> None:
    def stand_unanswered(_connected: Report, _progressed: Report) -> float:
        return 61.0

    assert (await delays_of(*[unreachable] * 8, stand_unanswered))[-1] == pytest.approx(30.0)


async def test_useful_work_makes_the_next_delay_short(autojump_clock: MockClock) -> None:
    def work(connected: Report, progressed: Report) -> None:
        connected()
        progressed()
        raise PeerGone("link.lost", "the line was cut")

    assert (await delays_of(*[unreachable] * 8, work))[-1] == pytest.approx(1.0)


async def test_a_peers_hint_is_honoured(autojump_clock: MockClock) -> None:
    hinted = PeerRefused("journal.unavailable", "wait", status="UNAVAILABLE", retry_after_s=20.0)
    assert 20.0 <= (await delays_of(refusal(hinted)))[0] <= 25.0


@pytest.mark.parametrize("chance", [0.0, 0.5])
async def test_a_link_that_is_sent_away_dials_within_the_time_it_is_given(
    chance: float, autojump_clock: MockClock
) -> None:
    def drained(connected: Report, _progressed: Report) -> Drain:
        connected()
        return Drain(20.0, "stopping")

    assert (await delays_of(drained, chance=chance))[0] == pytest.approx(0.5 + chance * 19.5)


@pytest.mark.parametrize("code", sorted(_LONG_WAIT))
async def test_what_dialling_again_soon_cannot_mend_waits_long(code: str, autojump_clock: MockClock) -> None:
    assert (await delays_of(refusal(BackhaulError(code, "no"))))[0] >= 150.0


@pytest.mark.parametrize(
    ("code", "level"),
    [
        ("link.refused", "info"),
        ("link.not_backhaul", "warning"),
        ("link.tls_failed", "warning"),
        ("link.wrong_key_usage", "warning"),
    ],
)
async def test_a_peer_that_answers_and_is_not_ours_is_no_line_that_is_down(
    code: str, level: str, autojump_clock: MockClock
) -> None:
    with structlog.testing.capture_logs() as lines:
        await delays_of(refusal(PeerGone(code, "no")))
    assert {line["log_level"] for line in lines if line["event"] == "link.unreachable"} == {level}


async def test_a_forbidden_peer_waits_long_and_one_that_needs_room_does_not(autojump_clock: MockClock) -> None:
    forbidden = BackhaulError("auth.identity_mismatch", "no", kind=ErrorKind.FORBIDDEN)
    assert (await delays_of(refusal(forbidden)))[0] >= 150.0
    for code in _NEEDS_ROOM:
        assert (await delays_of(refusal(BackhaulError(code, "full"))))[0] <= 30.0
