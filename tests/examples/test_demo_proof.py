"""The demo's comparison: whatever goes wrong with an event is found, by (file, row, content), and nothing else is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from examples.demo.proof import EdgeAccount, Stored, compare, examine, named, tally_problems
from examples.demo.series import Reading
from examples.demo.timing import lag_through, latency, waits

A, B = "Sensor|edge/a", "Sensor|edge/b"


def reading(row: int, file: str = "a.csv") -> Reading:
    return Reading(file, row, f"2026-01-01 00:00:00,{row % 3}")


def stored(row: int, file: str = "a.csv", at_us: int = 0) -> Stored:
    return Stored(A if file == "a.csv" else B, reading(row, file), at_us)


GIVEN = {reading(row): A for row in range(1, 11)} | {reading(row, "b.csv"): B for row in range(1, 11)}
LOG = [stored(row, file) for row in range(1, 11) for file in ("a.csv", "b.csv")]
ACCOUNT = EdgeAccount("edge", GIVEN, list(GIVEN), LOG, LOG)


def test_a_log_that_holds_everything_once_and_in_order_has_no_problem() -> None:
    finding = examine(ACCOUNT)
    assert finding.problems == ()
    assert (finding.given, finding.appended, finding.in_file, finding.in_cloud) == (20, 20, 20, 20)


def test_entities_may_be_interleaved_in_any_way() -> None:
    by_entity = sorted(LOG, key=lambda event: event.entity)
    assert examine(replace(ACCOUNT, in_cloud=by_entity)).problems == ()


def test_a_missing_event_is_found_and_named() -> None:
    finding = examine(replace(ACCOUNT, in_cloud=[event for event in LOG if event != stored(4)]))
    assert finding.missing == (reading(4),)
    assert finding.problems == ("edge: 1 answered readings are not in the cloud: a.csv rows 4",)


def test_an_event_missing_in_the_edges_own_file_is_found() -> None:
    finding = examine(replace(ACCOUNT, in_file=LOG[:-1]))
    assert finding.problems == ("edge: 1 answered readings are not in its own file: b.csv rows 10",)


def test_what_had_no_ack_when_the_disk_was_lost_may_be_missing_and_only_that() -> None:
    on_disk = frozenset(reading(row) for row in range(1, 6))
    account = replace(
        ACCOUNT,
        on_lost_disk=on_disk,
        unacked_at_loss=frozenset({reading(4), reading(5)}),
        in_file=[event for event in LOG if event.reading not in on_disk],
    )
    finding = examine(replace(account, in_cloud=[event for event in LOG if event != stored(5)]))
    assert finding.problems == ()
    assert finding.lost_with_disk == (reading(5),)
    finding = examine(replace(account, in_cloud=[event for event in LOG if event not in (stored(3), stored(5))]))
    assert finding.lost_with_disk == (reading(5),)
    assert finding.problems == ("edge: 1 answered readings are not in the cloud: a.csv rows 3",)


def test_a_duplicate_is_found_even_where_it_stands_in_order() -> None:
    finding = examine(replace(ACCOUNT, in_cloud=[*LOG[:6], LOG[4], *LOG[6:]]))
    assert (finding.duplicates, finding.out_of_order, finding.missing) == (1, 0, ())
    assert len(finding.problems) == 1


def test_an_event_behind_a_later_one_of_its_entity_is_out_of_order() -> None:
    swapped = [*LOG[:2], LOG[4], LOG[3], LOG[2], *LOG[5:]]
    finding = examine(replace(ACCOUNT, in_cloud=swapped))
    assert (finding.out_of_order, finding.duplicates, finding.missing) == (1, 0, ())


def test_an_event_under_another_sensors_entity_is_a_stranger_and_missing_where_it_belongs() -> None:
    moved = [event._replace(entity=B) if event == stored(7) else event for event in LOG]
    finding = examine(replace(ACCOUNT, in_cloud=moved))
    assert (finding.strangers, finding.missing) == (1, (reading(7),))


def test_other_content_in_the_right_row_is_a_stranger() -> None:
    changed = [
        event._replace(reading=event.reading._replace(content="x,y")) if event == stored(7) else event for event in LOG
    ]
    assert examine(replace(ACCOUNT, in_cloud=changed)).strangers == 1


def test_a_reading_nobody_answered_for_is_a_problem() -> None:
    finding = examine(replace(ACCOUNT, answered=list(GIVEN)[:-1]))
    assert finding.problems == ("edge: 1 readings were never answered for: b.csv rows 10",)


@given(st.lists(st.integers(1, 10)))
def test_every_stored_event_counts_as_exactly_one_thing(rows: list[int]) -> None:
    found = compare([stored(row) for row in rows], list(GIVEN), GIVEN)
    assert len(found.missing) == len(GIVEN) - len(set(rows))
    assert len(found.duplicates) == len(rows) - len(set(rows))
    firsts = list(dict.fromkeys(rows))
    later = sum(row < max(firsts[:index], default=0) for index, row in enumerate(firsts))
    assert len(found.out_of_order) == later


def test_rows_are_named_as_stretches() -> None:
    rows = [reading(row) for row in (1, 2, 3, 7)] + [reading(9, "b.csv")]
    assert named(rows) == "a.csv rows 1-3 and 7, b.csv rows 9"
    assert named(rows, 2) == "a.csv rows 1-3 and 7 and 1 more stretches"


def test_a_tally_that_differs_from_the_fold_is_told_by_entity() -> None:
    assert tally_problems({A: 1, B: 2}, {A: 1, B: 2}, {A, B}) == []
    assert len(tally_problems({A: 1, B: 2}, {A: 1, B: 3}, {A, B})) == 1
    assert len(tally_problems({A: 1}, {A: 1, B: 2}, {A, B})) == 1
    assert len(tally_problems({A: 1, B: 2}, {A: 1}, {A, B})) == 1
    assert len(tally_problems({A: 1, B: 2}, {A: 1, B: 2}, {A})) == 1


def test_latency_is_taken_from_the_same_reading_in_both_logs() -> None:
    here = [stored(row, at_us=row * 1_000_000) for row in range(1, 5)]
    there = [stored(row, at_us=row * 1_000_000 + row * 1_000) for row in (3, 1, 4)]
    found = latency(waits(here, there))
    assert found is not None
    assert (found.events, found.p50_s, found.max_s) == (3, 0.003, 0.004)
    assert latency([]) is None


def test_lag_through_a_cut_is_how_many_waited_and_how_long() -> None:
    # One event a second takes 10 ms; from 10 s to 20 s nothing gets through, then all at once 0.5 s later.
    pairs = [
        (at * 1_000_000, 20_500_000 if 10 <= at < 20 else at * 1_000_000 + 10_000)
        for at in [*range(1, 20), *range(21, 30)]
    ]
    found = lag_through(pairs, 10_000_000, 20_000_000)
    assert found is not None
    assert (found.dark_s, found.most_events, found.longest_s, found.caught_up_s) == (10.0, 10, 10.5, 0.5)
    assert max(found.curve) == 10
    assert found.curve[-1] == 0
    assert lag_through(pairs, 500_000_000, 501_000_000) is None
