"""What may go, and when."""

from common.core.retention import deletable_through, must_drop, stored_before


def test_nothing_goes_before_the_cloud_has_told_its_position() -> None:
    assert deletable_through(None, []) == 0


def test_the_slowest_reader_decides() -> None:
    assert deletable_through(10, []) == 10
    assert deletable_through(10, [7, 12]) == 7


def test_age_decides_while_there_is_room() -> None:
    assert stored_before(10_000_000, 4, used_bytes=1, cap_bytes=100) == 6_000_000
    assert stored_before(10_000_000, 4, used_bytes=1, cap_bytes=None) == 6_000_000
    assert stored_before(10_000_000, 4, used_bytes=80, cap_bytes=100) > 10_000_000


def test_dropping_begins_late_and_goes_on_until_there_is_room_to_spare() -> None:
    assert not must_drop(91, 100, dropping=False)
    assert must_drop(92, 100, dropping=False)
    assert must_drop(86, 100, dropping=True)
    assert not must_drop(84, 100, dropping=True)
    assert not must_drop(10**9, None, dropping=True)
