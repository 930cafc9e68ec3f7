"""Moderation: bounded, nothing at rest, nothing for who waits for nobody, and larger groups under load."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.flow.moderation import LOAD_EVERY_S, LoadMeter, Moderation, Pacing

SPACING_S = 0.004
COMMIT_S = 0.001
loads = st.floats(0, 1)


class Writer:
    """A writer with one commit at a time, on a clock of its own. ``load`` is that of the loop."""

    def __init__(self, load: float, spacing_max_s: float = SPACING_S) -> None:
        self.moderation = Moderation(spacing_max_s)
        self.load = load
        self.groups: list[int] = []
        self.began_s: list[float] = []
        self.waits_s: list[float] = []
        self.now_s = 0.0
        self._free_s = 0.0
        self._committing = 0

    def take(self, arrivals: deque[float]) -> None:
        """Commit all that arrive, in groups: what has come by the time at which the next may begin."""
        queued: list[float] = []
        while arrivals or queued:
            if not queued:
                self.now_s = max(self._free_s, arrivals[0])
            self._arrive(arrivals, queued, self.now_s)
            at_s = max(self.now_s, self.moderation.begin_at_s(self.load, len(queued), len(queued)))
            while arrivals and arrivals[0] <= at_s and not self.moderation.is_enough(len(queued), len(queued)):
                self.now_s = arrivals[0]
                self._arrive(arrivals, queued, self.now_s)
            if not self.moderation.is_enough(len(queued), len(queued)):
                self.now_s = at_s
            self.waits_s += [self.now_s - max(one, self._free_s) for one in queued]
            self.moderation.began(self.now_s, len(queued))
            self.groups.append(len(queued))
            self.began_s.append(self.now_s)
            self._committing = len(queued)
            self._free_s = self.now_s = self.now_s + COMMIT_S
            queued = []
            self._arrive(arrivals, queued, self._free_s)
            self._committing = 0

    def _arrive(self, arrivals: deque[float], queued: list[float], until_s: float) -> None:
        while arrivals and arrivals[0] <= until_s:
            queued.append(arrivals.popleft())
            self.moderation.arrived(len(queued) + self._committing)


def arrivals_of(gaps_s: list[float]) -> deque[float]:
    at_s, found = 0.0, deque[float]()
    for gap_s in gaps_s:
        at_s += gap_s
        found.append(at_s)
    return found


@given(loads, st.lists(st.floats(0, 0.01), max_size=200), st.floats(0, 0.05))
def test_no_request_waits_for_longer_than_the_bound(load: float, gaps_s: list[float], spacing_max_s: float) -> None:
    writer = Writer(load, spacing_max_s)
    writer.take(arrivals_of(gaps_s))
    assert sum(writer.groups) == len(gaps_s)
    assert max(writer.waits_s, default=0) <= spacing_max_s + 1e-9


@given(st.lists(st.floats(0, 0.01), max_size=200))
def test_at_rest_a_group_begins_when_it_can(gaps_s: list[float]) -> None:
    writer = Writer(load=0.2)
    writer.take(arrivals_of(gaps_s))
    assert max(writer.waits_s, default=0) == 0


@given(loads, st.integers(1, 15))
def test_callers_who_wait_for_their_answers_wait_for_nobody_else(load: float, callers: int) -> None:
    """A closed loop: all are back at once after each answer, or all but one, who comes a little later."""
    moderation = Moderation(SPACING_S)
    for _ in range(50):
        for number in range(1, callers + 1):
            moderation.arrived(number)
        assert moderation.begin_at_s(load, callers, callers) == float("-inf")
        moderation.began(0.0, callers)


@given(loads, st.lists(st.floats(0, 0.005), max_size=100))
def test_a_lone_caller_never_waits(load: float, pauses_s: list[float]) -> None:
    moderation, now_s = Moderation(SPACING_S), 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        moderation.arrived(1)
        assert moderation.begin_at_s(load, 1, 1) == float("-inf")
        moderation.began(now_s, 1)
        now_s += COMMIT_S


def test_who_was_among_many_is_a_lone_caller_soon() -> None:
    moderation = Moderation(SPACING_S)
    moderation.arrived(40)
    waits = 0
    for _ in range(40):
        moderation.arrived(1)
        waits += moderation.begin_at_s(1.0, 1, 1) > 0
        moderation.began(1.0, 1)
    assert waits <= 16
    assert moderation.begin_at_s(1.0, 1, 1) == float("-inf")


def test_load_raises_the_size_of_groups() -> None:
    """500 a second that a commit keeps up with: of themselves groups of one, but for an overlap now and then."""
    gaps_s = [0.002] * 2_000
    gaps_s[::40] = [0.0005] * 50
    sizes = []
    for load in (0.2, 0.5, 0.6, 1.0):
        writer = Writer(load, spacing_max_s=0.008)
        writer.take(arrivals_of(gaps_s))
        sizes.append(len(gaps_s) / len(writer.groups))
    assert sizes == sorted(sizes)
    assert sizes[0] < 1.1
    assert sizes[-1] > 2.5


def test_a_group_of_many_events_gains_nothing_by_waiting() -> None:
    moderation = Moderation(SPACING_S)
    moderation.arrived(64)
    moderation.began(5.0, 64)
    assert moderation.begin_at_s(1.0, 3, 3) == pytest.approx(5.0 + SPACING_S)
    assert moderation.begin_at_s(1.0, 3, 100) == float("-inf")


@given(loads)
def test_without_a_spacing_nothing_waits(load: float) -> None:
    moderation = Moderation(0.0)
    moderation.arrived(64)
    moderation.began(5.0, 1)
    assert moderation.begin_at_s(load, 1, 1) == float("-inf")


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 20)), max_size=100), st.floats(0, 0.01))
def test_what_follows_groups_waits_for_a_spacing_at_most(groups: list[tuple[float, int]], spacing_s: float) -> None:
    pacing, now_s = Pacing(), 0.0
    for pause_s, positions in groups:
        now_s += pause_s
        due_s = pacing.due_s(now_s, spacing_s)
        assert due_s <= now_s + spacing_s
        now_s = max(now_s, due_s)
        assert pacing.due_s(now_s, spacing_s) <= now_s + 1e-9
        pacing.left(now_s, positions)


@given(st.lists(st.floats(-0.4, 0.4), max_size=100))
def test_what_follows_groups_that_are_a_spacing_apart_waits_for_nothing(late: list[float]) -> None:
    """Each group's commit takes a time of its own."""
    pacing = Pacing()
    left_s = 0.0
    for number, share in enumerate(late):
        left_s = max(left_s, (number + 1 + share / 2) * SPACING_S)
        assert pacing.due_s(left_s, SPACING_S) <= left_s
        pacing.left(left_s, 1)


