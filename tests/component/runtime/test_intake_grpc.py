"""A stream of appends: answers keep the order of the requests, leave together, and wait where the line takes none."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import outcome
import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError
from common.core.journal.append import Appended, AppendOutcome, LocalAppend
from common.journal.group_commit import GroupCommit, OnSettled, open_group_commit
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.runtime.intake import Intake
from common.runtime.intake_grpc import _WAITING_MAX, APPEND_STREAM_PATH, intake_methods
from common.transport.codec import intake as codec
from common.transport.stream import PeerClosed, PeerGone, PeerInfo, ServedStream, StreamMethod
from tests.support.builders import START_US, ids, local


class Line:
    """The served end of a stream: what comes and what left, in one write each. ``takes`` is what it takes at once."""

    metadata: Mapping[str, str] = {}
    peer = PeerInfo("a caller")

    def __init__(self, *requests: bytes) -> None:
        self.requests = deque(requests)
        self.more = trio.Event()
        self.is_ended = True
        self.writes: list[list[bytes]] = []
        self.takes = True
        self.room = trio.Event()
        self.fault: BackhaulError | None = None
        self._held: list[bytes] | None = None
        self.read = 0

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.requests and not self.is_ended:
            await self.more.wait()
        if not self.requests:
            raise PeerClosed
        self.read += 1
        return self.requests.popleft()

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            self.writes.append(held)

    def send_nowait(self, message: bytes) -> bool:
        if self.takes:
            assert self._held is not None
            self._held.append(message)
        return self.takes

    async def send(self, message: bytes) -> None:
        await self.room.wait()
        if self.fault is not None:
            raise self.fault
        self.writes.append([message])

    @property
    def answers(self) -> list[object]:
        """First positions, or codes of refusals."""
        return [_shown(message) for write in self.writes for message in write]


def _shown(message: bytes) -> object:
    try:
        return codec.decode_append_reply(message)[0]
    except BackhaulError as refusal:
        return refusal.code


class Held:
    """A writer whose outcomes the test gives."""

    def __init__(self) -> None:
        self.taken: list[OnSettled] = []
        self.is_full = False
        self.room = trio.Event()

    def submit_nowait(self, _: LocalAppend, on_settled: OnSettled) -> bool:
        if not self.is_full:
            self.taken.append(on_settled)
        return not self.is_full

    async def wait_room(self) -> None:
        await self.room.wait()

    def settle(self, *results: tuple[int, outcome.Outcome[AppendOutcome]]) -> None:
        """As one group."""
        after = {self.taken[index](result) for index, result in results}
        for finish in after:
            assert finish is not None
            finish()


def stored(position: int) -> outcome.Outcome[AppendOutcome]:
    return outcome.Value(cast(AppendOutcome, Appended(position, [1])))


def refused(code: str) -> outcome.Outcome[AppendOutcome]:
    return outcome.Error(BackhaulError(code, "no", ""))


def serving(writer: Any) -> Callable[[Line], Any]:  # noqa: ANN401
    intake = Intake(writer, entity_prefix="", event_max_bytes=100, request_max_events=10, request_max_bytes=10_000)
    method = intake_methods(intake)[APPEND_STREAM_PATH]
    assert isinstance(method, StreamMethod)
    return lambda line: method.handler(cast(ServedStream, line))


GOOD = codec.encode_append_request(local("A|1"))
BAD = codec.encode_append_request(local("no separator"))


@pytest.fixture
async def commit() -> AsyncIterator[GroupCommit]:
    async with (
        open_memory_journal(MemoryDatabase(), now_us=lambda: START_US, new_id=ids().__next__) as journal,
        open_group_commit(journal.log) as writer,
    ):
        yield writer
        await trio.lowlevel.checkpoint()


async def test_what_one_commit_stores_is_answered_in_one_write(commit: GroupCommit) -> None:
    line = Line(*[GOOD] * 5)
    with trio.fail_after(5):
        await serving(commit)(line)
    assert line.answers == [1, 2, 3, 4, 5]
    assert len(line.writes) == commit.commits < 5


async def test_a_refusal_is_answered_in_its_place(autojump_clock: trio.testing.MockClock) -> None:
    writer, line = Held(), Line(GOOD, BAD, b"\xff", GOOD, BAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving(writer), line)
        await trio.testing.wait_all_tasks_blocked()
        assert line.answers == []
        writer.settle((1, stored(8)))
        assert line.answers == []  # the first one has no answer yet
        writer.settle((0, refused("journal.full")))
        assert [len(write) for write in line.writes] == [5]
        assert line.answers == ["journal.full", "entity.invalid_name", "link.malformed", 8, "entity.invalid_name"]


async def test_a_refusal_waits_for_no_commit(autojump_clock: trio.testing.MockClock) -> None:
    line = Line(BAD)
    with trio.fail_after(5):
        await serving(Held())(line)
    assert line.answers == ["entity.invalid_name"]


async def test_answers_that_the_line_does_not_take_wait_for_it_and_stay_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    writer, line = Held(), Line(*[GOOD] * 4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving(writer), line)
        await trio.testing.wait_all_tasks_blocked()
        line.takes = False
        writer.settle((0, stored(1)), (1, stored(2)))
        line.takes = True
        writer.settle((2, stored(3)))  # must not overtake
        assert line.answers == []
        line.room.set()
        await trio.testing.wait_all_tasks_blocked()
        assert line.answers == [1, 2, 3]
        writer.settle((3, stored(4)))
        assert line.answers == [1, 2, 3, 4]


async def test_an_answer_that_is_being_sent_is_not_overtaken_nor_sent_again_nor_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    writer, line = Held(), Line(*[GOOD] * 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving(writer), line)
        await trio.testing.wait_all_tasks_blocked()
        line.takes = False
        writer.settle((0, stored(1)))
        await trio.testing.wait_all_tasks_blocked()
        line.takes = True
        writer.settle((1, stored(2)))
        assert line.answers == []
        line.room.set()
    assert line.answers == [1, 2]


async def test_so_many_wait_for_their_commit_and_no_more_is_read(autojump_clock: trio.testing.MockClock) -> None:
    writer, line = Held(), Line(*[GOOD] * (2 * _WAITING_MAX))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving(writer), line)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(writer.taken), line.read) == (_WAITING_MAX, _WAITING_MAX + 1)
        writer.settle((0, stored(1)))
        await trio.testing.wait_all_tasks_blocked()
        assert len(writer.taken) == _WAITING_MAX + 1
        nursery.cancel_scope.cancel()


async def test_a_full_queue_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    writer, line = Held(), Line(GOOD)
    writer.is_full = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving(writer), line)
        await trio.testing.wait_all_tasks_blocked()
        assert not writer.taken
        writer.is_full = False
        writer.room.set()
        await trio.testing.wait_all_tasks_blocked()
        writer.settle((0, stored(1)))
    assert line.answers == [1]


async def test_a_line_that_breaks_ends_the_stream_and_late_answers_harm_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    writer, line = Held(), Line(GOOD, GOOD)
    line.is_ended = False
    with pytest.RaisesGroup(PeerGone, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving(writer), line)
            await trio.testing.wait_all_tasks_blocked()
            line.takes = False
            line.fault = PeerGone("link.lost", "gone")
            writer.settle((0, stored(1)))
            line.room.set()
    writer.settle((1, stored(2)))
    assert line.answers == []
