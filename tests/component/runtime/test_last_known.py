"""What is known is answered within a second, with its age, however long the journal takes."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.runtime.last_known import LastKnown


class Reading:
    """Counts its reads, which take as long and fail as the test wants."""

    def __init__(self) -> None:
        self.takes_s = 0.01
        self.error: BackhaulError | None = None
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        await trio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error


def now_us() -> int:
    return round(trio.current_time() * 1e6) + 1_000_000_000


async def test_it_is_fresh_while_the_journal_answers_and_old_with_a_reason_while_it_does_not(
    autojump_clock: MockClock,
) -> None:
    reading = Reading()
    known = LastKnown(reading, now_us)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.run)
        await trio.sleep(10)
        assert reading.begun == 1, "nobody asked"
        fresh = await known.ask()
        assert (fresh["stale"], fresh["age_s"]) == (None, 0.01)
        await trio.sleep(10)
        reading.error = BackhaulError("journal.unavailable", "away", retry_after_s=1.0)
        old = await known.ask()
        assert (old["stale"], old["as_of"]) == ("away [journal.unavailable]", fresh["as_of"])
        assert old["age_s"] == 10.02
        reading.takes_s = math.inf
        began_s = trio.current_time()
        for _ in range(3):
            old = await known.ask()
        assert trio.current_time() - began_s < 3.0
        assert old["as_of"] == fresh["as_of"]
        assert old["stale"] == (
            "the journal has not answered within 0.8 s; the last time it was asked: away [journal.unavailable]"
        )
        nursery.cancel_scope.cancel()


async def test_a_read_that_began_before_the_question_does_not_answer_it(autojump_clock: MockClock) -> None:
    reading = Reading()
    reading.takes_s = 0.3
    known = LastKnown(reading, now_us)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.run)
        await trio.sleep(0.1)
        answers = []

        async def ask() -> None:
            answers.append(await known.ask())

        async with trio.open_nursery() as asking:
            for _ in range(5):
                asking.start_soon(ask)
        assert reading.begun == 2, "all who ask share one read"
        assert {answer["age_s"] for answer in answers} == {0.3}
        nursery.cancel_scope.cancel()


async def test_before_anything_is_known_it_says_so(autojump_clock: MockClock) -> None:
    reading = Reading()
    reading.takes_s = math.inf
    known = LastKnown(reading, now_us)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.run)
        answer = await known.ask()
        assert answer == {
            "as_of": None,
            "age_s": None,
            "stale": "the journal has not answered within 0.8 s",
        }
        nursery.cancel_scope.cancel()
