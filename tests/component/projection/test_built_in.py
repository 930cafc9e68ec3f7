"""``latest`` and ``tally`` as functions: what they make of a batch, whatever pages the log is cut into."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import EVENT_COLUMNS, EventBatch, new_events
from common.projection.latest import latest_statements
from common.projection.tally import Tally, fold, fold_all

numbered = st.tuples(st.sampled_from(["A|1", "A|2", "B|1"]), st.integers(1, 9), st.binary(max_size=3))


def batch_of(rows: list[tuple[str, int, bytes]]) -> EventBatch:
    entities, seq_nrs, payloads = ([row[part] for row in rows] for part in range(3))
    events = new_events(entities, ["E"] * len(rows), payloads)  # type: ignore[arg-type]
    return replace(events, seq_nr=seq_nrs, position=list(range(1, len(rows) + 1)))  # type: ignore[arg-type]


def in_order(*payloads: bytes, entity: str = "A|1", first: int = 1) -> list[tuple[str, int, bytes]]:
    return [(entity, seq_nr, payload) for seq_nr, payload in enumerate(payloads, start=first)]


@given(st.lists(numbered, max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_a_tally_is_the_same_however_the_log_is_cut_into_pages(
    rows: list[tuple[str, int, bytes]], cuts: list[int]
) -> None:
    log = batch_of(rows)
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pages = [log.slice(start, stop) for start, stop in pairwise(places)]
    assert fold_all(pages) == fold(log)


@given(st.lists(numbered, min_size=1, max_size=30), st.data())
def test_an_event_that_is_lost_repeated_or_changed_shows_in_the_checksum(
    rows: list[tuple[str, int, bytes]], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(rows) - 1))
    entity, seq_nr, payload = rows[index]
    right = fold(batch_of(rows))[entity]
    lost = fold(batch_of(rows[:index] + rows[index + 1 :])).get(entity)
    assert lost is None or (lost.events, lost.checksum != right.checksum) == (right.events - 1, True)
    repeated = fold(batch_of([*rows, rows[index]]))[entity]
    assert (repeated.events, repeated.checksum != right.checksum) == (right.events + 1, True)
    changed = fold(batch_of([*rows[:index], (entity, seq_nr, payload + b"x"), *rows[index + 1 :]]))[entity]
    assert changed.checksum != right.checksum


def test_events_in_order_are_not_counted_as_out_of_order() -> None:
    assert fold(batch_of(in_order(b"a", b"b", b"c", first=5)))["A|1"].out_of_order == 0


def test_repeats_jumps_and_steps_back_are_counted_as_out_of_order() -> None:
    seq_nrs = [1, 2, 2, 5, 3, 4]  # 2 repeats, 5 jumps, 3 goes back
    assert fold(batch_of([("A|1", seq_nr, b"") for seq_nr in seq_nrs]))["A|1"].out_of_order == 3


def test_a_checksum_is_the_same_for_ever() -> None:
    # Stored tables are compared with it after an upgrade.
    assert fold(batch_of(in_order(b"a", b"b")))["A|1"] == Tally(2, 514_675_460_947_316_655, 1, 2, 0)


@given(st.lists(numbered, min_size=1, max_size=30))
def test_latest_writes_one_row_an_entity_with_its_last_event(rows: list[tuple[str, int, bytes]]) -> None:
    [statement] = latest_statements(batch_of(rows))
    position, entity = EVENT_COLUMNS.index("position"), EVENT_COLUMNS.index("persistence_id")
    written = {row[entity]: row[position] for row in statement.rows}
    assert len(written) == len(statement.rows)
    assert written == {row[0]: index for index, row in enumerate(rows, start=1)}
