"""What a function withholds on serve is stated between the events around it, whatever it withholds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import EventBatch
from common.core.subscription.consumer import admit_received
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.withheld import served_parts
from tests.core.events.test_transformations import log


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans())),
    st.sampled_from([DeliveryLane.LIVE, DeliveryLane.REPLAY]),
)
def test_a_consumer_takes_all_the_others_and_waits_for_nothing(
    rows: list[tuple[str, bool]], lane: DeliveryLane
) -> None:
    events = log(*(f"A|{name}" for name, _ in rows))
    kept = [index for index, (_, is_kept) in enumerate(rows) if is_kept]
    n = len(rows)
    message = Deliver(lane, 0, n, 7, "d", events, leaving=tuple(events.position))

    def serve(_: EventBatch) -> EventBatch:
        return events.select(kept)

    parts = served_parts(message, serve)
    known: dict[str, int] = {}
    positions: list[int] = []
    at = 0
    for part in parts:
        assert part.leaving == tuple(part.events.position)
        if lane is DeliveryLane.LIVE:
            assert part.after == at <= part.through
            at = part.through
        received = admit_received(part, known, set(), {})
        assert not received.awaiting
        assert not received.parked
        assert not received.dropped
        positions += [part.events.position[index] for index in received.accepted]
    assert positions == [index + 1 for index in kept]
    assert known == {name: events.persistence_id.count(name) for name in set(events.persistence_id)}
    assert (parts[-1].through, parts[-1].digest, parts[-1].timestamp_us) == (n, "d", 7)


def test_a_snapshot_that_is_withheld_is_stated_with_all_it_stands_for() -> None:
    events = log("A|1", "A|2", "A|2")
    events.seq_nr, events.prev_seq_nr, events.position = [5, 9, 10], [4, 8, 9], [50, 3, 4]
    message = Deliver(DeliveryLane.LIVE, 2, 4, events=events, snapshots=2)
    (part,) = served_parts(message, lambda given: given.select([1, 2]))
    assert [(one.persistence_id, one.from_seq_nr, one.to_seq_nr) for one in part.ranges] == [("A|1", 1, 5)]
    assert (part.snapshots, part.events.position, part.through) == (1, [3, 4], 4)
    first, second = served_parts(message, lambda given: given.select([0, 1]))
    assert (first.after, first.through, first.snapshots, first.events.position) == (2, 2, 2, [50, 3])
    assert (second.after, second.through, second.snapshots, second.ranges[0].from_seq_nr) == (2, 4, 0, 10)
