"""Snapshots that stand in for events on the way up: pages of any size lead a receiver over the log, and its fold is right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import FOLDS_TAG, EventBatch, new_events, split_tags
from common.core.events.replacing import replacing
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.filters.permission import within
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.snapshot import Snapshot, SnapshotsBeside, snapshot_batch
from common.core.push.stand_ins import (
    STATED_MAX,
    PushPage,
    Replaced,
    Standing,
    StatedReplaced,
    Stretch,
    as_replaced,
    fitting_through,
    is_far_behind,
    may_stand_in,
    place_of,
    replaced_page,
    standing_of,
)

NO_SECRETS = within(parse_filter('[{"exclude_tags":["secret"]}]'), EVERY_ENTITY)


def taken(name: str, seq_nr: int, position: int, tags: str = "", *, says_last_event: bool = False) -> Snapshot:
    return Snapshot(name, seq_nr, position, 1, 1, 0, "State", "json", b"{}", tags, "", 0, says_last_event)


def log_of(names: list[str]) -> EventBatch:
    batch = new_events(names, ["Read"] * len(names), [b""] * len(names))
    last: dict[str, int] = {}
    for index, name in enumerate(names):
        last[name] = last.get(name, 0) + 1
        batch.position[index], batch.seq_nr[index], batch.prev_seq_nr[index] = index + 1, last[name], last[name] - 1
    return batch


def beside_of(
    stored: EventBatch,
    taken_at: dict[str, tuple[int, int]],
    deleted: dict[str, tuple[int, int]],
    after: int,
    through: int,
) -> SnapshotsBeside:
    """What a journal says of a stretch; by entity the number and the position of its snapshot, and of its last deleted event."""
    found, first = SnapshotsBeside(), dict[str, int]()
    for name in taken_at:
        if after < deleted.get(name, (0, 0))[1] <= through:
            first[name] = deleted[name][1]
    for name, seq_nr, position in zip(stored.persistence_id, stored.seq_nr, stored.position, strict=True):
        if after < position <= through:
            found.events += 1
            if seq_nr <= taken_at.get(name, (0, 0))[0]:
                first[name] = min(position, first.get(name, position))
            else:
                found.kept_at = found.kept_at or position
    for name in sorted(first, key=first.__getitem__):
        to, at = deleted.get(name, (0, 0))
        row = (name, *taken_at[name], 10, to, at, first[name])
        columns = (
            found.persistence_id,
            found.seq_nr,
            found.position,
            found.size,
            found.deleted_to,
            found.deleted_position,
            found.at,
        )
        for column, value in zip(columns, row, strict=True):
            column.append(value)  # type: ignore[attr-defined]
    return found


@given(
    names=st.lists(st.sampled_from("abc"), min_size=1, max_size=25),
    at=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)),
    gone=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)),
    cuts=st.sets(st.integers(1, 25)),
    max_rows=st.integers(1, 4),
)
def test_a_receiver_is_led_over_the_log_page_by_page(
    names: list[str], at: dict[str, float], gone: dict[str, float], cuts: set[int], max_rows: int
) -> None:
    whole = log_of(names)
    places = {(name, seq_nr): at for name, seq_nr, at in zip(names, whole.seq_nr, whole.position, strict=True)}
    taken_at, deleted = dict[str, tuple[int, int]](), dict[str, tuple[int, int]]()
    for name, share in at.items():
        if count := names.count(name):
            seq_nr = 1 + round(share * (count - 1))
            taken_at[name] = seq_nr, places[name, seq_nr]
            if to := round(gone.get(name, 0.0) * seq_nr):
                deleted[name] = to, places[name, to]
    is_kept = [seq_nr > deleted.get(name, (0, 0))[0] for name, seq_nr in zip(names, whole.seq_nr, strict=True)]
    stored = whole.select([index for index, kept in enumerate(is_kept) if kept])
    known, told, after = dict[str, int](), StatedReplaced(), 0
    fold: dict[str, set[int]] = {}
    ends = sorted({*(cut for cut in cuts if cut < len(names)), len(names)})
    while after < len(names):
        through = next(end for end in ends if end > after)
        standing = standing_of(beside_of(stored, taken_at, deleted, after, through))
        read = stored.select([at for at, position in enumerate(stored.position) if after < position <= through])
        news = told.news(standing, through)
        through = fitting_through(standing, news, after, through, max_rows=max_rows, max_bytes=10**6)
        read = read.slice(0, sum(position <= through for position in read.position))
        here = snapshots_at(standing, after, through)
        assert len(here) <= max_rows
        made = replaced_page(read, through, standing, news, here, [False] * len(here))
        if not standing.kept_at or standing.kept_at > through:  # the log need not be read
            unread = replaced_page(None, through, standing, news, here, [False] * len(here))
            assert (unread.events, unread.replaced) == (made.events, made.replaced)
        ranges = made.replaced.ranges
        assert len(ranges) <= max_rows
        told.sent(ranges)
        for one in ranges:
            assert one.reason == REPLACED
            known[one.persistence_id] = max(one.to_seq_nr, known.get(one.persistence_id, 0))
        sent = made.marked(made.events)
        assert sent.position == sorted(sent.position)
        marks = set(replacing(sent))
        for index, (name, seq_nr) in enumerate(zip(sent.persistence_id, sent.seq_nr, strict=True)):
            assert known.get(name, 0) == sent.prev_seq_nr[index] == seq_nr - 1
            known[name] = seq_nr
            fold.setdefault(name, set()).update(range(1, seq_nr + 1) if index in marks else [seq_nr])
        after = through
    assert fold == {name: set(range(1, names.count(name) + 1)) for name in set(names)}


def snapshots_at(standing: Standing, after: int, through: int, tags: str = "") -> EventBatch:
    here = standing.here(after, through)
    return snapshot_batch([
        taken(standing.persistence_id[index], standing.seq_nr[index], standing.position[index], tags) for index in here
    ])  # fmt: skip


def page_of(names: list[str], taken_at: dict[str, tuple[int, int]], tags: str = "", **folds: bool) -> PushPage:
    """A log's page in which snapshots of these numbers at these positions stand in."""
    log, end = log_of(names), len(names)
    standing = standing_of(beside_of(log, taken_at, {}, 0, end))
    here = snapshots_at(standing, 0, end, tags)
    fold = [folds.get(name, False) for name in here.persistence_id]
    return replaced_page(log, end, standing, StatedReplaced().news(standing, end), here, fold)


