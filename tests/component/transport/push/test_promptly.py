"""What leaves a push stream's ends without another task being woken, and what must not: order, filters, questions, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import outcome
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.events.transformations import Transformed
from common.core.flow.measures import CodeCounts
from common.core.flow.messages import Drain, EdgeHealth, Heartbeat
from common.core.journal.append import AppendOutcome, AppendRequest, ParkedEvent, Pushed, PushedAppend
from common.core.journal.history import Offset, Resume
from common.core.push.filter_transition import PushFilter, PushFilterApplied
from common.core.push.messages import Ack, FromCloud, FromEdge, PastKnown, PastQuestion, PushBatch, Start
from common.core.push.receiver import Endpoint
from common.journal.group_commit import AHEAD_MIN_ROWS, OnSettled
from common.journal.stores.log import LogPage
from common.journal.stores.push_filters import PushFilterStore
from common.transport.codec import push as codec
from common.transport.push.endpoint_stream import EndpointSettings, EndpointStream, OriginStream
from common.transport.stream import MessageStream, PeerClosed, PeerInfo
from tests.support.builders import START_US
from tests.support.push import LIMITS, PushWorld, append, wait_for_head, whole_log

TIMEOUT_S = 30.0


class Line:
    """The cloud's end of a stream: what the edge says comes by ``says``, what is sent is kept."""

    peer = PeerInfo("edge:1")
    bytes_received = 0

    def __init__(self) -> None:
        self._to_cloud, self._arrived = trio.open_memory_channel[bytes](100)
        self.sent: list[FromCloud] = []
        self.is_full = False
        self.is_slow = False

    def says(self, message: FromEdge) -> None:
        self.bytes_received += 1
        self._to_cloud.send_nowait(codec.encode_from_edge(message))

    def ends(self) -> None:
        """The edge has said all it had to say."""
        self._to_cloud.close()

    async def receive(self) -> bytes:
        try:
            return await self._arrived.receive()
        except trio.EndOfChannel:
            raise PeerClosed from None

    async def send(self, message: bytes) -> None:
        await trio.sleep(1 if self.is_slow else 0)
        self.sent.append(codec.decode_from_cloud(message))

    def send_nowait(self, message: bytes) -> bool:
        if not self.is_full:
            self.sent.append(codec.decode_from_cloud(message))
        return not self.is_full

    def abort(self) -> None: ...


class Writer:
    """Takes appends and says when they are settled."""

    def __init__(self) -> None:
        self.is_full = False
        self.room = trio.Event()
        self.taken: list[tuple[PushedAppend, OnSettled]] = []

    async def wait_room(self) -> None:
        if self.is_full:
            await self.room.wait()

    def submit_nowait(self, request: AppendRequest, on_settled: OnSettled) -> bool:
        assert isinstance(request, PushedAppend)
        self.taken.append((request, on_settled))
        return True

    def settle(self, index: int, *parked: ParkedEvent) -> None:
        """As the task that commits does."""
        request, on_settled = self.taken[index]
        stored: AppendOutcome = Pushed(request.through.position, len(request.events), parked)
        on_settled(outcome.Value(stored))

    @property
    def positions(self) -> list[int]:
        return [request.through.position for request, _ in self.taken]


class CloudsEnd:
    """A stream after Start, over a line and a writer that the test holds in its hands."""

    def __init__(self) -> None:
        self.line, self.writer, self.known, self.changed = Line(), Writer(), trio.Event(), trio.Event()
        stored = Offset("j", "g", 0)
        self.start = Start(1, stored, Resume.RESUME, "cloud", "cg", LIMITS, 0)
        self.stream = EndpointStream(
            cast(MessageStream, self.line),
            Endpoint("edge-1", 1, 1, stored, LIMITS, 10),
            OriginStream("edge-1", 1, "edge:1", START_US, "resume", 0),
            cast(PushFilterStore, self),
            self._known,
            self.writer,
            EndpointSettings(LIMITS, 10, 10.0, 10.0, TIMEOUT_S, require_identity=False),
            lambda: START_US,
            CodeCounts(),
        )

    async def _known(self, _origin_id: str, names: object) -> list[int]:
        await self.known.wait()
        return [7] * len(cast(tuple[str, ...], names))

    async def change(self, _origin_id: str, _session: int, _change: PushFilterApplied) -> None:
        """As ``PushFilterStore.change``."""
        await self.changed.wait()

    async def run(self) -> None:
        await self.stream.run(self.start, self._draining)

    def _draining(self) -> Drain | None:
        return None

    @property
    def acks(self) -> list[int]:
        return [message.position for message in self.line.sent if isinstance(message, Ack)]


