"""Snapshots that stand in for events on the way up: pages of any size lead a receiver over the log, and its fold is right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import FOLDS_TAG, EventBatch, new_events, split_tags
from common.core.events.replacing import replacing
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.filters.permission import within
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.snapshot import Snapshot
from common.core.push.stand_ins import (
    STATED_MAX,
    StandIn,
    StatedReplaced,
    Stretch,
    as_replaced,
    is_far_behind,
    may_stand_in,
    place_of,
    replaced_page,
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


@given(
    names=st.lists(st.sampled_from("abc"), min_size=1, max_size=25),
    at=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)),
    gone=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)),
    cuts=st.sets(st.integers(1, 25)),
)
def test_a_receiver_is_led_over_the_log_page_by_page(
    names: list[str], at: dict[str, float], gone: dict[str, float], cuts: set[int]
) -> None:
    whole = log_of(names)
    places = {(name, seq_nr): at for name, seq_nr, at in zip(names, whole.seq_nr, whole.position, strict=True)}
    standing = dict[str, StandIn]()
    deleted = dict[str, int]()
    for name, share in at.items():
        if count := names.count(name):
            seq_nr = 1 + round(share * (count - 1))
            standing[name] = StandIn(taken(name, seq_nr, places[name, seq_nr]), places[name, seq_nr])
            deleted[name] = round(gone.get(name, 0.0) * seq_nr)
    is_kept = [seq_nr > deleted.get(name, 0) for name, seq_nr in zip(names, whole.seq_nr, strict=True)]
    stored = whole.select([index for index, kept in enumerate(is_kept) if kept])
    known, told, after = dict[str, int](), StatedReplaced(), 0
    fold: dict[str, set[int]] = {}
    for through in sorted({*(cut for cut in cuts if cut < len(names)), len(names)}):
        page = stored.select([at for at, position in enumerate(stored.position) if after < position <= through])
        made = replaced_page(page, after, through, standing)
        ranges = told.news(made.ranges)
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


def test_the_tags_of_a_snapshot_that_folds_others_say_so() -> None:
    page = log_of(["a", "b"])
    stand_ins = {
        "a": StandIn(taken("a", 1, 1, "blue"), 1, folds=True),
        "b": StandIn(taken("b", 1, 2, "blue"), 2, folds=False),
    }
    made = replaced_page(page, 0, 2, stand_ins)
    assert [split_tags(tags) for tags in made.events.tags] == [("blue",), ("blue",)], "a filter is asked of its own"
    assert [split_tags(tags) for tags in made.marked(made.events).tags] == [("blue", FOLDS_TAG), ("blue",)]


def test_positions_that_snapshots_stand_for_are_not_counted_as_withheld() -> None:
    made = replaced_page(log_of(["a", "a", "b", "a"]), 0, 4, {"a": StandIn(taken("a", 2, 2), 2)})
    assert made.counted([1, 2, 3, 4], [2, 3]) == ([3, 4], [3])
    plain = replaced_page(log_of(["a", "b"]), 0, 2, {})
    assert plain.counted([1, 2], [1]) == ([1, 2], [1])


def test_a_snapshot_has_the_place_of_its_event_or_of_the_last_that_is_gone() -> None:
    assert place_of(taken("a", 3, 30), 0, 0) == 30
    assert place_of(taken("a", 3, 30), 3, 30) == 30
    assert place_of(taken("a", 3, 0), 3, 30) == 30
    assert place_of(taken("a", 3, 30), 4, 40) == 0, "what is gone after it is in no snapshot"


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
    told, one = StatedReplaced(), StatedRange("a", 1, 3, REPLACED)
    told.sent([one])
    assert told.news([one]) == ()
    told.sent(StatedRange(f"b{n}", 1, 3, REPLACED) for n in range(STATED_MAX))
    assert told.news([one]) == (one,)