def test_the_tags_of_a_snapshot_that_folds_others_say_so() -> None:
    made = page_of(["a", "b"], {"a": (1, 1), "b": (1, 2)}, "blue", a=True)
    assert [split_tags(tags) for tags in made.events.tags] == [("blue",), ("blue",)], "a filter is asked of its own"
    assert [split_tags(tags) for tags in made.marked(made.events).tags] == [("blue", FOLDS_TAG), ("blue",)]


def test_positions_that_snapshots_stand_for_are_not_counted_as_withheld() -> None:
    made = page_of(["a", "a", "b", "a"], {"a": (2, 2)})
    assert made.counted([1, 2, 3, 4], [2, 3]) == ([3, 4], [3])
    assert PushPage(log_of(["a", "b"]), 2).counted([1, 2], [1]) == ([1, 2], [1])
    assert PushPage(through=2, is_replaced=True).counted([1, 2], []) == ((), ())


def test_a_part_of_a_page_says_nothing_of_what_comes_behind_it() -> None:
    made = page_of(["b", "a", "b", "a"], {"a": (2, 4), "b": (2, 3)})
    a, b = StatedRange("a", 1, 1, REPLACED), StatedRange("b", 1, 1, REPLACED)
    part = made.cut(2)
    assert (part.through, part.events.position, part.replaced) == (2, [], Replaced([b, a], [1, 2]))
    part = made.cut(1)
    assert (part.through, part.replaced) == (1, Replaced([b], [1]))
    assert made.cut(3).events.position == [3]


def test_a_page_ends_before_what_is_too_much_for_one() -> None:
    standing = standing_of(beside_of(log_of([*"abcabc"]), {"a": (2, 4), "b": (2, 5), "c": (2, 6)}, {}, 0, 6))
    told, much = StatedReplaced(), 10**6

    def through(max_rows: int, max_bytes: int = much) -> int:
        return fitting_through(standing, told.news(standing, 6), 0, 6, max_rows=max_rows, max_bytes=max_bytes)

    assert [through(rows) for rows in (1, 2, 3)] == [1, 2, 6]
    assert through(3, 1) == 4, "one snapshot whatever it weighs"
    told.sent([StatedRange(name, 1, 1, REPLACED) for name in "ab"])
    assert [through(rows) for rows in (1, 2, 3)] == [4, 5, 6], "what was stated is not stated again"


