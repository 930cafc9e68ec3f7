"""What crosses the border between trio and asyncio: results, errors, cancellation, and calls that finish."""

from __future__ import annotations

import asyncio
import socket

import pytest
import trio
import trio.testing

from common import border


async def test_results_and_errors_cross_both_ways() -> None:
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return value * 2

    async def fail(value: int) -> int:
        raise ValueError(value)

    async def increment(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value + 1

    async def double_the_next(value: int) -> int:
        return 2 * await border.from_asyncio(increment)(value)

    async with border.open_loop():
        assert await border.call_asyncio(double, 21) == 42
        assert await border.call_asyncio(double_the_next, 20) == 42
        with pytest.raises(ValueError, match="7"):
            await border.call_asyncio(fail, 7)


async def test_a_cancelled_call_cancels_the_asyncio_side() -> None:
    seen: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with border.open_loop():
        with trio.move_on_after(0.01) as scope:
            await border.call_asyncio(wait_for_ever)
    assert scope.cancelled_caught
    assert seen == ["cancelled"]


async def test_a_call_that_must_finish_finishes_though_its_caller_is_cancelled() -> None:
    let_go = trio.Event()
    results: list[int] = []
    cuts: list[None] = []

    async def statement() -> int:
        await border.from_asyncio(let_go.wait)()
        return 5

    async def caller() -> None:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_then_let_go, scope)
            results.append(await border.finish_asyncio(statement, deadline_s=5, cut=lambda: cuts.append(None)))
            await trio.lowlevel.checkpoint()
            results.append(-1)  # not reached: the cancellation waited for this checkpoint
        assert scope.cancelled_caught

    async def cancel_then_let_go(scope: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        let_go.set()

    async with border.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(caller)
    assert (results, cuts) == ([5], [])


async def test_a_call_that_does_not_finish_is_cut_at_its_deadline() -> None:
    async with border.open_loop():
        answer: asyncio.Future[int] = asyncio.get_event_loop().create_future()

        async def statement() -> int:
            return await answer

        with pytest.raises(trio.TooSlowError):
            await border.finish_asyncio(
                statement, deadline_s=0.01, cut=lambda: answer.set_exception(ConnectionError("cut"))
            )


async def test_a_cut_that_is_not_felt_does_not_hold_the_caller_for_ever(
    autojump_clock: trio.abc.Clock,
) -> None:
    async def statement() -> None:
        await asyncio.Event().wait()

    async with border.open_loop():
        started_at = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await border.finish_asyncio(statement, deadline_s=30, cut=lambda: None)
        assert trio.current_time() - started_at < 40


async def test_an_error_of_a_call_that_must_finish_is_its_own() -> None:
    async def statement() -> None:
        raise KeyError("row")

    async with border.open_loop():
        with pytest.raises(KeyError):
            await border.finish_asyncio(statement, deadline_s=5, cut=lambda: None)


class Turns(trio.abc.Instrument):
    """Counts the turns of trio's loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_call_over_a_socket_costs_two_turns_of_the_loop() -> None:
    """One until the answer has come, one to the caller; as trio-asyncio comes it would be seven."""
    here, there = socket.socketpair()
    here.setblocking(False)
    turns = Turns()

    async def ask() -> bytes:
        writer.write(b"?")
        return await reader.readexactly(1)

    async def answer_all() -> None:
        server = trio.socket.from_stdlib_socket(there)
        while await server.recv(1):
            await server.send(b"!")

    with there:
        async with border.open_loop(), trio.open_nursery() as nursery:
            nursery.start_soon(answer_all)
            reader, writer = await border.call_asyncio(lambda: asyncio.open_connection(sock=here))
            await border.finish_asyncio(ask, deadline_s=5, cut=writer.close)
            trio.lowlevel.add_instrument(turns)
            for _ in range(50):
                assert await border.finish_asyncio(ask, deadline_s=5, cut=writer.close) == b"!"
            trio.lowlevel.remove_instrument(turns)
            writer.close()
    assert turns.count <= 50 * 4, "two for us and two for the other end, which runs here too"


async def test_callbacks_run_in_the_order_they_were_asked_for_whoever_runs_them() -> None:
    ran: list[str] = []

    async def statement() -> None:
        loop.call_soon(ran.append, "first")
        loop.call_soon(lambda: loop.call_soon(ran.append, "third"))
        loop.call_later(0, ran.append, "timer")
        loop.call_soon(ran.append, "second")
        await asyncio.sleep(0.01)

    async with border.open_loop():
        loop = asyncio.get_event_loop()
        loop.call_soon(ran.append, "before")
        await border.finish_asyncio(statement, deadline_s=5, cut=lambda: None)
        await border.call_asyncio(asyncio.sleep, 0)
        assert [name for name in ran if name != "timer"] == ["before", "first", "second", "third"]
        assert "timer" in ran


async def test_callbacks_that_go_on_for_ever_leave_others_their_turn() -> None:
    again = True
    turns = 0

    def chase() -> None:
        if again:
            loop.call_soon(chase)

    async def statement() -> None:
        chase()

    async with border.open_loop():
        loop = asyncio.get_event_loop()
        await border.finish_asyncio(statement, deadline_s=5, cut=lambda: None)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            turns += 1
        again = False
    assert turns == 10


async def test_a_trio_task_that_asyncio_starts_has_begun_before_what_was_asked_for_after_it() -> None:
    ran: list[str] = []

    async def begin() -> None:
        ran.append("task")

    async def statement() -> None:
        task = asyncio.ensure_future(border.from_asyncio(begin)())
        await asyncio.sleep(0)
        loop.call_soon(ran.append, "after")
        await task

    async with border.open_loop():
        loop = asyncio.get_event_loop()
        await border.finish_asyncio(statement, deadline_s=5, cut=lambda: None)
    assert ran == ["task", "after"]
