"""The loop's load: what its thread runs counts, what it sleeps does not, with the kernel's file and without."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from common.runtime.loop_load import open_loop_load

SPENT_S = 0.6


def run(load: Callable[[], float]) -> float:
    """Keep a processor, or wait for one, for some time."""
    load()
    end_s = time.thread_time() + SPENT_S
    while time.thread_time() < end_s:
        load()
    return load()


async def rest(load: Callable[[], float]) -> float:
    for _ in range(20):
        await trio.sleep(SPENT_S / 20)
        load()
    return load()


@pytest.mark.parametrize("path", ["/proc/thread-self/schedstat", "/nowhere"])
async def test_a_loop_that_runs_is_busier_than_one_that_sleeps(path: str) -> None:
    with open_loop_load(path) as load:
        rested = await rest(load)
        busy = run(load)
        assert 0 <= rested < busy <= 1
        assert await rest(load) < busy


async def test_what_it_waited_for_a_processor_counts(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    counts = tmp_path / "schedstat"
    counts.write_text("0 0 1\n")
    with open_loop_load(str(counts)) as load:
        load()
        await trio.sleep(0.1)
        counts.write_text("20000000 30000000 1\n")
        assert load() == pytest.approx(0.3 * 0.5)


async def test_it_is_that_of_the_thread_that_opened_it() -> None:
    spinning = threading.Event()
    spinning.set()

    def spin() -> None:
        while spinning.is_set():
            pass

    other = threading.Thread(target=spin)
    with open_loop_load() as load:
        other.start()
        try:
            beside_another = await rest(load)
        finally:
            spinning.clear()
            other.join()
        assert beside_another < run(load)