def test_where_a_snapshot_does_not_stand_in_the_log_is_read() -> None:
    beside = beside_of(log_of([*"abcab"]), {"a": (2, 4), "b": (2, 5), "c": (1, 3)}, {}, 0, 5)
    assert standing_of(beside).kept_at == 0
    some = standing_of(beside, lambda name: name != "b")
    assert (some.persistence_id, some.kept_at) == (["a", "c"], 2)
    assert (some.furthest(1), some.furthest(3), some.here(0, 3)) == (4, 4, [1])


def test_a_snapshot_has_the_place_of_its_event_or_of_the_last_that_is_gone() -> None:
    assert place_of(3, 30, 0, 0) == 30
    assert place_of(3, 30, 3, 30) == 30
    assert place_of(3, 0, 3, 30) == 30
    assert place_of(3, 30, 4, 40) == 0, "what is gone after it is in no snapshot"


def test_only_what_is_selected_and_permitted_whole_stands_in() -> None:
    blue, folds = frozenset({"blue"}), frozenset({"blue", "secret"})
    assert may_stand_in(taken("a", 3, 3, "blue"), EVERY_ENTITY, None)
    assert may_stand_in(taken("a", 3, 3, "blue"), NO_SECRETS, blue)
    assert not may_stand_in(taken("a", 3, 3, "blue"), NO_SECRETS, folds)
    assert not may_stand_in(taken("a", 3, 3, "blue"), NO_SECRETS, None)
    assert may_stand_in(taken("a", 3, 3, "blue", says_last_event=True), NO_SECRETS, folds)
    assert not may_stand_in(taken("a", 3, 3, "secret", says_last_event=True), NO_SECRETS, folds)
    from_four = within(
        parse_filter('[{"exclude_all":true},{"include_ids":[{"id":"a","from_seq_nr":4}]}]'), EVERY_ENTITY
    )
    assert not may_stand_in(taken("S|a", 3, 3), from_four, blue)


def test_a_stretch_begins_where_the_lane_is_and_grows_to_its_snapshots() -> None:
    lost = Stretch().lost(10, 20)
    assert (lost, lost.is_active(19), lost.is_active(20), lost.takes_all(10)) == (
        Stretch(0, 10, 20),
        True,
        False,
        False,
    )
    assert lost.lost(15, 30) == Stretch(0, 10, 30), "one that goes on keeps where it began"
    assert lost.lost(20, 30) == Stretch(0, 20, 30)
    assert lost.reaching(20, 12, 40) == lost
    assert lost.reaching(21, 12, 40) == Stretch(0, 10, 40)
    behind = lost.behind(50)
    assert (behind.takes_all(49), behind.takes_all(50)) == (True, False)
    assert behind.reaching(51, 12, 60) == Stretch(60, 10, 20)


def test_far_behind_is_further_than_the_setting() -> None:
    assert not is_far_behind(0, 10**9, 0)
    assert [is_far_behind(5, head, 10) for head in (15, 16)] == [False, True]


def test_what_is_gone_is_said_to_be_replaced_only_up_to_a_snapshot() -> None:
    ranges = [StatedRange("a", 1, 3, "dropped"), StatedRange("b", 1, 3, "dropped"), StatedRange("c", 1, 3, "dropped")]
    ranges += [StatedRange("d", 1, 3, "dropped"), StatedRange("e", 1, 1, "dropped")]
    assert as_replaced(ranges, {"a": 9, "b": 2, "d": 3, "e": 1}) == [
        StatedRange("a", 1, 3, REPLACED),
        *ranges[1:3],
        StatedRange("d", 1, 2, REPLACED),
    ]


def test_what_was_stated_is_remembered_up_to_a_bound() -> None:
    told, standing, one = StatedReplaced(), Standing(["a"], [4], [9], [0], [1]), StatedRange("a", 1, 3, REPLACED)
    told.sent([one])
    assert not told.news(standing, 1)
    told.sent(StatedRange(f"b{n}", 1, 3, REPLACED) for n in range(STATED_MAX))
    assert told.news(standing, 1) == Replaced([one], [1])
    assert not told.news(standing, 0)
