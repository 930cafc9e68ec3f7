"""What may go, and when."""

from common.core.journal.retention import (
    STRETCH_POSITIONS,
    LogSizes,
    deletable_through,
    least_age_s,
    must_drop,
)


def test_nothing_goes_before_the_cloud_has_told_its_position() -> None:
    assert deletable_through(None, []) == 0


def test_the_slowest_reader_decides() -> None:
    assert deletable_through(10, []) == 10
    assert deletable_through(10, [7, 12]) == 7


def test_age_decides_while_there_is_room() -> None:
    assert least_age_s(4, used_bytes=1, cap_bytes=100) == 4
    assert least_age_s(4, used_bytes=1, cap_bytes=None) == 4
    assert least_age_s(4, used_bytes=80, cap_bytes=100) == 0


def test_dropping_begins_late_and_goes_on_until_there_is_room_to_spare() -> None:
    assert not must_drop(91, 100, dropping=False)
    assert must_drop(92, 100, dropping=False)
    assert must_drop(86, 100, dropping=True)
    assert not must_drop(84, 100, dropping=True)
    assert not must_drop(10**9, None, dropping=True)


class TestLogSizes:
    """A limit in bytes as a position, from what stretches weigh."""

    @staticmethod
    def of(head: int, weights: dict[int, int], first: int = 1) -> LogSizes:
        sizes = LogSizes()
        for after, _ in sizes.unmeasured(first, head):
            sizes.measured(after, weights[after // STRETCH_POSITIONS])
        return sizes

    def test_the_newest_stretches_that_fit_stay(self) -> None:
        sizes = self.of(4 * STRETCH_POSITIONS, {0: 10, 1: 20, 2: 30, 3: 40})
        assert sizes.total == 100
        assert [sizes.floor(limit) for limit in (100, 99, 90, 89, 70, 69, 40, 1)] == [
            step * STRETCH_POSITIONS for step in (0, 1, 1, 2, 2, 3, 3, 3)
        ]

    def test_only_the_head_and_what_changed_is_measured_again(self) -> None:
        sizes = self.of(3 * STRETCH_POSITIONS + 5, {0: 1, 1: 1, 2: 1, 3: 1})
        head = (3 * STRETCH_POSITIONS, 4 * STRETCH_POSITIONS)
        assert sizes.unmeasured(1, 3 * STRETCH_POSITIONS + 9) == [head]
        sizes.changed(5, STRETCH_POSITIONS + 1)
        assert sizes.unmeasured(1, 3 * STRETCH_POSITIONS + 9) == [
            (0, STRETCH_POSITIONS),
            (STRETCH_POSITIONS, 2 * STRETCH_POSITIONS),
            head,
        ]

    def test_the_stretch_that_was_the_head_is_measured_again_when_the_log_has_grown_beyond_it(self) -> None:
        sizes = self.of(STRETCH_POSITIONS + 1, {0: 5, 1: 1})
        grown = sizes.unmeasured(1, 3 * STRETCH_POSITIONS)
        assert grown == [(step * STRETCH_POSITIONS, (step + 1) * STRETCH_POSITIONS) for step in (1, 2)]

    def test_what_is_deleted_altogether_is_forgotten(self) -> None:
        sizes = self.of(3 * STRETCH_POSITIONS, {0: 7, 1: 1, 2: 1})
        sizes.unmeasured(STRETCH_POSITIONS + 1, 3 * STRETCH_POSITIONS)
        assert sizes.total == 1

    def test_an_empty_log_has_one_stretch_and_no_floor(self) -> None:
        sizes = self.of(0, {0: 0})
        assert sizes.floor(1) == 0
