"""Both ends of a push stream, driven against each other without streams, stores or clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.events.transformations import Transformed, transform
from common.core.journal.admission import EntityHead, admit_pushed
from common.core.journal.append import NOT_ALLOWED, Fenced, OriginBlocked, OutOfStep, Pushed, PushLane
from common.core.journal.history import Generation, History, Offset, Resume
from common.core.policy.parsing import parse_policy
from common.core.push.messages import Ack, PushBatch, PushLimits, Start
from common.core.push.producer import Producer, StartVerdict, check_start
from common.core.push.receiver import Endpoint

LIMITS = PushLimits(window_events=20, window_bytes=20_000, batch_bytes=2_000, event_bytes=1_000)
HISTORY = History("j", (Generation("g", 1),), 100)


def start(position: int = 0, **stored: object) -> Start:
    offset = Offset("j", "g", position, **stored)  # type: ignore[arg-type]
    return Start(1, offset, Resume.RESUME, "cloud", "cg", LIMITS, 0)


def stretch(after: int, through: int, payload: bytes = b"x") -> EventBatch:
    n = through - after
    batch = new_events(["Sensor|a"] * n, ["Read"] * n, [payload] * n)
    batch.position = list(range(after + 1, through + 1))
    batch.seq_nr = list(batch.position)
    batch.prev_seq_nr = [number - 1 for number in batch.position]
    batch.timestamp_us = [10 * number for number in batch.position]
    return batch


def batch(after: int, through: int) -> PushBatch:
    return PushBatch(after, through, "g", stretch(after, through))


def endpoint(stored: int = 0) -> Endpoint:
    return Endpoint("edge", 1, 1, Offset("j", "g", stored), LIMITS, 10)


@given(st.data())
def test_whatever_is_sent_is_stored_once_in_order_and_acked_within_bounds(data: st.DataObject) -> None:
    producer = Producer(start(), LIMITS, batches_max=4, ack_target_s=10)
    receiver, head, now_s = endpoint(), 60, 0.0
    log: list[int] = []
    while producer.acked < head:
        now_s += 0.1
        room = producer.room_bytes()
        if room and producer.position < head and (producer.window.is_empty or data.draw(st.booleans())):
            through = min(head, producer.position + data.draw(st.integers(1, 7)))
            sent = batch(producer.position, through)
            producer.sent(sent, sent.events.byte_size(), now_s)
            receiver.receive(sent, sent.events.byte_size())
            assert producer.window.in_flight_events <= LIMITS.window_events + 7
        elif not receiver.is_idle:
            request = receiver.take(data.draw(st.integers(1, 15)), 10_000)
            assert request.after_position == len(log)
            log += request.events.position
            ack = receiver.settle(Pushed(request.through.position, len(request.events)), request.through.position)
            producer.ack(ack, now_s)
    assert log == list(range(1, head + 1))
    assert producer.window.is_empty


@pytest.mark.parametrize(
    "wrong",
    [
        batch(1, 3),  # a hole
        PushBatch(0, 0, "g", EventBatch()),  # nothing
        PushBatch(0, 2, "g", stretch(0, 3)),  # beyond its end
        PushBatch(2, 5, "g", stretch(0, 3)),  # before its beginning
        PushBatch(0, 3, "g\0", stretch(0, 3)),
    ],
)
def test_a_batch_that_does_not_continue_is_refused(wrong: PushBatch) -> None:
    with pytest.raises(BackhaulError) as refused:
        endpoint().receive(wrong, 100)
    assert refused.value.code == "link.protocol"


@pytest.mark.parametrize("position", [4, 11])
def test_an_ack_outside_of_what_is_in_flight_is_refused(position: int) -> None:
    producer = Producer(start(5), LIMITS, batches_max=4, ack_target_s=10)
    producer.sent(batch(5, 10), 100, 0.0)
    with pytest.raises(BackhaulError) as refused:
        producer.ack(Ack(position), 1.0)
    assert refused.value.code == "link.protocol"


def test_what_queues_during_a_commit_is_the_next_commit() -> None:
    receiver = endpoint()
    for after in range(0, 9, 3):
        receiver.receive(batch(after, after + 3), 100)
    request = receiver.take(7, 10**6)
    assert (request.after_position, request.through.position, len(request.events)) == (0, 6, 6)
    assert (request.through.timestamp_us, request.through.persistence_id, request.through.seq_nr) == (60, "Sensor|a", 6)
    assert receiver.take(7, 10**6).after_position == 6
    assert receiver.is_idle


def test_the_queue_is_bounded_but_always_takes_one_batch() -> None:
    receiver = endpoint()
    receiver.receive(batch(0, 50), 100)
    assert receiver.is_full
    receiver.take(1, 1)
    assert not receiver.is_full


def test_batches_without_events_fill_the_queue_too() -> None:
    receiver = endpoint()
    for position in range(100):
        if receiver.is_full:
            break
        receiver.receive(PushBatch(position, position + 1, "g", EventBatch()), 10)
    assert receiver.received == 10


def test_a_range_merged_with_earlier_batches_begins_after_the_events_they_brought() -> None:
    """The producer states 1 to 9 when it finds 4 to 9 dropped; 1 to 3 may still be queued here."""
    receiver = endpoint()
    receiver.receive(batch(0, 3), 100)
    deleted = StatedRange("Sensor|a", 1, 9, "dropped")
    receiver.receive(PushBatch(3, 11, "g", stretch(9, 11), (deleted,)), 100)
    request = receiver.take(100, 10**6)
    assert request.ranges == (StatedRange("Sensor|a", 4, 9, "dropped"),)
    admission = admit_pushed(request, {})
    assert (admission.parked, len(admission.accepted)) == ([], 5)


@pytest.mark.parametrize(
    "stated",
    [
        StatedRange("Sensor|a", 0, 3, "trimmed"),
        StatedRange("Sensor|a", 4, 3, "trimmed"),
        StatedRange("Sensor|a\0", 1, 3, "trimmed"),
        StatedRange("Sensor|" + "x" * 10_000, 1, 3, "trimmed"),
        StatedRange("Sensor|a", 1, 3, "x" * 10_000),
    ],
)
def test_a_range_no_honest_peer_states_is_refused(stated: StatedRange) -> None:
    with pytest.raises(BackhaulError) as refused:
        endpoint().receive(PushBatch(0, 3, "g", EventBatch(), (stated,)), 100)
    assert refused.value.code == "link.protocol"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Fenced(7), "push.fenced"),
        (Fenced(1), "push.out_of_step"),
        (OriginBlocked(10, 10), "push.blocked"),
        (OutOfStep(1), "push.out_of_step"),
    ],
)
def test_an_outcome_that_stored_nothing_is_never_acked(outcome: object, code: str) -> None:
    receiver = endpoint()
    receiver.receive(batch(0, 3), 100)
    request = receiver.take(10, 10**6)
    with pytest.raises(BackhaulError) as refused:
        receiver.settle(outcome, request.through.position)  # type: ignore[arg-type]
    assert refused.value.code == code
    assert receiver.stored == 0


def test_a_repeat_of_what_had_been_stored_is_acked() -> None:
    assert endpoint().settle(OutOfStep(3), 3) == Ack(3)


def test_a_poisoned_event_is_marked_and_made_storable() -> None:
    receiver = endpoint()
    bad = batch(0, 3)
    bad.events.persistence_id[1] = "Sensor|a\x00"
    bad.events.payload[2] = b"x" * 1_001
    receiver.receive(bad, 100)
    request = receiver.take(10, 10**6)
    assert dict(request.poison) == {1: "entity.invalid_name", 2: "events.too_large"}
    assert request.events.persistence_id[1] == "Sensor|a\\x00"


def test_a_poisoned_id_fits_an_index_and_a_good_id_of_a_poisoned_event_stays_as_it_is() -> None:
    receiver = endpoint()
    bad = batch(0, 3)
    long = ["Sensor|" + "ü" * 5_000 + end for end in "ab"]
    good = "S" * 200 + "|" + "ü" * 100
    bad.events.persistence_id = [*long, good]
    bad.events.payload[2] = b"x" * 1_001
    receiver.receive(bad, 100)
    kept = receiver.take(10, 10**6).events.persistence_id
    assert kept[2] == good
    assert kept[0] != kept[1]
    assert max(len(name.encode()) for name in kept) <= 513


class TestStart:
    def own(self, position: int) -> object:
        return stretch(position - 1, position).envelope(0)

    def test_the_same_event_goes_on(self) -> None:
        answer = start(5, timestamp_us=50, persistence_id="Sensor|a", seq_nr=5)
        assert check_start(answer, HISTORY, None, self.own(5)) is StartVerdict.GO_ON  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "answer",
        [
            start(5, timestamp_us=51, persistence_id="Sensor|a", seq_nr=5),
            start(5, timestamp_us=50, persistence_id="Sensor|b", seq_nr=5),
            start(101),
        ],
    )
    def test_another_event_or_one_that_is_not_here_is_refused(self, answer: Start) -> None:
        with pytest.raises(BackhaulError) as refused:
            check_start(answer, HISTORY, None, self.own(5))  # type: ignore[arg-type]
        assert refused.value.code == "push.history_mismatch"

    def test_less_than_was_acked_means_that_the_cloud_lost_history(self) -> None:
        assert check_start(start(5), HISTORY, Offset("j", "g", 6), None) is StartVerdict.PEER_LOST_HISTORY
        assert check_start(start(5), HISTORY, Offset("other", "g", 6), None) is StartVerdict.GO_ON


def test_what_the_origin_may_not_write_is_set_apart_before_anything_else_looks_at_it() -> None:
    """No range of it is stated, no function of an application sees it, and its garbage has no other code."""
    seen: list[str] = []

    def look(events: EventBatch) -> Transformed:
        seen.extend(events.persistence_id)
        return Transformed(events)

    receiver = Endpoint("edge", 1, 1, Offset("j", "g", 0), LIMITS, 10, on_receive=look)
    text = '[[rule]]\nwho = "edge"\nwrite = "*|{id}/*"\nquota = {parked_events = 3}'
    receiver.rights = parse_policy(text, "policy").rights_of("edge")
    events = stretch(0, 4)
    events.persistence_id = ["Sensor|edge/a", "Sensor|other/a", "Sensor|edge/b", "Sensor|other/\x00"]
    ranges = (StatedRange("Sensor|edge/a", 1, 2, "dropped"), StatedRange("Sensor|other/c", 1, 2, "dropped"))
    receiver.receive(PushBatch(0, 5, "g", events, ranges), 100)
    request = receiver.take(100, 10**6)
    assert seen == ["Sensor|edge/a", "Sensor|edge/b"]
    assert request.ranges == ranges[:1]
    assert request.events.position == [1, 3, 2, 4]
    assert request.poison == {2: NOT_ALLOWED, 3: NOT_ALLOWED}
    assert "\x00" not in request.events.persistence_id[3]
    assert (request.through.position, request.parked_max) == (5, 3)
    heads: dict[str, EntityHead] = {}
    admit_pushed(request, heads)
    assert set(heads) == {"Sensor|edge/a", "Sensor|edge/b"}


def test_what_an_application_withholds_between_two_stated_ranges_is_no_gap() -> None:
    """An entity's past may state several ranges in one message: they and the withheld numbers are told in their order."""

    def withholds_5(events: EventBatch) -> Transformed:
        return transform(lambda event: None if event.seq_nr == 5 else event, events)

    receiver = Endpoint("edge", 1, 1, Offset("j", "g", 9), LIMITS, 10, on_receive=withholds_5)
    events = stretch(2, 9).select([0, 1, 2, 3, 6])  # 3, 4, 5, 6, 9
    ranges = (StatedRange("Sensor|a", 1, 2, "withheld"), StatedRange("Sensor|a", 7, 8, "withheld"))
    receiver.receive(PushBatch(0, 1, "g", events, ranges, PushLane.PAST), 100)
    heads: dict[str, EntityHead] = {}
    admission = admit_pushed(receiver.take(100, 10**6), heads)
    assert admission.parked == []
    assert [(one.from_seq_nr, one.to_seq_nr) for one in admission.skipped] == [(1, 2), (5, 5), (7, 8)]
    assert heads["Sensor|a"].origin_seq_nr == 9