def test_a_large_message_keeps_the_next_one_from_nothing() -> None:
    pacing = Pacing()
    pacing.left(1.0, 400)
    assert pacing.due_s(1.0, SPACING_S) == float("-inf")
    pacing.left(1.0, 3)
    assert pacing.due_s(1.0, SPACING_S) == pytest.approx(1.0 + SPACING_S)


@given(st.lists(st.tuples(st.floats(2 * LOAD_EVERY_S, 10), st.floats(-0.5, 3)), min_size=1))
def test_a_load_is_a_share(steps: list[tuple[float, float]]) -> None:
    meter, now_s, wanted_s = LoadMeter(), 0.0, 0.0
    for step_s, share in steps:
        assert meter.is_due(now_s)
        meter.measured(now_s, wanted_s)
        assert not meter.is_due(now_s + LOAD_EVERY_S / 2)
        assert 0 <= meter.load <= 1
        now_s, wanted_s = now_s + step_s, wanted_s + step_s * share


def test_a_load_follows_what_is_measured() -> None:
    meter = LoadMeter()
    for number in range(40):
        meter.measured(number * 0.1, number * 0.07)
    assert meter.load == pytest.approx(0.7, abs=0.01)
    for number in range(40, 80):
        meter.measured(number * 0.1, 40 * 0.07)
    assert meter.load == pytest.approx(0.0, abs=0.01)
