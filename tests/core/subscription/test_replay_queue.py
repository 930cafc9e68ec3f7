"""The queue of replays that a source owes: turns, bounds, starts that a filter states, and changes of filter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.subscription.messages import Replay
from common.core.subscription.replay import QueuedReplay
from common.core.subscription.replay_queue import REPLAYS_MAX, ReplayQueue


def drained(queue: ReplayQueue) -> list[tuple[str, int, bool]]:
    """Every replay with the number it goes on from, and whether it states the numbers below."""
    found = []
    while (first := queue.first) is not None:
        found.append((first.persistence_id, first.from_seq_nr, queue.is_start(first)))
        queue.ends()
    return found


def test_replays_take_turns_by_the_page() -> None:
    queue = ReplayQueue()
    queue.ask(Replay("T|a", 3))
    queue.ask(Replay("T|b", 1))
    queue.goes_on(QueuedReplay("T|a", 9, 7))
    assert queue.first == QueuedReplay("T|b", 1, 0)
    queue.goes_on(QueuedReplay("T|b", 4, 0))
    assert queue.first == QueuedReplay("T|a", 9, 7)
    queue.ends()
    assert drained(queue) == [("T|b", 4, False)]


def test_a_change_of_filter_has_every_replay_read_again_what_was_withheld() -> None:
    queue = ReplayQueue()
    queue.ask(Replay("T|a", 3))
    queue.ask(Replay("T|b", 2))
    queue.goes_on(QueuedReplay("T|a", 9, 6, 12))
    queue.goes_on(QueuedReplay("T|b", 8, 1))  # nothing was sent of it
    queue.filter_changes()
    assert drained(queue) == [("T|a", 7, False), ("T|b", 2, False)]


def test_a_start_that_was_not_stated_lapses_with_its_filter() -> None:
    """The next filter may want the numbers below."""
    queue = ReplayQueue()
    queue.state_start("T|a", 5)
    queue.state_start("T|b", 5)
    queue.ask(Replay("T|b", 2))
    lanes_wait = queue.has_starts
    queue.filter_changes()
    assert (lanes_wait, queue.has_starts) == (True, False)
    assert drained(queue) == [("T|b", 2, False)]


def test_a_start_and_an_ask_of_one_entity_are_one_replay() -> None:
    queue = ReplayQueue()
    queue.state_start("T|a", 5)
    queue.ask(Replay("T|a", 2))
    queue.ask(Replay("T|b", 3))
    queue.state_start("T|b", 7)
    queue.ask(Replay("T|c", 9))
    queue.state_start("T|c", 7)  # the consumer has those below
    assert drained(queue) == [("T|a", 5, True), ("T|b", 7, True), ("T|c", 9, False)]


def test_an_ask_that_a_start_had_taken_over_goes_on_where_it_was_when_that_lapses() -> None:
    queue = ReplayQueue()
    queue.ask(Replay("T|a", 2))
    queue.goes_on(QueuedReplay("T|a", 6, 3))
    queue.state_start("T|a", 9)
    queue.filter_changes()
    assert drained(queue) == [("T|a", 4, False)]


def test_asked_replays_are_bounded_and_starts_do_not_count_with_however_many_pages() -> None:
    queue = ReplayQueue()
    for number in range(REPLAYS_MAX):
        queue.state_start(f"T|own{number}", 5)
        queue.goes_on(QueuedReplay(f"T|own{number}", 9, 4))
    for number in range(REPLAYS_MAX):
        queue.ask(Replay(f"T|{number}", 1))
    queue.ask(Replay("T|1", 1))
    with pytest.raises(BackhaulError, match=r"subscription\.too_many_replays"):
        queue.ask(Replay("T|more", 1))
    while queue.first is not None and queue.first.persistence_id != "T|0":
        queue.goes_on(replace(queue.first, from_seq_nr=9))
    queue.ends()
    queue.ask(Replay("T|more", 1))
