"""The window on simulated lines: it keeps its bounds, always lets one batch through, and finds what a line carries."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.flow.window import AdaptiveWindow

TARGET_S = 10.0
BYTES_MAX = 4 * 1024 * 1024


def window(*, batches_max: int = 1_000_000, events_max: int = 1_000_000, bytes_max: int = BYTES_MAX) -> AdaptiveWindow:
    return AdaptiveWindow(batches_max=batches_max, events_max=events_max, bytes_max=bytes_max, ack_target_s=TARGET_S)


class Line:
    """A first-in-first-out line of ``bytes_per_s`` and a latency, always kept full by a sender with a backlog."""

    def __init__(self, tested: AdaptiveWindow, bytes_per_s: float, latency_s: float = 0.05) -> None:
        self.window = tested
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.now_s = 0.0
        self.position = 0
        self.sent_s: dict[int, float] = {}
        self._free_s = 0.0
        self._arriving: deque[tuple[float, int]] = deque()

    def fill(self, event_bytes: int) -> None:
        """Send as much as is admitted, as a sender that reads pages of whole events of at most the room left."""
        while (room := self.window.room_bytes) > 0:
            weight = max(1, min(room, 65_536) // event_bytes) * event_bytes
            self.position += 1
            self.window.sent(self.position, weight // event_bytes, weight, self.now_s)
            self.sent_s[self.position] = self.now_s
            self._free_s = max(self._free_s, self.now_s) + weight / self.bytes_per_s
            self._arriving.append((self._free_s + self.latency_s, self.position))

    def next_ack(self) -> float:
        """Go on to the next acknowledgement; answers its age."""
        self.now_s, position = self._arriving.popleft()
        age_s = self.window.acked(position, self.now_s)
        assert age_s is not None
        return age_s


@settings(max_examples=25)
@given(st.floats(500, 50_000), st.integers(20, 300), st.floats(0, 2))
def test_a_slow_line_converges_to_acks_within_the_target(rate: float, event_bytes: int, latency_s: float) -> None:
    line = Line(window(), rate, latency_s)
    late_s = None
    while line.now_s < 400:
        line.fill(event_bytes)
        age_s = line.next_ack()
        if age_s > TARGET_S + (event_bytes + 1_024) / rate:  # a batch may be a little larger than the room left
            late_s = line.now_s
    # The first window may be too bold, once and by at most its size; a few round trips later nothing is late.
    assert late_s is None or late_s <= 65_536 / rate + 5 * TARGET_S
    # Nor is the line left idle.
    carries = (TARGET_S - latency_s) * rate
    assert line.window.bytes_limit >= min(carries, 65_536) / 3


def test_a_line_of_8_kbit_moves_events_of_100_kb_one_at_a_time() -> None:
    line = Line(window(), 1_000)
    ages = []
    for _ in range(10):
        line.fill(100_000)
        assert line.window.in_flight_bytes == 100_000
        ages.append(line.next_ack())
    assert [round(age_s) for age_s in ages] == [100] * 10


def test_a_window_that_is_not_used_does_not_grow() -> None:
    tested = window()
    before = tested.bytes_limit
    for position in range(1, 1_000):
        tested.sent(position, 1, 100, position)
        tested.acked(position, position + 0.01)
    assert tested.bytes_limit == before


def test_a_fast_line_gets_the_whole_window_also_after_a_slow_time() -> None:
    line = Line(window(), 1_000_000_000, 0.001)
    for _ in range(200):
        line.fill(1_000)
        line.next_ack()
    assert line.window.bytes_limit == BYTES_MAX

    line.bytes_per_s = 2_000
    for _ in range(1_000):
        line.fill(1_000)
        line.next_ack()
    assert line.window.bytes_limit <= 2_000 * TARGET_S

    line.bytes_per_s = 1_000_000_000
    for _ in range(300):
        line.fill(1_000)
        line.next_ack()
    assert line.window.bytes_limit == BYTES_MAX


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 200_000), st.integers(1, 50), st.floats(0, 40)), max_size=200),
    st.integers(1, 5),
    st.integers(1, 100),
    st.integers(1, 300_000),
)
def test_bounds_hold_and_an_empty_window_admits_one_batch(
    steps: list[tuple[bool, int, int, float]], batches_max: int, events_max: int, bytes_max: int
) -> None:
    tested = window(batches_max=batches_max, events_max=events_max, bytes_max=bytes_max)
    in_flight: deque[tuple[int, int, int]] = deque()
    now_s, position = 0.0, 0
    for is_send, weight, events, wait_s in steps:
        now_s += wait_s
        assert 1 <= tested.bytes_limit <= bytes_max
        assert tested.is_empty == (not in_flight)
        if is_send:
            room = tested.room_bytes
            if not in_flight:
                assert room > 0
            elif not room:
                continue
            else:
                assert len(in_flight) < batches_max
                assert tested.in_flight_events < events_max
                assert room + tested.in_flight_bytes <= bytes_max
            position += 1
            tested.sent(position, events, weight, now_s)
            in_flight.append((position, events, weight))
        elif in_flight:
            acked = in_flight[len(in_flight) // 2][0]
            while in_flight and in_flight[0][0] <= acked:
                in_flight.popleft()
            assert tested.acked(acked, now_s) is not None
            assert tested.acked(acked, now_s) is None  # a repeat says nothing
        assert tested.in_flight_events == sum(entry[1] for entry in in_flight)
        assert tested.in_flight_bytes == sum(entry[2] for entry in in_flight)


@given(st.lists(st.integers(1, 50_000), max_size=40), st.integers(1, 100_000), st.integers(1, 1 << 20))
def test_a_batch_has_room_when_it_is_worth_one_and_an_empty_window_has_always(
    weights: list[int], batch_bytes: int, bytes_max: int
) -> None:
    tested = window(bytes_max=bytes_max, batches_max=20)
    assert tested.room_for(batch_bytes) == min(tested.bytes_limit, batch_bytes)
    assert tested.admits(2 * bytes_max)
    for number, weight in enumerate(weights, start=1):
        tested.sent(number, 1, weight, 0.0)
        room = tested.room_for(batch_bytes)
        assert room == 0 or min(tested.bytes_limit, batch_bytes) // 4 <= room <= min(tested.room_bytes, batch_bytes)
        assert tested.admits(room) or not room
        assert not tested.admits(tested.room_bytes + 1)
    tested.acked(len(weights), 0.0)
    assert tested.room_for(batch_bytes)


def test_a_sliver_of_room_is_left_alone() -> None:
    tested = window()
    tested.sent(1, 1, tested.bytes_limit - 2_500, 0.0)
    assert tested.room_for(10_000) == 2_500
    tested.sent(2, 1, 1, 0.0)
    assert tested.room_for(10_000) == 0
    assert tested.room_for(9_000) == 2_499
