"""Judging: each number once and in order whatever is repeated or reordered, and no gap that was not stated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.stated_range import StatedRange
from common.core.journal.admission import (
    EntityHead,
    ParkedNumbers,
    PushAdmission,
    admit_local,
    admit_parked,
    admit_pushed,
    admit_repeat,
    discard_parked,
)
from common.core.journal.append import Appended, AppendRefused, LocalAppend, PushedAppend
from common.core.journal.history import Offset
from tests.support.builders import events, local

Heads = dict[str, EntityHead]


def pushed(
    *rows: tuple[str, int, int], ranges: list[StatedRange] | None = None, branch: int = 1, origin_id: str = "edge"
) -> PushedAppend:
    """Rows are persistence id, number, previous number."""
    batch = events(*(row[0] for row in rows))
    batch.seq_nr = [row[1] for row in rows]
    batch.prev_seq_nr = [row[2] for row in rows]
    through = Offset("journal", "g", len(rows))
    return PushedAppend(origin_id, 1, branch, 0, through, batch, tuple(ranges or ()))


def accepted(request: PushedAppend, admission: PushAdmission) -> list[tuple[str, int]]:
    names, numbers = request.events.persistence_id, request.events.seq_nr
    return [(names[index], numbers[index]) for index in admission.accepted]


class TestLocal:
    """Local appends are all or nothing."""

    def test_a_refusal_changes_no_head(self) -> None:
        heads: Heads = {"A|1": EntityHead("A|1", seq_nr=4), "B|1": EntityHead("B|1", owner="edge")}
        before = {name: replace(head) for name, head in heads.items()}
        for request in (
            local("A|1", "A|2", expected={"A|1": 3}),
            local("A|1", "A|2", expected={"A|3": 1}),
            local("A|1", "A|2", "B|1"),
        ):
            assert isinstance(admit_local(request, heads), AppendRefused)
            assert heads == before

    @given(st.lists(st.lists(st.sampled_from(["A|1", "A|2", "A|3"]), max_size=6), max_size=6))
    def test_numbers_of_an_entity_are_dense(self, appends: list[list[str]]) -> None:
        heads: Heads = {}
        numbers: dict[str, list[int]] = {}
        for names in appends:
            judged = admit_local(LocalAppend(events(*names)), heads)
            assert isinstance(judged, list)
            for name, number in zip(names, judged, strict=True):
                numbers.setdefault(name, []).append(number)
        for name, got in numbers.items():
            assert got == list(range(1, len(got) + 1))
            assert heads[name].seq_nr == len(got)

    def test_a_repeat_is_the_stored_answer_unless_the_body_differs(self) -> None:
        request = local("A|1", append_id="key")
        stored = Appended(7, [3])
        assert admit_repeat(request, request.digest, stored) == Appended(7, [3], repeated=True)
        refused = admit_repeat(request, b"other", stored)
        assert isinstance(refused, AppendRefused)
        assert refused.code == "append.id_reused"


NAMES = st.sampled_from(["A|1", "A|2"])
NUMBERS = st.integers(1, 6)


class TestAnythingThatArrives:
    """No promise rests on the sender being right."""

    @given(st.lists(st.lists(st.tuples(NAMES, NUMBERS), max_size=8), max_size=8))
    def test_each_number_is_accepted_once_and_in_order(self, batches: list[list[tuple[str, int]]]) -> None:
        heads: Heads = {}
        got: dict[str, list[int]] = {}
        refused: set[str] = set()
        for batch in batches:
            request = pushed(*((name, number, number - 1) for name, number in batch))
            admission = admit_pushed(request, heads)
            assert sorted(admission.accepted + [index for index, _ in admission.parked]) == list(range(len(batch)))
            for name, number in accepted(request, admission):
                got.setdefault(name, []).append(number)
            for index, _ in admission.parked:
                refused.add(batch[index][0])
        for numbers in got.values():
            assert numbers == list(range(1, len(numbers) + 1))
        for name in refused:
            assert heads[name].parked > 0

    @settings(max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.lists(st.tuples(NAMES, NUMBERS, st.integers(0, 6)), max_size=6),
                st.lists(st.tuples(NAMES, NUMBERS, st.integers(0, 3)), max_size=4),
            ),
            max_size=6,
        )
    )
    def test_on_one_branch_a_jump_is_covered_by_stated_numbers(
        self, batches: list[tuple[int, list[tuple[str, int, int]], list[tuple[str, int, int]]]]
    ) -> None:
        heads: Heads = {}
        last: dict[tuple[str, int], int] = {}
        answer: dict[tuple[str, int], set[int]] = {}
        branch = 1
        for step, rows, spans in batches:
            branch += step == 1
            ranges = [StatedRange(name, first, first + more, "withheld") for name, first, more in spans]
            request = pushed(*rows, ranges=ranges, branch=branch)
            admission = admit_pushed(request, heads)
            for kept in admission.skipped:
                numbers = range(kept.from_seq_nr, kept.to_seq_nr + 1)
                assert numbers
                answer.setdefault((kept.persistence_id, branch), set()).update(numbers)
            for name, number in accepted(request, admission):
                key = (name, branch)
                before = last.get(key)
                if before is not None:
                    assert number > before
                    assert set(range(before + 1, number)) <= answer.get(key, set())
                last[key] = number

    @given(st.lists(st.tuples(NAMES, NUMBERS, st.integers(0, 6)), max_size=10), st.data())
    def test_the_cut_into_batches_does_not_matter(self, rows: list[tuple[str, int, int]], data: st.DataObject) -> None:
        at_once: Heads = {}
        request = pushed(*rows)
        together = accepted(request, admit_pushed(request, at_once))
        in_parts: Heads = {}
        one_by_one: list[tuple[str, int]] = []
        while rows:
            n = data.draw(st.integers(1, len(rows)))
            part = pushed(*rows[:n])
            one_by_one += accepted(part, admit_pushed(part, in_parts))
            rows = rows[n:]
        assert (one_by_one, in_parts) == (together, at_once)


@given(
    st.lists(st.tuples(st.sampled_from(["A|1", "A|2", "A|3"]), st.booleans()), max_size=30),
    st.lists(st.integers(1, 6), min_size=30, max_size=30),
    st.sampled_from([1, 2]),
)
def test_an_honest_sender_that_withholds_events_is_accepted_whole(
    log: list[tuple[str, bool]], cuts: list[int], start_branch: int
) -> None:
    """Whatever is withheld and however it is cut into batches, stating it is enough."""
    heads: Heads = {}
    if start_branch == 2:  # the same entities were here before, with higher numbers
        heads = {name: EntityHead(name, 9, "edge", 9, 1) for name in ("A|1", "A|2", "A|3")}
    numbers: dict[str, int] = {}
    wanted: list[tuple[str, int]] = []
    got: list[tuple[str, int]] = []
    while log:
        rows: list[tuple[str, int, int]] = []
        ranges: list[StatedRange] = []
        part, log = log[: cuts[0]], log[cuts.pop(0) :]
        for name, is_withheld in part:
            numbers[name] = number = numbers.get(name, 0) + 1
            if is_withheld:
                ranges.append(StatedRange(name, number, number, "withheld"))
            else:
                rows.append((name, number, number - 1))
        request = pushed(*rows, ranges=ranges, branch=start_branch)
        admission = admit_pushed(request, heads)
        assert admission.parked == []
        assert len(admission.skipped) == len(ranges)
        got += accepted(request, admission)
        wanted += [(name, number) for name, number, _ in rows]
    assert got == wanted


class TestBranches:
    """The first event of a new branch says where the fork is; it cannot be above what was known."""

    @pytest.mark.parametrize(
        ("row", "code"),
        [
            (("A|1", 1, 0), ""),
            (("A|1", 4, 3), ""),
            (("A|1", 6, 5), ""),
            (("A|1", 7, 6), "parked.gap"),
            (("A|1", 5, 3), "parked.gap"),
        ],
    )
    def test_the_fork_is_at_or_below_the_known_number(self, row: tuple[str, int, int], code: str) -> None:
        heads: Heads = {"A|1": EntityHead("A|1", 8, "edge", 5, 1)}
        admission = admit_pushed(pushed(row, branch=2), heads)
        assert [parked.code for _, parked in admission.parked] == ([code] if code else [])
        assert admission.seq_nr == ([] if code else [9])
        if not code:
            assert (heads["A|1"].origin_seq_nr, heads["A|1"].branch) == (row[1], 2)

    def test_a_range_may_state_the_fork(self) -> None:
        heads: Heads = {"A|1": EntityHead("A|1", 5, "edge", 5, 1)}
        ranges = [StatedRange("A|1", 4, 7, "withheld")]
        request = pushed(("A|1", 8, 7), branch=2, ranges=ranges)
        admission = admit_pushed(request, heads)
        assert (admission.seq_nr, admission.skipped) == ([6], ranges)

    def test_a_range_above_the_fork_is_not_believed(self) -> None:
        heads: Heads = {"A|1": EntityHead("A|1", 5, "edge", 5, 1)}
        ranges = [StatedRange("A|1", 7, 7, "withheld")]
        admission = admit_pushed(pushed(("A|1", 8, 7), branch=2, ranges=ranges), heads)
        assert admission.skipped == []
        assert [parked.code for _, parked in admission.parked] == ["parked.gap"]


class TestParked:
    """Judging parked events again is judging them, in their order."""

    @settings(max_examples=60)
    @given(
        st.lists(st.tuples(st.integers(1, 2), NUMBERS, st.integers(0, 6)), min_size=1, max_size=6),
        st.lists(st.tuples(st.integers(1, 2), NUMBERS, st.integers(0, 3)), max_size=3),
        st.booleans(),
    )
    def test_what_is_stored_is_a_prefix_and_the_count_is_right(
        self, rows: list[tuple[int, int, int]], spans: list[tuple[int, int, int]], accept_gap: bool
    ) -> None:
        head = EntityHead("A|1", 2, "edge", 2, 1, parked=len(rows))
        parked = [ParkedNumbers(index, *row) for index, row in enumerate(rows)]
        ranges = [(branch, StatedRange("A|1", first, first + more, "withheld")) for branch, first, more in spans]
        admission = admit_parked(head, parked, ranges, accept_gap=accept_gap)
        n = len(admission.accepted)
        assert admission.accepted == list(range(n))
        assert admission.seq_nr == list(range(3, 3 + n))
        assert (head.seq_nr, head.parked) == (2 + n, len(rows) - n)
        assert (admission.left == "") == (n == len(rows))
        assert len(admission.skipped) <= accept_gap
        assert admission.left in {"", "parked.gap", "parked.conflict"}
        if n:  # above the last one only by a stated range; one of a newer branch counts in that branch's numbers
            assert head.branch > rows[n - 1][0] or head.origin_seq_nr >= rows[n - 1][1]

    def test_discarding_the_next_number_lets_what_follows_fit(self) -> None:
        head = EntityHead("A|1", 2, "edge", 2, 1, parked=2)
        assert discard_parked(head, ParkedNumbers(1, 1, 3, 2), []) == StatedRange("A|1", 3, 3, "discarded")
        assert (head.origin_seq_nr, head.parked, head.seq_nr) == (3, 1, 2)
        admission = admit_parked(head, [ParkedNumbers(2, 1, 4, 3)], [], accept_gap=False)
        assert (admission.seq_nr, admission.left) == ([3], "")

    def test_discarding_beyond_a_gap_leaves_the_gap(self) -> None:
        head = EntityHead("A|1", 2, "edge", 2, 1, parked=1)
        discard_parked(head, ParkedNumbers(1, 1, 5, 4), [])
        assert (head.origin_seq_nr, head.parked) == (2, 0)
