"""The journal's own threads: who waits for what, and what is left when they end."""

from __future__ import annotations

import os
import threading

import pytest
import trio
import trio.testing

from common.journal.sqlite.threads import open_storage_threads


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_result_and_an_error_come_back_to_who_asked() -> None:
    async with open_storage_threads() as run:
        assert await run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run(divmod, 7, 0)
        assert await run(threading.get_ident) != threading.get_ident()


async def test_a_cancellation_waits_for_what_runs_and_then_counts() -> None:
    ended = []

    def work() -> None:
        threading.Event().wait(0.05)
        ended.append(True)

    async with open_storage_threads() as run:
        with trio.move_on_after(0.01) as scope:
            await run(work)
            assert ended
            await run(ended.append, False)
        assert scope.cancelled_caught
        assert ended == [True]


async def test_two_at_a_time_and_the_third_waits() -> None:
    both_run = threading.Barrier(3, timeout=10)
    order: list[str] = []

    def work() -> None:
        both_run.wait()

    async with open_storage_threads() as run, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(run, work)
        await trio.testing.wait_all_tasks_blocked()

        async def third() -> None:
            await run(order.append, "third")

        nursery.start_soon(third)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        both_run.wait()
    assert order == ["third"]


async def test_threads_and_pipes_are_gone_afterwards() -> None:
    async with open_storage_threads() as run:
        await run(int)
    before = threading.active_count(), _open_files()
    for _ in range(3):
        async with open_storage_threads() as run:
            await run(int)
    assert (threading.active_count(), _open_files()) == before