@asynccontextmanager
async def clouds_end() -> AsyncIterator[CloudsEnd]:
    end = CloudsEnd()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.run)
        await wait_all_tasks_blocked()
        yield end
        nursery.cancel_scope.cancel()


def batch(after: int, through: int) -> PushBatch:
    n = through - after
    events = new_events(["S|a"] * n, ["Read"] * n, [b"x"] * n)
    events.position = list(range(after + 1, through + 1))
    events.seq_nr = list(events.position)
    events.prev_seq_nr = [number - 1 for number in events.position]
    return PushBatch(after, through, "g", events)


def ranges(after: int, n: int) -> PushBatch:
    stated = tuple(StatedRange(f"S|{number}", 1, 2, "dropped") for number in range(n))
    return PushBatch(after, after + n, "g", EventBatch(), stated)


class OthersSteps(trio.abc.Instrument):
    """Counts the steps of tasks by name, but for the one that installed it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._own = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._own:
            self.names.append(task.name.rpartition(".")[2])


async def test_a_batch_is_handed_over_by_who_receives_it_and_acknowledged_by_who_commits_it() -> None:
    async with clouds_end() as end:
        steps = OthersSteps()
        trio.lowlevel.add_instrument(steps)
        for number in range(5):
            end.line.says(batch(2 * number, 2 * number + 2))
            await wait_all_tasks_blocked()
            assert end.writer.positions[number:] == [2 * number + 2]
            end.writer.settle(number)
            assert end.acks[number:] == [2 * number + 2]
        trio.lowlevel.remove_instrument(steps)
        assert steps.names == ["_receive"] * 5
        assert (end.stream.state.stored_position, end.stream.state.events) == (10, 10)


async def test_what_comes_during_a_commit_is_merged_into_the_next_and_much_of_it_does_not_wait() -> None:
    async with clouds_end() as end:
        end.line.says(batch(0, 2))
        end.line.says(batch(2, 4))
        end.line.says(batch(4, 7))
        await wait_all_tasks_blocked()
        assert end.writer.positions == [2]
        end.writer.settle(0)
        await wait_all_tasks_blocked()
        assert end.writer.positions == [2, 7]
        for first in range(7, 7 + 2 * AHEAD_MIN_ROWS, 100):
            end.line.says(batch(first, first + 100))
            await wait_all_tasks_blocked()
        # The window's bound on what waits is less than that here, so the rest is not read.
        assert end.writer.positions == [2, 7]
        end.writer.settle(1)
        await wait_all_tasks_blocked()
        assert end.acks == [2, 7]


@pytest.mark.parametrize("much", [batch(2, 2 + AHEAD_MIN_ROWS), ranges(2, AHEAD_MIN_ROWS)], ids=["events", "ranges"])
async def test_much_that_comes_during_a_commit_goes_to_the_writer_at_once(much: PushBatch) -> None:
    async with clouds_end() as end:
        end.line.says(batch(0, 2))
        await wait_all_tasks_blocked()
        end.line.says(much)
        await wait_all_tasks_blocked()
        assert end.writer.positions == [2, much.through_position]
        end.line.says(batch(much.through_position, much.through_position + AHEAD_MIN_ROWS))
        await wait_all_tasks_blocked()
        assert len(end.writer.positions) == 2, "one group ahead, and no more"


async def test_acks_leave_in_order_and_what_there_is_more_to_tell_of_leaves_from_the_streams_own_task() -> None:
    async with clouds_end() as end:
        end.line.says(batch(0, 1))
        await wait_all_tasks_blocked()
        end.line.is_full = True
        end.writer.settle(0)
        assert end.acks == []
        end.line.is_full = False
        await wait_all_tasks_blocked()
        assert end.acks == [1]
        end.line.says(batch(1, 2))
        await wait_all_tasks_blocked()
        end.writer.settle(1, ParkedEvent(2, "S|a", 2, "parked.gap"))
        assert end.acks == [1]
        await wait_all_tasks_blocked()
        assert end.acks == [1, 2]
        assert end.stream.state.parked == 1


async def test_an_ack_does_not_overtake_one_that_is_being_sent(autojump_clock: MockClock) -> None:
    async with clouds_end() as end:
        end.line.is_slow = True
        end.line.says(batch(0, 1))
        await trio.sleep(0.1)
        end.writer.settle(0, ParkedEvent(1, "S|a", 1, "parked.gap"))
        await trio.sleep(0.1)
        end.line.says(batch(1, 2))
        await trio.sleep(0.1)
        end.writer.settle(1)
        await trio.sleep(3)
        assert end.acks == [1, 2]


async def test_a_batch_does_not_pass_a_change_of_filter_that_came_before_it() -> None:
    async with clouds_end() as end:
        end.line.says(PushFilterApplied(PushFilter(1), 0, needs_backfill=False))
        end.line.says(batch(0, 2))
        await wait_all_tasks_blocked()
        assert end.writer.positions == []
        end.changed.set()
        await wait_all_tasks_blocked()
        assert end.writer.positions == [2]


async def test_a_batch_does_not_pass_a_question_that_came_before_it() -> None:
    async with clouds_end() as end:
        end.line.says(batch(0, 1))
        await wait_all_tasks_blocked()
        end.line.says(PastQuestion(("S|b",)))
        end.line.says(batch(1, 2))
        await wait_all_tasks_blocked()
        end.writer.settle(0)
        await wait_all_tasks_blocked()
        assert end.writer.positions == [1]
        end.line.says(batch(2, 3))
        await wait_all_tasks_blocked()
        assert end.writer.positions == [1]
        end.known.set()
        await wait_all_tasks_blocked()
        assert end.line.sent[-1] == PastKnown((7,))
        assert end.writer.positions == [1, 3]


async def test_a_question_that_came_during_a_commit_is_answered_when_that_is_over() -> None:
    async with clouds_end() as end:
        end.known.set()
        end.line.says(batch(0, 1))
        end.line.says(PastQuestion(("S|b",)))
        await wait_all_tasks_blocked()
        end.writer.settle(0)
        await wait_all_tasks_blocked()
        assert end.line.sent[-1] == PastKnown((7,))


async def test_an_edge_that_ended_during_a_commit_is_let_go_when_that_is_over() -> None:
    end, is_over = CloudsEnd(), trio.Event()

    async def run() -> None:
        await end.run()
        is_over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        end.line.says(batch(0, 1))
        end.line.ends()
        await wait_all_tasks_blocked()
        end.writer.settle(0)
        await wait_all_tasks_blocked()
        assert (end.acks, is_over.is_set()) == ([1], True)
        nursery.cancel_scope.cancel()


async def test_a_journal_that_always_has_the_next_group_is_not_slow_while_it_stores_each(
    autojump_clock: MockClock,
) -> None:
    async with clouds_end() as end:
        end.line.says(batch(0, AHEAD_MIN_ROWS))
        for number in range(1, 10):
            end.line.says(batch(number * AHEAD_MIN_ROWS, (number + 1) * AHEAD_MIN_ROWS))
            await trio.sleep(TIMEOUT_S / 3)
            assert len(end.writer.taken) == number + 1
            end.writer.settle(number - 1)
        assert len(end.acks) == 9


async def test_what_the_writer_has_no_room_for_waits_and_passes_nothing(autojump_clock: MockClock) -> None:
    async with clouds_end() as end:
        end.writer.is_full = True
        end.line.says(batch(0, 1))
        await trio.sleep(1)
        assert end.writer.positions == []
        end.writer.is_full = False
        end.line.says(batch(1, 2))
        await trio.sleep(1)
        end.writer.room.set()
        await trio.sleep(1)
        assert end.writer.positions == [2], "one append of both, in order"


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_journal_that_does_not_store_is_left_within_the_timeout(
    is_full: bool, autojump_clock: MockClock
) -> None:
    began_s = trio.current_time()
    with pytest.RaisesGroup(
        pytest.RaisesExc(BackhaulError, match="the journal did not take a batch"), flatten_subgroups=True
    ):
        async with clouds_end() as end:
            end.writer.is_full = is_full
            end.line.says(batch(0, 1))
            while True:
                await trio.sleep(1)
                end.line.bytes_received += 1
    assert TIMEOUT_S <= trio.current_time() - began_s <= 1.2 * TIMEOUT_S
    assert not [message for message in end.line.sent if isinstance(message, Heartbeat)] or is_full


async def test_an_idle_stream_still_has_heartbeats_after_acks_of_the_committing_task(autojump_clock: MockClock) -> None:
    async with clouds_end() as end:
        for number in range(12):
            end.line.says(batch(number, number + 1))
            await trio.sleep(5)
            end.writer.settle(number)
        assert not [message for message in end.line.sent if isinstance(message, Heartbeat)]
        await trio.sleep(10.5)
        assert [message for message in end.line.sent if isinstance(message, Heartbeat)]


# -- the edge's end ----------------------------------------------------------------------------------------------------


async def test_what_is_stored_is_sent_in_the_commits_turn_while_nothing_is_chosen(autojump_clock: MockClock) -> None:
    world = PushWorld(batch_events=400)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await trio.sleep(1)
        sent = list[int]()
        with edge.log.feed.listen(lambda _: sent.append(link.sent_position)):
            steps = OthersSteps()
            trio.lowlevel.add_instrument(steps)
            for _ in range(5):
                await append(edge, ["S|a", "S|b"])
                await trio.sleep(0.05)
            trio.lowlevel.remove_instrument(steps)
            assert sent == [2, 4, 6, 8, 10]
            assert steps.names.count("keep") <= 1, "the task that sends polls"
            await append(edge, ["S|a"] * 300)
            assert sent[-1] == 10, "so much would keep the commit's callers waiting"
        await wait_for_head(cloud, 310)
        assert (await whole_log(cloud)).seq_nr == (await whole_log(edge)).seq_nr
        assert link.connects == 1


@pytest.mark.parametrize(("spacing_s", "most", "least"), [(0.0, 40, 40), (0.01, 9, 8)])
async def test_groups_that_follow_each_other_closely_leave_together_in_a_busy_edge(
    autojump_clock: MockClock, spacing_s: float, most: int, least: int
) -> None:
    world = PushWorld(spacing_s=spacing_s)
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await trio.sleep(1.2)  # the sending task waits, and has not just looked
        sent = [link.sent_position]
        for _ in range(40):
            await append(edge, ["S|a"])
            await trio.sleep(0.002)
            sent += {link.sent_position} - {sent[-1]}
        await trio.sleep(spacing_s)
        assert link.sent_position == 40, "what waited leaves when the spacing is over, with no commit behind it"
        assert least <= len({*sent, 40}) - 1 <= most
        await wait_for_head(cloud, 40)
        assert (await whole_log(cloud)).seq_nr == list(range(1, 41))


async def test_a_backlog_leaves_in_full_pages_without_a_pause(autojump_clock: MockClock) -> None:
    world = PushWorld(spacing_s=1.0)
    async with world.edge() as (edge, link):
        await append(edge, ["S|a"] * 340)
        began_s = trio.current_time()
        async with world.cloud() as (cloud, _):
            await wait_for_head(cloud, 340)
            assert link.sent_position == 340
            assert trio.current_time() - began_s < 1.0


async def test_nothing_passes_by_what_an_application_makes_of_events(autojump_clock: MockClock) -> None:
    def redacted(events: EventBatch) -> Transformed:
        return Transformed(replace(events, payload=[b"redacted"] * len(events)))

    world = PushWorld(on_push=redacted)
    async with world.cloud() as (cloud, _), world.edge() as (edge, _):
        for _ in range(5):
            await trio.sleep(1)
            await append(edge, ["S|a"])
        await wait_for_head(cloud, 5)
        assert set((await whole_log(cloud)).payload) == {b"redacted"}


async def test_an_edge_whose_commits_send_without_end_still_says_how_it_is(autojump_clock: MockClock) -> None:
    head = 0
    world = PushWorld(health=lambda: EdgeHealth(head))
    async with world.cloud() as (_, endpoint), world.edge() as (edge, _):
        for _ in range(120):
            await append(edge, ["S|a"])
            head = edge.log.history.head_position
            await trio.sleep(0.5)
        [stream] = endpoint.streams
        assert stream.health is not None
        assert head - 25 <= stream.health.head_position


async def test_a_commit_sends_nothing_while_the_sending_task_reads(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go again with the page that is being read."""
    world = PushWorld()
    async with world.cloud() as (cloud, _), world.edge() as (edge, link):
        await trio.sleep(1)
        read = edge.log.read

        async def read_slowly(after: int, **limits: object) -> LogPage:
            await trio.sleep(1)
            return await read(after, **limits)  # type: ignore[arg-type]

        monkeypatch.setattr(edge.log, "read", read_slowly)
        for _ in range(40):
            await append(edge, ["S|a"])
            await trio.sleep(1.7)  # meanwhile it looks, and looks again
        await wait_for_head(cloud, 40)
        assert (await whole_log(cloud)).seq_nr == list(range(1, 41))
        assert (link.connects, link.ends.total) == (1, 0)


async def test_where_a_filter_chooses_the_sending_task_does(autojump_clock: MockClock) -> None:
    world = PushWorld()
    own_filter = '[{"exclude_ids":["S|b"]}]'
    async with world.cloud() as (cloud, _), world.edge(own_filter=own_filter) as (edge, link):
        await trio.sleep(1)
        sent = list[int]()
        with edge.log.feed.listen(lambda _: sent.append(link.sent_position)):
            await append(edge, ["S|a", "S|b"])
        assert sent == [0]
        await wait_for_head(cloud, 1)
        assert (await whole_log(cloud)).persistence_id == ["S|a"]
