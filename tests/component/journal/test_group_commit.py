"""One writer for many callers: what shares a commit, in which order, and what everybody is told when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError
from common.core.events.stated_range import StatedRange
from common.core.journal.append import Appended, AppendOutcome, AppendRequest, LocalAppend
from common.journal import group_commit
from common.journal.group_commit import AfterGroup, CommitGroup, GroupCommit
from common.journal.stores.log import LogStore
from tests.component.journal.slow_journal import COMMIT_S, SlowJournal
from tests.support.builders import Origin, events, local


@pytest.fixture
def journal() -> SlowJournal:
    return SlowJournal()


def over(journal: SlowJournal) -> GroupCommit:
    return GroupCommit(cast(LogStore, journal))


def fit_in_one(*requests: AppendRequest) -> bool:
    group = CommitGroup()
    return all(group.admit(request, request.events.byte_size()) for request in requests)


class TestGroups:
    """Requests whose outcomes could depend on each other never share a commit."""

    def test_plain_appends_share_even_one_entity(self) -> None:
        assert fit_in_one(local("A|1"), local("A|1", "A|2"), local("A|1", append_id="k1"), local(append_id="k2"))

    @pytest.mark.parametrize("turned", [False, True])
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (local("A|1"), local("A|1", expected={"A|1": 0})),
            (local("A|1"), local("B|1", expected={"A|1": 0})),
            (local("A|1", expected={"A|1": 0}), local("A|1", expected={"A|1": 1})),
            (local("B|1", expected={"A|1": 0}), local("C|1", expected={"A|1": 0})),
            (local("A|1", append_id="k"), local("B|1", append_id="k")),
            (local("A|1"), Origin("e1").batch(("A|1", 1))),
            (local("B|1", expected={"A|1": 0}), Origin("e1").batch(("A|1", 1))),
            (Origin("e1").batch(("A|1", 1)), Origin("e2").batch(("A|1", 1))),
            (Origin("e1").batch(("A|1", 1)), Origin("e1").batch(("B|1", 1))),
            (Origin("e1").batch(("A|1", 1)), Origin("e2").batch(ranges=[StatedRange("A|1", 1, 2, "x")])),
            (local("A|1"), Origin("e2").batch(ranges=[StatedRange("A|1", 1, 2, "x")])),
        ],
    )
    def test_these_never_share(self, first: AppendRequest, second: AppendRequest, turned: bool) -> None:
        pair = (second, first) if turned else (first, second)
        assert not fit_in_one(*pair)

    def test_others_do_share(self) -> None:
        assert fit_in_one(
            local("A|1", expected={"A|1": 0}),
            local("A|2", expected={"A|2": 5}, append_id="k"),
            local("A|3"),
            Origin("e1").batch(("B|1", 1), ranges=[StatedRange("B|2", 1, 2, "x")]),
            Origin("e2").batch(("C|1", 1)),
        )

    def test_a_group_is_bounded_in_rows_and_bytes_but_takes_any_first_request(self) -> None:
        most = group_commit.GROUP_MAX_ROWS
        large = LocalAppend(events(*["A|1"] * (most + 1)))
        assert fit_in_one(large)
        assert not fit_in_one(large, local("B|1"))
        assert fit_in_one(LocalAppend(events(*["A|1"] * (most - 1))), local("B|1"))
        assert not fit_in_one(LocalAppend(events(*["A|1"] * most)), local("B|1"))
        group = CommitGroup()
        assert group.admit(local("A|1"), group_commit.GROUP_MAX_BYTES + 1)
        assert not group.admit(local("B|1"), 1)


class TestWriter:
    """What queues while a commit runs is the next commit."""

    async def test_a_lone_append_waits_for_nobody(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        begun_s = trio.current_time()
        assert await commit.append(local("A|1", "A|1")) == Appended(1, [0, 1])
        assert trio.current_time() - begun_s == COMMIT_S
        assert (commit.commits, commit.events, commit.queued) == (1, 2, 0)

    async def test_what_queues_meanwhile_is_one_group_in_order_of_arrival(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        answer: dict[str, AppendOutcome] = {}

        async def caller(name: str) -> None:
            answer[name] = await commit.append(local(name))

        async with trio.open_nursery() as callers:
            for name in ["A|1", "A|2", "A|3", "A|4"]:
                callers.start_soon(caller, name)
                await trio.testing.wait_all_tasks_blocked()
        assert journal.names() == [["A|1"], ["A|2", "A|3", "A|4"]]
        assert answer == {f"A|{number}": Appended(number, [0]) for number in range(1, 5)}
        assert trio.current_time() - 2 * COMMIT_S < 0.1
        assert (commit.commits, commit.events) == (2, 4)

    @pytest.mark.parametrize(
        "large",
        [
            LocalAppend(events(*["A|2"] * group_commit.AHEAD_MIN_ROWS)),
            Origin("e1").batch(
                ("A|2", 1),
                ranges=[StatedRange(f"B|{number}", 1, 2, "x") for number in range(group_commit.AHEAD_MIN_ROWS)],
            ),
        ],
        ids=["events", "ranges"],
    )
    async def test_a_large_group_is_handed_over_during_the_commit_before_it_and_a_small_one_is_not(
        self,
        large: AppendRequest,
        journal: SlowJournal,
        nursery: trio.Nursery,
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        begun_s = trio.current_time()
        submitted = [await commit.submit(local("A|1"))]
        await trio.testing.wait_all_tasks_blocked()
        submitted.append(await commit.submit(large))
        await trio.testing.wait_all_tasks_blocked()
        assert commit.queued == 0
        submitted.extend([await commit.submit(local("A|3")), await commit.submit(large)])
        await trio.testing.wait_all_tasks_blocked()
        assert commit.queued == 2  # two at a time, no more
        for each in submitted:
            await each.wait()
        assert journal.names() == [["A|1"], ["A|2"], ["A|3", "A|2"]]
        assert trio.current_time() - begun_s == pytest.approx(3 * COMMIT_S)

    async def test_two_halves_that_ask_again_at_once_become_one_group(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)

        async def caller(name: str) -> None:
            for _ in range(6):
                await commit.append(local(name))

        async with trio.open_nursery() as callers:
            for half in ("A", "B"):
                for number in range(20):
                    callers.start_soon(caller, f"{half}|{number}")
                await trio.testing.wait_all_tasks_blocked()
        assert list(map(len, journal.groups)) == [20, *[40] * 5, 20]  # in halves it would be twelve times 20

    async def test_a_request_that_may_not_share_keeps_its_place(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        async with trio.open_nursery() as callers:
            for request in (local("A|1"), local("B|1"), local("A|1", expected={"A|1": 1}), local("C|1")):
                callers.start_soon(commit.append, request)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(commit.run)
        # C could have gone with the first group; it does not overtake.
        assert journal.names() == [["A|1", "B|1"], ["A|1", "C|1"]]

    async def test_an_error_is_told_to_all_of_its_group_and_to_nobody_else(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        journal.error = BackhaulError("journal.unavailable", "gone for now", retry_after_s=1.0)
        answer: list[str] = []

        async def caller(request: AppendRequest) -> None:
            try:
                await commit.append(request)
            except BackhaulError as error:
                answer.append(error.code)
            else:
                answer.append("stored")

        async with trio.open_nursery() as callers:
            callers.start_soon(caller, local("A|1"))
            await trio.testing.wait_all_tasks_blocked()
            callers.start_soon(caller, local("A|2"))
            callers.start_soon(caller, local("A|3"))
            await trio.sleep(COMMIT_S * 2.5)
            assert answer == ["journal.unavailable"] * 3
            journal.error = None
            callers.start_soon(caller, local("A|4"))
        assert answer[3:] == ["stored"]
        assert journal.names() == [["A|4"]]
        assert commit.commits == 1

    async def test_a_full_queue_makes_callers_wait(
        self,
        journal: SlowJournal,
        nursery: trio.Nursery,
        autojump_clock: trio.testing.MockClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(group_commit, "QUEUE_MAX_REQUESTS", 3)
        commit = over(journal)
        async with trio.open_nursery() as callers:
            for number in range(5):
                callers.start_soon(commit.append, local(f"A|{number}"))
            await trio.testing.wait_all_tasks_blocked()
            assert commit.queued == 3
            nursery.start_soon(commit.run)
        assert [len(group) for group in journal.groups] == [3, 2]

    async def test_a_queue_that_is_full_of_bytes_makes_callers_wait(
        self,
        journal: SlowJournal,
        nursery: trio.Nursery,
        autojump_clock: trio.testing.MockClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(group_commit, "QUEUE_MAX_BYTES", 1_000)
        commit = over(journal)
        async with trio.open_nursery() as callers:
            for number in range(5):
                callers.start_soon(commit.append, local(f"A|{number}", payload=b"x" * 400))
            await trio.testing.wait_all_tasks_blocked()
            assert commit.queued == 2
            nursery.start_soon(commit.run)
        assert sum(len(group) for group in journal.groups) == 5

    async def test_what_one_task_submits_is_stored_in_that_order(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        submitted = [await commit.submit(local("A|1")) for _ in range(5)]
        outcomes = [await each.wait() for each in submitted]
        assert outcomes == [Appended(position, [0]) for position in range(1, 6)]

    async def test_what_is_wanted_after_the_group_is_done_once_and_when_all_of_it_know(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit, told = over(journal), list[str]()

        def one() -> None:
            told.append("after one")

        def two() -> None:
            told.append("after two")

        def settled(name: str, after: AfterGroup | None, _: object) -> AfterGroup | None:
            told.append(name)
            return after

        for name, after in (("a", one), ("b", two), ("c", None), ("d", one)):
            assert commit.submit_nowait(local(f"A|{name}"), partial(settled, name, after))
        nursery.start_soon(commit.run)
        await trio.sleep(2 * COMMIT_S)
        assert told == ["a", "b", "c", "d", "after one", "after two"]


class TestARequestTheStorageRefuses:
    async def test_it_fails_alone(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        """One bad peer must not be able to fail the commits of others again and again."""
        plain = journal.append_group

        async def picky(requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
            if any("bad" in name for request in requests for name in request.events.persistence_id):
                raise BackhaulError("journal.broken", "no column takes that")
            return await plain(requests)

        journal.append_group = picky  # type: ignore[method-assign]
        commit = over(journal)
        submitted = [await commit.submit(local(name)) for name in ("A|1", "A|bad", "A|2")]
        nursery.start_soon(commit.run)
        assert await submitted[0].wait() == Appended(1, [0])
        with pytest.raises(BackhaulError, match=r"journal\.broken"):
            await submitted[1].wait()
        assert await submitted[2].wait() == Appended(2, [0])

    async def test_what_comes_behind_it_overtakes_nothing_of_the_same_entity(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        """The next group is with the journal already, and would be stored before what is tried again."""
        plain = journal.append_group

        async def picky(requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
            if any("bad" in name for request in requests for name in request.events.persistence_id):
                async with journal._lock:
                    await trio.sleep(COMMIT_S)
                raise BackhaulError("projection.statement_failed", "no such table")
            return await plain(requests)

        journal.append_group = picky  # type: ignore[method-assign]
        commit = over(journal)
        submitted = [await commit.submit(local(name)) for name in ("A|1", "A|bad", "A|2")]
        nursery.start_soon(commit.run)
        await trio.testing.wait_all_tasks_blocked()
        behind = await commit.submit(LocalAppend(events("A|1", *["A|3"] * group_commit.AHEAD_MIN_ROWS)))
        await trio.testing.wait_all_tasks_blocked()
        assert commit.queued == 0
        last = await commit.submit(LocalAppend(events("A|2", *["A|4"] * group_commit.AHEAD_MIN_ROWS)))
        with pytest.raises(BackhaulError, match=r"journal\.unavailable"):
            await submitted[0].wait()
        with pytest.raises(BackhaulError, match=r"projection\.statement_failed"):
            await submitted[1].wait()
        assert await submitted[2].wait() == Appended(group_commit.AHEAD_MIN_ROWS + 2, [0])
        await behind.wait()
        await last.wait()
        assert journal.names() == [["A|1"], ["A|2"], ["A|2"]]


class TestCancellation:
    """Callers may leave at any time; the writer's end tells those who still wait."""

    async def test_what_a_caller_left_in_the_queue_is_stored_in_its_place(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        nursery.start_soon(commit.run)
        async with trio.open_nursery() as callers:
            callers.start_soon(commit.append, local("A|1"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(COMMIT_S / 2):
                await commit.append(local("A|2"))
            assert commit.queued == 1
            callers.start_soon(commit.append, local("A|3"))
        assert journal.names() == [["A|1"], ["A|2", "A|3"]]

    async def test_callers_that_leave_do_not_make_the_queue_longer_than_its_bound(
        self, journal: SlowJournal, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(group_commit, "QUEUE_MAX_REQUESTS", 3)
        commit = over(journal)
        for number in range(10):
            with trio.move_on_after(0.1):
                await commit.append(local(f"A|{number}"))
        assert commit.queued == 3

    async def test_a_caller_that_leaves_during_the_commit_leaves_the_others_alone(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        async with trio.open_nursery() as callers:
            callers.start_soon(commit.append, local("A|1"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(COMMIT_S / 2):
                nursery.start_soon(commit.run)
                await commit.append(local("A|2"))
        assert journal.names() == [["A|1", "A|2"]]

    async def test_closing_tells_those_in_the_commit_and_those_behind_it_and_those_who_come_later(
        self, journal: SlowJournal, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        answer: list[str] = []

        async def caller(name: str) -> None:
            with pytest.raises(BackhaulError) as refused:
                await commit.append(local(name))
            answer.append(refused.value.code)
            assert refused.value.retry_after_s

        async with trio.open_nursery() as callers:
            async with trio.open_nursery() as writer:
                writer.start_soon(commit.run)
                callers.start_soon(caller, "A|1")
                await trio.testing.wait_all_tasks_blocked()
                callers.start_soon(caller, "A|2")
                await trio.sleep(COMMIT_S / 2)
                writer.cancel_scope.cancel()
            with trio.fail_after(1):
                await caller("A|3")
        assert answer == ["journal.closing"] * 3
        with pytest.raises(BackhaulError, match="stopping"):
            commit.submit_nowait(local("A|4"), lambda _: None)
        assert journal.groups == []

    async def test_a_fault_of_the_journal_ends_the_writer_and_leaves_nobody_waiting(
        self, journal: SlowJournal, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = over(journal)
        journal.error = ZeroDivisionError()
        answer: list[str] = []

        async def caller() -> None:
            with pytest.raises(BackhaulError) as refused:
                await commit.append(local("A|1"))
            answer.append(refused.value.code)

        async with trio.open_nursery() as callers:
            callers.start_soon(caller)
            with pytest.RaisesGroup(ZeroDivisionError):
                await commit.run()
        assert answer == ["journal.closing"]
