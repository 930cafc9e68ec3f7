"""The two ends of a subscription, each alone: what they refuse, and what bounds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.journal.history import Generation, History
from common.core.subscription.consumer import Receiving, admit_received, effect_of
from common.core.subscription.messages import (
    BackfillDone,
    ConsumerAck,
    Deliver,
    DeliveryLane,
    FilterApplied,
    FilterUpdate,
    FromSource,
    Progress,
    Replay,
    StreamLimits,
    Subscribed,
)
from common.core.subscription.place import NO_RESUME_POINT, FilterState, LogCursor, ResumePoint, SnapshotScan
from common.core.subscription.replay import QueuedReplay
from common.core.subscription.source import UPDATES_AT_ONCE, Serving

HISTORY = History("j", (Generation("g1", 1), Generation("g2", 51)), 100)
FIRST, SECOND = FilterState(1, "[]"), FilterState(2, '[{"exclude_all":true}]')
PLACE = ResumePoint("j", "g1", LogCursor(10), FIRST)
CHANGING = replace(PLACE, backfill=LogCursor(4), next=SECOND, change_position=9)
LIMITS = StreamLimits(window_bytes=100_000, batch_bytes=10_000, batch_events=100)


def stretch(*positions: int, name: str = "T|a", first_seq_nr: int = 1) -> EventBatch:
    n = len(positions)
    batch = new_events([name] * n, ["Changed"] * n, [b"x"] * n)
    batch.position = list(positions)
    batch.seq_nr = list(range(first_seq_nr, first_seq_nr + n))
    batch.prev_seq_nr = [number - 1 for number in batch.seq_nr]
    return batch


def receiving(place: ResumePoint = PLACE) -> Receiving:
    end = Receiving(place, place.next or place.applied)
    end.begin(Subscribed(HISTORY, 0, "resume", place, 1, 1, 0))
    return end


def hear(end: Receiving, message: FromSource) -> ResumePoint:
    match message:
        case Deliver():
            return end.deliver(message)
        case Progress():
            return end.progress(message)
        case FilterApplied():
            return end.filter_applied(message)
        case _:
            assert isinstance(message, BackfillDone)
            return end.backfill_done(message)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (PLACE, Progress(DeliveryLane.LIVE, 9, 12)),  # overlaps
        (PLACE, Progress(DeliveryLane.LIVE, 11, 12)),  # a hole
        (PLACE, Progress(DeliveryLane.LIVE, 10, 10)),  # nothing
        (PLACE, Progress(DeliveryLane.LIVE, 10, 12, digest="x" * 100)),
        (PLACE, Progress(DeliveryLane.BACKFILL, 0, 5)),  # no such lane now
        (PLACE, Progress(DeliveryLane.REPLAY, 10, 12)),
        (CHANGING, Progress(DeliveryLane.BACKFILL, 3, 8)),  # overlaps
        (CHANGING, Progress(DeliveryLane.BACKFILL, 5, 8)),  # a hole
        (CHANGING, Progress(DeliveryLane.BACKFILL, 4, 11)),  # beyond live
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, events=stretch(10))),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, events=stretch(13))),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, events=stretch(12, 11))),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, events=stretch(11), snapshots=2)),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, events=stretch(11, name="T|\0"))),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 12, ranges=(StatedRange("T|a", 0, 1, "trimmed"),))),
        (PLACE, Deliver(DeliveryLane.LIVE, 10, 10, scan=SnapshotScan(10, 5, "T|a"))),  # it is in no snapshots
        (PLACE, Deliver(DeliveryLane.REPLAY, 0, 10, events=stretch(11), replay_of="T|b")),
        (PLACE, Deliver(DeliveryLane.REPLAY, 0, 10, replay_of="")),
        (PLACE, FilterApplied(7, 10, None)),  # nobody asked
        (PLACE, FilterApplied(1, 9, None)),  # at another place
        (CHANGING, FilterApplied(2, 10, LogCursor(0))),  # one change at a time
        (PLACE, BackfillDone(1, 10)),
        (CHANGING, BackfillDone(2, 10)),  # it has not met live
        (replace(CHANGING, backfill=LogCursor(10)), BackfillDone(3, 10)),
    ],
)
def test_what_does_not_continue_is_refused(place: ResumePoint, message: FromSource) -> None:
    with pytest.raises(BackhaulError, match=r"link\.protocol"):
        hear(receiving(place), message)


def test_places_follow_what_is_heard() -> None:
    end = receiving()
    end.asked(SECOND)
    assert hear(end, Deliver(DeliveryLane.LIVE, 10, 60, 7, "d", stretch(11))).live == LogCursor(60, "d", 7)
    assert end.place.generation_id == "g2"
    assert hear(end, FilterApplied(2, 60, LogCursor(0))).next == SECOND
    assert hear(end, Progress(DeliveryLane.BACKFILL, 0, 60)).backfill == LogCursor(60)
    done = hear(end, BackfillDone(2, 60))
    assert (done.applied, done.next, done.backfill) == (SECOND, None, None)


@pytest.mark.parametrize(
    "message",
    [
        Deliver(DeliveryLane.LIVE, 10, 11, events=stretch(30), snapshots=1, reached=60),
        Deliver(DeliveryLane.BACKFILL, 4, 5, events=stretch(30), snapshots=1, reached=60),
        Deliver(DeliveryLane.REPLAY, 0, 10, ranges=(StatedRange("T|a", 1, 4, "trimmed"),), replay_of="T|a", reached=60),
    ],
)
def test_a_place_says_how_far_snapshots_reach_until_the_live_lane_is_there(message: Deliver) -> None:
    end = receiving(CHANGING)
    place = hear(end, message)
    assert (place.reached, place.generation_id) == (60, "g2")
    at = place.live.position
    assert hear(end, Progress(DeliveryLane.LIVE, at, 59)).reached == 60
    assert hear(end, Progress(DeliveryLane.LIVE, 59, 60)).reached == 0
    assert hear(end, Deliver(DeliveryLane.LIVE, 60, 61, events=stretch(30), snapshots=1, reached=55)).reached == 0


def test_what_a_consumer_knows_is_not_for_its_source_to_say() -> None:
    end = Receiving(replace(PLACE, generation_id="g2", reached=60), FIRST)
    end.begin(Subscribed(HISTORY, 0, "resume", PLACE, 1, 1, 0))
    assert (end.place.reached, end.place.generation_id) == (60, "g2")


@pytest.mark.parametrize("answer", [replace(PLACE, applied=SECOND), replace(PLACE, next=SECOND)])
def test_a_source_that_serves_another_filter_is_refused(answer: ResumePoint) -> None:
    end = Receiving(NO_RESUME_POINT, FIRST)
    with pytest.raises(BackhaulError, match=r"link\.protocol"):
        end.begin(Subscribed(HISTORY, 0, "first", answer, 1, 1, 0))


def replayed(*seq_nrs: int, done: bool = False, name: str = "T|a") -> Deliver:
    """A message of a replay as on the wire: events, or its end, which is a message of its own."""
    events = stretch(*(number + 8 for number in seq_nrs), name=name, first_seq_nr=seq_nrs[0] if seq_nrs else 1)
    return Deliver(DeliveryLane.REPLAY, 0, 13, events=events, replay_of=name, replay_done=done)


def test_a_gap_makes_its_entity_wait_and_no_other() -> None:
    known, awaiting, missed = {"T|a": 1, "T|b": 1}, set[str](), dict[str, int]()
    events = stretch(11, first_seq_nr=3)
    events.extend(stretch(12, name="T|b", first_seq_nr=2))
    events.extend(stretch(13, first_seq_nr=2))  # would fit, but what came before it is lost
    received = admit_received(Deliver(DeliveryLane.LIVE, 10, 13, events=events), known, awaiting, missed)
    assert (received.accepted, received.known, received.awaiting) == ([1], {"T|a": 1, "T|b": 2}, {"T|a": True})
    received = admit_received(replayed(2, 3), known, awaiting, missed)
    assert (received.accepted, received.known, received.awaiting) == ([0, 1], {"T|a": 3}, {})
    received = admit_received(replayed(done=True), known, awaiting, missed)
    assert (received.awaiting, awaiting) == ({"T|a": False}, set())


@pytest.mark.parametrize(
    "gap",
    [
        replayed(3),
        Deliver(DeliveryLane.REPLAY, 0, 13, ranges=(StatedRange("T|a", 3, 4, "withheld"),), replay_of="T|a"),
    ],
)
def test_a_replay_with_a_gap_leaves_its_entity_waiting_until_one_is_whole(gap: Deliver) -> None:
    known, awaiting, missed = {"T|a": 1}, {"T|a"}, dict[str, int]()
    received = admit_received(gap, known, awaiting, missed)
    assert (received.accepted, received.passed, received.parked) == ([], [], ["T|a"])
    for _ in range(2):  # the end of the replay, and that of another one which brings nothing
        received = admit_received(replayed(done=True), known, awaiting, missed)
        assert (received.awaiting, awaiting) == ({}, {"T|a"})
    admit_received(replayed(2, 3, 4), known, awaiting, missed)
    received = admit_received(replayed(done=True), known, awaiting, missed)
    assert (received.awaiting, awaiting, missed) == ({"T|a": False}, set(), {})


def test_a_gap_in_a_replay_that_nobody_asked_for_makes_its_entity_wait() -> None:
    known, awaiting, missed = {"T|a": 1}, set[str](), dict[str, int]()
    received = admit_received(replayed(3), known, awaiting, missed)
    assert (received.accepted, received.awaiting) == ([], {"T|a": True})
    received = admit_received(replayed(done=True), known, awaiting, missed)
    assert (received.awaiting, awaiting) == ({}, {"T|a"})


@pytest.mark.parametrize("lane", [DeliveryLane.LIVE, DeliveryLane.BACKFILL])
def test_a_range_on_another_lane_does_not_lead_over_an_entity_that_waits(lane: DeliveryLane) -> None:
    """The replay brings some of those numbers, and they would be taken for repeats."""
    known, awaiting, missed = {"T|a": 1}, {"T|a"}, dict[str, int]()
    stated = Deliver(lane, 10, 12, ranges=(StatedRange("T|a", 1, 4, "withheld"),))
    received = admit_received(stated, known, awaiting, missed)
    assert (received.passed, received.awaiting, known) == ([], {}, {"T|a": 1})
    received = admit_received(replayed(2, 3), known, awaiting, missed)
    assert received.accepted == [0, 1]


def test_a_leaving_mark_is_an_events_of_the_log_and_never_a_snapshots() -> None:
    """A snapshot may have any position, also that of an event that leaves."""
    events = stretch(12, first_seq_nr=5)
    events.extend(stretch(12, name="T|b"))
    message = Deliver(DeliveryLane.LIVE, 10, 12, events=events, leaving=(12,), snapshots=1)
    received = admit_received(message, {}, set(), {})
    taken, leaving, replaces = effect_of(message, received)
    assert (taken.persistence_id, leaving, replaces) == (["T|a", "T|b"], frozenset({1}), frozenset({0}))


def serving(place: ResumePoint = PLACE, requested: FilterState = FIRST) -> Serving:
    return Serving(place, requested, LIMITS, ack_target_s=10.0, now_s=0.0)


def test_an_ack_of_what_was_not_sent_is_refused() -> None:
    end = serving()
    end.sent(1, 100, 0.0)
    for deliveries in (2, -1):
        with pytest.raises(BackhaulError, match=r"link\.protocol"):
            end.ack(ConsumerAck(deliveries), 1.0)
    assert end.ack(ConsumerAck(1), 1.0) == 1.0
    with pytest.raises(BackhaulError, match=r"link\.protocol"):
        end.ack(ConsumerAck(0), 1.0)


def test_a_flood_of_filter_updates_is_refused_and_a_steady_pace_is_not() -> None:
    end = serving()
    for version in range(2, 200):
        end.ask_filter(FilterUpdate(version, "[]"), version / 2)
    for version in range(200, 200 + UPDATES_AT_ONCE):
        end.ask_filter(FilterUpdate(version, "[]"), 1_000.0)
    with pytest.raises(BackhaulError, match=r"subscription\.too_many_updates"):
        end.ask_filter(FilterUpdate(1_000, "[]"), 1_000.0)


def test_of_several_waiting_filters_the_last_counts_and_versions_only_grow() -> None:
    end = serving(CHANGING, SECOND)
    assert not end.wants_change
    end.ask_filter(FilterUpdate(3, "[]"), 1.0)
    end.ask_filter(FilterUpdate(5, "[]"), 1.0)
    assert end.pending == FilterState(5, "[]")
    assert not end.wants_change
    with pytest.raises(BackhaulError, match=r"link\.protocol"):
        end.ask_filter(FilterUpdate(5, "[]"), 1.0)


def test_replays_of_no_entity_are_refused() -> None:
    for wanted in (Replay("T|more", 0), Replay("nothing", 1)):
        with pytest.raises(BackhaulError, match=r"link\.protocol"):
            serving().ask_replay(wanted)


def test_a_change_of_filter_has_a_replay_go_back_to_what_it_sent_last() -> None:
    end = serving()
    end.ask_replay(Replay("T|a", 3))
    end.replay_goes_on(QueuedReplay("T|a", 9, 4))
    end.ask_filter(FilterUpdate(2, SECOND.criteria), 1.0)
    assert end.next_replay == QueuedReplay("T|a", 9, 4)
    end.begin_change(LogCursor(0))
    assert end.next_replay == QueuedReplay("T|a", 5, 4)


def test_a_window_that_is_full_waits_for_an_ack() -> None:
    end = serving()
    while end.room_bytes():
        end.sent(10, 10_000, 0.0)
    end.ack(ConsumerAck(end.deliveries), 0.1)
    assert end.room_bytes() == LIMITS.batch_bytes


def test_live_waits_for_a_backfill_that_is_near() -> None:
    assert not serving(replace(CHANGING, live=LogCursor(5_000)), SECOND).holds_live
    assert serving(CHANGING, SECOND).holds_live
    met = serving(replace(CHANGING, backfill=LogCursor(10)), SECOND)
    assert met.has_met
    assert not met.holds_live
    assert not serving(replace(CHANGING, backfill=LogCursor(0, scan=SnapshotScan(10, 10, ""))), SECOND).has_met
