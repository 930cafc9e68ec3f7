"""Where a projection begins: snapshots and deleted numbers, the same over the own log and over a stream; now, and order times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES, slice_of, slice_ranges
from common.core.filters.past import Past
from common.core.journal.statement import Statement
from common.journal.order_time import position_at
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.projection import parking
from common.projection.beginning import covered
from common.projection.handler_executor import call_inline
from common.projection.handler_invoker import HandlerInvoker
from common.projection.handlers import FORMS, Handler, OnFailure
from common.projection.latest import LATEST
from common.runtime.app.application import Follow
from common.runtime.app.handler_sink import HandlerSink
from common.transport.subscription.catalogue import StreamCatalogue
from common.watchdog import Watchdog
from tests.support.projections import Commits, log_of, logged, running, until
from tests.support.subscription.subscriptions import SubscriptionWorld, serving
from tests.support.sums import QUICK, Accounts, Sums, decode, filled, pushed_snapshot


@dataclass
class Place:
    """A handler somewhere: what it was given, and what its table says."""

    journal: Journal
    reach: Callable[[int], Awaitable[None]]
    failure: Callable[[], str]


@asynccontextmanager
async def local(source: Journal, handler: Handler) -> AsyncIterator[Place]:
    async with running(source, handler, settings=QUICK, decode=decode) as progress:

        async def reach(position: int) -> None:
            await until(lambda: all(one.position >= position for one in progress))

        yield Place(source, reach, lambda: progress[0].error_code)


@asynccontextmanager
async def remote(source: Journal, handler: Handler) -> AsyncIterator[Place]:
    world = SubscriptionWorld()
    failures: list[BackhaulError] = []
    late = _Late()
    sink = HandlerSink(HandlerInvoker(handler, decode, call_inline, Watchdog()), late, failures.append)  # type: ignore[arg-type]
    past = Follow(stream="A", handler=handler).past
    async with (
        serving(source, StreamCatalogue()) as endpoint,
        world.network.serve(endpoint.methods, host="source", port=7443, message_max_bytes=4_000_000, connections_max=9),
        world.consumer(sink=sink, stream_id="A", past=past) as (consumer, state),
    ):
        late.journal = consumer

        async def reach(position: int) -> None:
            await until(lambda: state.position >= position and not state.awaiting)

        yield Place(consumer, reach, lambda: failures[-1].code if failures else "")


class _Late:
    journal: Journal

    def __getattr__(self, name: str) -> object:
        return getattr(self.journal, name)


@pytest.mark.parametrize("where", [local, remote])
class TestRemoteIsLocal:
    """The same handler over the own log and over a stream."""

    async def test_snapshots_stand_for_what_is_deleted(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        accounts, sums = await filled(journal), Sums("each")
        async with where(journal, sums.handler) as place:
            await place.reach(8)
            await accounts.add(["A|gone", "A|plain"], [9, 10])
            await place.reach(10)
            assert await sums.rows(place.journal) == accounts.rows
        of_gone = [row[1:3] for row in sums.seen if row[0] == "A|gone"]
        assert of_gone == [(3, True), (4, False), (5, False)]
        assert [row[1:3] for row in sums.seen if row[0] == "A|plain"] == [(1, False), (2, False)]

    async def test_a_handler_that_takes_none_stops_with_a_code(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        await filled(journal)
        sums = Sums("each", takes_snapshots=False)
        async with where(journal, sums.handler) as place:
            await until(lambda: place.failure() != "")
            assert place.failure() == "projection.takes_no_snapshots"
        assert not [row for row in sums.seen if row[0] == "A|gone"]

    async def test_what_no_snapshot_stands_for_is_a_mark(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        accounts, sums = Accounts(journal), Sums("each", sees_deleted=True)
        await accounts.add(["A|x", "A|x", "A|y", "A|x", "A|gone", "A|y"], [1] * 6)
        await journal.log.trim(TrimLimit(2, 100))
        async with where(journal, sums.handler) as place:
            await place.reach(6)
            await until(lambda: len(sums.seen) >= 5)
        assert [row[1:] for row in sums.seen if row[0] == "A|x"] == [(2, False, 2), (3, False, 0)]
        assert [row[1:] for row in sums.seen if row[0] == "A|y"] == [(1, False, 0), (2, False, 0)]

    async def test_leaves_snapshots_alone_while_the_events_are_there(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        accounts, sums = Accounts(journal), Sums("each", takes_snapshots=False)
        await accounts.add(["A|x", "A|x", "A|x"], [1, 2, 3])
        await accounts.snapshot("A|x")
        async with where(journal, sums.handler) as place:
            await place.reach(3)
            assert await sums.rows(place.journal) == accounts.rows
        assert [row[1] for row in sums.seen] == [1, 2, 3]

    async def test_a_snapshot_that_came_up_from_an_edge_is_one(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        accounts, sums = Accounts(journal), Sums("each")
        await accounts.add(["A|x", "A|y", "A|x"], [1, 2, 3])
        await pushed_snapshot(accounts, "A|x", 50)
        await accounts.add(["A|x"], [4])
        async with where(journal, sums.handler) as place:
            await place.reach(5)
            assert await sums.rows(place.journal) == {"A|x": (54, 4), "A|y": (2, 1)}
        assert [row[1:3] for row in sums.seen if row[0] == "A|x"] == [(1, False), (2, False), (3, True), (4, False)]

    async def test_a_handler_that_takes_none_stops_at_one_from_an_edge(self, journal: Journal, where: Any) -> None:  # noqa: ANN401
        accounts, sums = Accounts(journal), Sums("each", takes_snapshots=False)
        await accounts.add(["A|x"], [1])
        await pushed_snapshot(accounts, "A|x", 50)
        async with where(journal, sums.handler) as place:
            await until(lambda: place.failure() != "")
            assert place.failure() == "projection.takes_no_snapshots"
        assert ("A|x", 2, True, 0) not in sums.seen


def test_a_stream_is_asked_for_events_where_the_handler_takes_no_snapshots() -> None:
    pasts = [Follow(stream="A", handler=Sums("each", takes_snapshots=takes).handler).past for takes in (True, False)]
    assert pasts == [Past.SNAPSHOT, Past.FULL]


@pytest.fixture(params=[form for form in FORMS if form != "statements"])
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class TestOwnLog:
    """A projection that is new, reset, or behind what retention deleted."""

    async def test_starts_from_snapshots_where_that_is_wanted(self, journal: Journal, form: str) -> None:
        accounts, sums = Accounts(journal), Sums(form, start_from="snapshots")
        names = [f"A|{number}" for number in range(30)]
        await accounts.add(names * 3, list(range(90)))
        await accounts.snapshot(*names[:20])
        await accounts.add(names, [5] * 30)
        with structlog.testing.capture_logs() as lines:
            async with running(journal, sums.handler, settings=QUICK, decode=decode, in_threads=True) as [progress]:
                await until(lambda: progress.position >= 120)
                assert await sums.rows(journal) == accounts.rows
        first = [row for row in sums.seen if row[0] == "A|3"]
        assert [row[1:3] for row in first] == [(3, True), (4, False)]
        assert len(sums.seen) == 20 + 20 + 10 * 4
        [line] = logged(lines, "projection.took_snapshots")
        assert line["snapshots"] == 20
        assert await journal.projections.query("SELECT count(*) FROM projection_covered") == [(0,)]
        assert await journal.projections.query("SELECT count(*) FROM projection_settled") == [(0,)]

    async def test_reads_no_more_of_the_log_than_snapshots_leave(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each", start_from="snapshots")
        await accounts.add(["A|x", "A|y"] * 50, [1] * 100)
        await accounts.snapshot("A|x", "A|y")
        await accounts.add(["A|x"], [1])
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 101)
        assert len(sums.seen) == 3
        assert await sums.rows(journal) == accounts.rows

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_cancels_and_changes_of_ranges_at_random_leave_every_sum_right(
        self, journal: Journal, seed: int
    ) -> None:
        chance, accounts = Random(seed), Accounts(journal)
        names = [f"A|{number * number} account" for number in range(25)]
        await accounts.add([chance.choice(names) for _ in range(200)], [chance.randrange(100) for _ in range(200)])
        await accounts.snapshot(*[name for name in accounts.sums if chance.random() < 0.7])
        await accounts.add([chance.choice(names) for _ in range(60)], [chance.randrange(100) for _ in range(60)])
        covered_through = await journal.snapshots.uncovered_after(260)
        await journal.log.trim(TrimLimit(260, 120, covered_types=frozenset({"A"})))
        sums = Sums("in_transaction", start_from=["log", "snapshots"][seed % 2])
        assert covered_through >= 0
        for number in range(30):
            if number % 3 == 1:
                await journal.projections.reshape("sums", slice_ranges(chance.choice([1, 2, 4, 8])))
            async with running(
                journal, sums.handler, owner=f"start-{number}", settings=QUICK, decode=decode, in_threads=True
            ):
                await trio.sleep(chance.random() * 0.1)
            await accounts.add([chance.choice(names) for _ in range(3)], [7, 8, 9])
            await accounts.snapshot(chance.choice(list(accounts.sums)))
        async with running(journal, sums.handler, settings=QUICK, decode=decode, in_threads=True) as progress:
            head = (await journal.log.stats()).head_position
            await until(lambda: all(one.position >= head for one in progress))
            await until(lambda: not any(one.error_code for one in progress))
        assert await sums.rows(journal) == accounts.rows

    async def test_a_wider_range_that_was_led_further_and_split_again_brings_nothing_twice(
        self, journal: Journal
    ) -> None:
        accounts, sums = Accounts(journal), Sums("each")
        low = next(name for name in (f"A|{number}x" for number in range(1_000, 2_000)) if slice_of(name) < 512)
        high = next(name for name in (f"A|{number}x" for number in range(9_000, 10_000)) if slice_of(name) >= 512)
        await accounts.add([low, low, high, high], [1, 2, 3, 4])
        await accounts.snapshot(low, high)
        await accounts.add([low], [5])
        await journal.log.trim(TrimLimit(4, 100))
        two = replace(QUICK, ranges=2, page_max_events=1)
        sums.poison = {(low, 3), (high, 2)}
        async with running(journal, sums.handler, settings=two, decode=decode) as [lower, upper]:
            await until(lambda: lower.failures > 0 and upper.failures > 0)
        # The lower range is led to the log and stands there. A snapshot of what the log has since is taken once both are one,
        # and then the upper half's fault is met again.
        await accounts.add([low], [6])
        await accounts.snapshot(low)
        await journal.projections.reshape("sums", [ALL_SLICES])
        async with running(journal, sums.handler, settings=replace(two, ranges=1), decode=decode) as [whole]:
            await until(lambda: whole.failures > 0)
        assert (low, 4, True, 0) in sums.seen
        await journal.projections.reshape("sums", slice_ranges(2))
        sums.poison = set()
        async with running(journal, sums.handler, settings=two, decode=decode) as [lower, upper]:
            await until(lambda: lower.position >= 6 and upper.position >= 6)
        assert await sums.rows(journal) == accounts.rows

    async def test_a_snapshot_is_taken_once_however_often_the_way_to_the_log_is_gone(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each", start_from="snapshots")
        names = [f"A|{number:02}" for number in range(30)]
        await accounts.add(names * 2, [1] * 60)
        await accounts.snapshot(*names)
        sums.poison = {(names[20], 2)}
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.failures > 5)
            assert progress.position == 0
            sums.poison = set()
            await until(lambda: progress.position >= 60)
        # Pages of 7: what was taken before the one with the poison does not come again with each attempt.
        once = [row[:2] for row in sums.seen if row[0] in {*names[:14], *names[21:]}]
        assert once == [(name, 2) for name in names[:14] + names[21:]]
        rows = await journal.projections.query("SELECT count(*), min(total), max(total) FROM sums")
        assert rows == [(30, 2, 2)]
        assert sorted({row[0] for row in sums.seen}) == names

    async def test_a_snapshot_of_what_a_merged_range_has_read_already_is_left_out(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each", start_from="snapshots")
        low = next(name for name in (f"A|{number}x" for number in range(9_000, 10_000)) if slice_of(name) < 512)
        high = next(name for name in (f"A|{number}x" for number in range(9_000, 10_000)) if slice_of(name) >= 512)
        await accounts.add([low, high, high], [1, 2, 3])
        await accounts.snapshot(low)
        sums.poison = {(low, 1)}
        two = replace(QUICK, ranges=2)
        async with running(journal, sums.handler, settings=two, decode=decode) as [failing, going]:
            await until(lambda: failing.failures > 0 and going.position >= 3)
        accounts.counts[high], accounts.sums[high] = 1, 2
        await accounts.snapshot(high)
        accounts.counts[high], accounts.sums[high] = 2, 5
        await journal.projections.reshape("sums", [ALL_SLICES])
        sums.poison = set()
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 3)
        assert await sums.rows(journal) == accounts.rows

    async def test_a_pushed_snapshot_goes_by_the_policy_of_a_handler_that_takes_none(
        self, journal: Journal, form: str
    ) -> None:
        accounts = Accounts(journal)
        sums = Sums(form, takes_snapshots=False, on_failure=OnFailure.PARK, attempts=2)
        await accounts.add(["A|x", "A|y"], [1, 2])
        await pushed_snapshot(accounts, "A|x", 50)
        await accounts.add(["A|y", "A|x"], [3, 4])
        async with running(journal, sums.handler, settings=QUICK, decode=decode, in_threads=True) as [progress]:
            await until(lambda: progress.position >= 5)
        assert await sums.rows(journal) == {"A|x": (1, 1), "A|y": (5, 2)}, "the rest flows on"

    async def test_what_is_gone_without_a_snapshot_stops_it_until_that_is_accepted(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each")
        await accounts.add(["B|other", "A|x", "A|x", "A|y"], [1, 2, 3, 4])
        await journal.log.trim(TrimLimit(2, 100))
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.failures > 1)
            assert progress.error_code == "projection.trimmed"
            [row] = await journal.projections.rows()
            assert row.failing is not None
            assert row.failing.code == "projection.trimmed"
            await journal.projections.intervene("sums", covered.accept("sums", 2))
            await until(lambda: progress.position >= 4)
        assert await sums.rows(journal) == {"A|x": (3, 2), "A|y": (4, 1)}

    async def test_what_is_gone_of_other_types_is_nothing_to_it(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each", takes_snapshots=False, entity_types=frozenset({"A"}))
        await accounts.add(["B|other", "A|x", "B|other", "A|y"], [1, 2, 3, 4])
        await journal.log.trim(TrimLimit(1, 100))
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 4)
        assert await sums.rows(journal) == {"A|x": (2, 1), "A|y": (4, 1)}

    async def test_one_that_was_moved_back_behind_retention_takes_snapshots_of_what_is_gone(
        self, journal: Journal
    ) -> None:
        accounts, sums = Accounts(journal), Sums("each")
        await accounts.add(["A|x", "A|y", "A|x", "A|x", "A|y"], [1, 2, 3, 4, 5])
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 5)
        await accounts.snapshot("A|x")
        await journal.log.trim(TrimLimit(4, 100, covered_types=frozenset({"A"})))
        await journal.projections.set_paused("sums", True)
        await journal.projections.move("sums", 2, [Statement("DELETE FROM sums WHERE account = 'A|x'")])
        await journal.projections.set_paused("sums", False)
        sums.seen.clear()
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 5)
        assert [row[:3] for row in sums.seen] == [("A|x", 3, True), ("A|y", 2, False)]
        assert (await sums.rows(journal))["A|x"] == (8, 3)

    @pytest.mark.parametrize("policy", [OnFailure.PARK, OnFailure.SKIP])
    async def test_a_snapshot_that_it_cannot_digest_goes_by_its_policy(
        self, journal: Journal, policy: OnFailure
    ) -> None:
        accounts = await filled(journal)
        sums = Sums("each", on_failure=policy, attempts=2)
        sums.poison = {("A|gone", 3)}
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 8)
            rows = await sums.rows(journal)
            assert {name: rows[name] for name in ("A|plain", "A|kept")} == {"A|plain": (7, 1), "A|kept": (15, 3)}
            if policy is OnFailure.SKIP:
                assert rows["A|gone"] == (6, 4)
                return
            assert "A|gone" not in rows
            sums.poison = set()
            assert await parking.want(journal.projections, "sums", "A|gone") == 2
            await until_rows(journal, sums, accounts.rows)
        assert [row[:3] for row in sums.seen if row[0] == "A|gone"] == [("A|gone", 3, True), ("A|gone", 4, False)]
        assert await sums.rows(journal) == accounts.rows

    async def test_the_last_event_of_each_needs_no_past(self, journal: Journal) -> None:
        accounts = Accounts(journal)
        await accounts.add(["A|x", "A|gone", "A|x", "A|snapped"], [1, 2, 3, 4])
        await accounts.snapshot("A|snapped")
        await accounts.add(["A|y"], [5])
        await journal.log.trim(TrimLimit(2, 100))
        await journal.log.trim(TrimLimit(4, 100, covered_types=frozenset({"A"})))
        with structlog.testing.capture_logs() as lines:
            async with running(journal, LATEST, settings=QUICK) as [progress]:
                await until(lambda: progress.position >= 5)
        rows = await journal.projections.query("SELECT persistence_id, payload FROM latest ORDER BY persistence_id")
        assert rows == [("A|snapped", b"4"), ("A|x", b"3"), ("A|y", b"5")]
        [line] = logged(lines, "projection.trimmed")
        assert (line["passed"], line["marks"]) == (2, 0)


class TestFromNow:
    """A projection that leaves out what was before: from now, or from an order time."""

    async def test_begins_at_the_end_of_the_log_and_there_again(self, journal: Journal) -> None:
        accounts, sums = Accounts(journal), Sums("each", start_from="now")
        await accounts.add(["A|x", "A|y"], [1, 2])
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until_declared(journal, "sums")
            await accounts.add(["A|x", "A|z"], [3, 4])
            await until(lambda: progress.position >= 4)
        commits = Commits()
        await accounts.add(["A|y"], [5])
        async with running(journal, sums.handler, settings=QUICK, decode=decode, commits=commits):
            await commits.reach(1)
        assert [row[:2] for row in sums.seen] == [("A|x", 2), ("A|z", 1), ("A|y", 2)]
        await journal.projections.reshape("sums", slice_ranges(2))
        await journal.projections.reshape("sums", [ALL_SLICES])
        await journal.projections.intervene("sums", [Statement("DELETE FROM sums")], restart=True)
        [row] = await journal.projections.rows()
        assert (row.position, row.begin) == (2, 2)

    async def test_begins_behind_an_order_time(self, journal: Journal) -> None:
        accounts = Accounts(journal)
        await accounts.add([f"A|{number}" for number in range(9)], list(range(9)))
        log = await log_of(journal)
        at = log.timestamp_us[4]
        assert [await position_at(journal.log, one) for one in (0, log.timestamp_us[0], at, at - 1, at * 2)] == [
            0, 1, 5, 4, 9,
        ]  # fmt: skip
        sums = Sums("each", start_from=rfc3339(at))
        async with running(journal, sums.handler, settings=QUICK, decode=decode) as [progress]:
            await until(lambda: progress.position >= 9)
        assert [row[0] for row in sums.seen] == ["A|5", "A|6", "A|7", "A|8"]
        await journal.log.trim(TrimLimit(3, 100))
        assert [await position_at(journal.log, log.timestamp_us[place]) for place in (0, 2, 3, 8)] == [0, 0, 4, 9]

    @pytest.mark.parametrize("start_from", ["", "yesterday", "2026-05-04T03:02:01", "snapshots"])
    def test_what_is_no_beginning_is_refused(self, start_from: str) -> None:
        with pytest.raises(BackhaulError) as refusal:
            Sums("each", takes_snapshots=False, start_from=start_from)
        assert refusal.value.code == "projection.invalid_handler"


async def until_rows(journal: Journal, sums: Sums, expected: Mapping[str, tuple[int, int]]) -> None:
    with trio.fail_after(60):
        while await sums.rows(journal) != expected:  # noqa: ASYNC110  the handler is called before the commit
            await trio.sleep(0.01)


async def until_declared(journal: Journal, name: str) -> None:
    with trio.fail_after(60):
        while not any(row.name == name for row in await journal.projections.rows()):  # noqa: ASYNC110
            await trio.sleep(0.01)


def rfc3339(timestamp_us: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=timestamp_us)).isoformat()
