"""A range that does not move, as every node sees it: from its row, which says what fails, how often and since when."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from common.core.journal.range_failure import RangeFailure
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.projection.handler_life import HandlerLife
from common.projection.handlers import Handler, OnFailure
from common.projection.progress import ProjectionProgress
from common.runtime.http.app import HttpApp
from common.runtime.http.projections import projection_routes
from common.testing.http_in_memory import http_request
from tests.support.members import Node, node
from tests.support.projections import UNAVAILABLE, Commits, Mendable, clock_us, log_of, running, staged_journal, store


async def listed(journal: Journal, progress: Sequence[ProjectionProgress] = ()) -> list[dict[str, Any]]:
    app = HttpApp(projection_routes(journal, now_us=clock_us, progress=progress), body_max_bytes=10_000)
    answer = await http_request(app, "GET", "/v1/projections")
    assert answer.status == 200
    rows: list[dict[str, Any]] = answer.json()["projections"]
    return rows


async def failure_of(journal: Journal) -> RangeFailure | None:
    [failing] = {row.failing for row in await journal.projections.rows()}
    return failing


async def test_every_node_shows_it_also_after_the_owner_died_and_none_once_it_moves(autojump_clock: MockClock) -> None:
    database = MemoryDatabase()
    journals = [staged_journal(database), staged_journal(database)]
    await store(journals[0], Random(1), 50)
    poison = (await log_of(journals[0])).envelope(20)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=False)

    async def owner_of_failing(nodes: Sequence[Node]) -> tuple[Node, dict[str, Any]]:
        with trio.fail_after(60):
            while True:
                seen = [[row for row in await listed(one.journal) if row["error_code"]] for one in nodes]
                owners = [one for one in nodes if seen[0] and one.instance == seen[0][0]["owner"]]
                if owners and seen[0][0]["attempts"] >= 4:
                    # Whoever is asked, the answer is the same but for times that go on.
                    for [row] in seen:
                        assert {**row, "lag_s": 0, "lease_left_s": 0} == {**seen[0][0], "lag_s": 0, "lease_left_s": 0}
                    return owners[0], seen[0][0]
                await trio.sleep(0.1)

    async with (
        node(journals[0], "n1", handlers=[mendable.handler]) as first,
        node(journals[1], "n2", handlers=[mendable.handler]) as second,
    ):
        owner, shown = await owner_of_failing([first, second])
        assert (shown["state"], shown["error_code"]) == ("failing", "projection.handler_failed")
        assert shown["error_position"] == poison.position
        assert "secret" not in str(shown)
        owner.work.cancel()
        other = second if owner is first else first
        later, kept = await owner_of_failing([other])
        assert later is other
        assert kept["failing_since_us"] == shown["failing_since_us"]
        assert kept["attempts"] >= shown["attempts"]
        mendable.is_mended = True
        await other.commits.reach(30)
        with trio.fail_after(60):
            while any(row["error_code"] or row["state"] for row in await listed(journals[0])):  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_a_failure_of_hours_is_written_a_few_times(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(2), 1)
    mendable = Mendable((await log_of(journal)).persistence_id[0], 1, bad_sql=False)
    written: list[int] = []
    set_failing = journal.projections.set_failing

    async def counted(lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        written.append(failing.attempts if failing else 0)
        return await set_failing(lease, failing)

    monkeypatch.setattr(journal.projections, "set_failing", counted)
    async with running(journal, mendable.handler, commits=commits) as [progress]:
        await trio.sleep(5_000)
        assert progress.failures > 100
        assert written == [2**power for power in range(progress.failures.bit_length())]
        mendable.is_mended = True
        await commits.reach(1)
        await trio.sleep(1)
    assert written[-1] > 0  # it ended with the commit
    assert await failure_of(journal) is None


async def test_a_range_without_failures_writes_none(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, commits = staged_journal(), Commits()
    monkeypatch.setattr(journal.projections, "set_failing", None)
    async with running(journal, commits=commits):
        for _ in range(10):
            await store(journal, Random(3), 30)
            await trio.sleep(1)
        await commits.reach(300)
        await trio.sleep(100)


async def test_a_store_that_did_not_take_it_is_offered_it_again_and_the_owner_shows_it_meanwhile(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = staged_journal()
    await store(journal, Random(4), 1)
    mendable = Mendable((await log_of(journal)).persistence_id[0], 1, bad_sql=False)

    async def refused(lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        raise UNAVAILABLE

    async with running(journal, mendable.handler) as shown:
        with monkeypatch.context() as patched:
            patched.setattr(journal.projections, "set_failing", refused)
            await trio.sleep(100)
            assert await failure_of(journal) is None
            [row] = await listed(journal, shown)
            assert (row["state"], row["error_code"]) == ("failing", "projection.handler_failed")
        await trio.sleep(100)
        failing = await failure_of(journal)
        assert failing is not None
        assert failing.code == "projection.handler_failed"


async def test_a_failure_without_an_event_ends_though_there_is_nothing_to_commit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = staged_journal()
    monkeypatch.setattr(HandlerLife, "open", broken_life)
    async with running(journal):
        await trio.sleep(100)
        failing = await failure_of(journal)
        assert failing is not None
        assert (failing.code, failing.position) == ("journal.unavailable", 0)
        monkeypatch.undo()
        await trio.sleep(100)
        assert await failure_of(journal) is None


def broken_life(life: HandlerLife) -> AbstractAsyncContextManager[None]:
    raise UNAVAILABLE


@pytest.mark.parametrize("policy", [OnFailure.STOP, OnFailure.PARK, OnFailure.SKIP])
async def test_a_policy_that_goes_on_ends_it_and_one_that_stops_leaves_it(
    autojump_clock: MockClock, policy: OnFailure
) -> None:
    journal, commits = staged_journal(), Commits()
    await store(journal, Random(5), 30)
    poison = (await log_of(journal)).envelope(10)
    mendable = Mendable(poison.persistence_id, poison.seq_nr, bad_sql=False)
    handler: Handler = replace(mendable.handler, on_failure=policy, attempts=3)
    async with running(journal, handler, commits=commits):
        await trio.sleep(200)
        [row] = await listed(journal)
        if policy is OnFailure.STOP:
            assert (row["paused"], row["error_code"]) == (True, "projection.handler_failed")
            assert row["error_position"] == poison.position
            mendable.is_mended = True
            await journal.projections.set_paused(handler.name, False)
            await trio.sleep(200)
            [row] = await listed(journal)
        assert (row["position"], row["error_code"], row["paused"]) == (30, None, False)
