"""A delivery that is cut: a consumer that gets only some of its parts knows nothing false of what lies beyond them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.subscription.consumer import admit_received
from common.core.subscription.messages import Deliver, DeliveryLane
from common.core.subscription.parts import halves
from common.core.subscription.withheld import served_parts
from tests.core.events.test_transformations import log

ENTITIES = [f"A|{name}" for name in "abcd"]
WITHHELD, TRIMMED = "withheld", "trimmed"


@st.composite
def stretches(draw: st.DrawFn) -> tuple[Deliver, dict[tuple[str, int], int]]:
    """A stretch of a log from which some entities' first events are missing, with their ranges; and where all stood.

    Of an entity of which nothing is left only a deletion is stated: what is withheld is stated with the next event.
    """
    rows = draw(st.lists(st.sampled_from(ENTITIES), min_size=2, max_size=14))
    whole = log(*rows)
    missing = {name: draw(st.integers(0, 4)) for name in ENTITIES}
    reasons = {name: draw(st.sampled_from([WITHHELD, TRIMMED])) for name in ENTITIES}
    kept = [
        index
        for index, (name, seq_nr) in enumerate(zip(whole.persistence_id, whole.seq_nr, strict=True))
        if seq_nr > missing[name]
    ]
    ranges = []
    for name in ENTITIES:
        count, number = rows.count(name), missing[name]
        is_left = number < count
        if number and count and (is_left or reasons[name] == TRIMMED):
            ranges.append(StatedRange(name, 1, min(number, count), reasons[name]))
    places = dict(zip(zip(whole.persistence_id, whole.seq_nr, strict=True), whole.position, strict=True))
    message = Deliver(DeliveryLane.LIVE, 0, len(rows), 7, "d", whole.select(kept), tuple(ranges))
    return message, places


def cut(message: Deliver, choices: list[bool]) -> list[Deliver]:
    """Halves of halves, as far as ``choices`` say so."""
    if len(message.events) < 2 or not choices or not choices.pop():
        return [message]
    return [part for half in halves(message) for part in cut(half, choices)]


def check_each_part(parts: list[Deliver], whole: Deliver, places: dict[tuple[str, int], int]) -> dict[str, int]:
    """Take them one after another: nothing is known from beyond the place but what is gone, up to where it reaches.

    And what is gone up to there is stated, or shows as a gap before an event that is still to come.
    """
    known: dict[str, int] = {}
    reasons: dict[tuple[str, int], str] = {}
    at = reached = whole.after
    for index, part in enumerate(parts):
        assert part.after == at <= part.through
        at = part.through
        received = admit_received(part, known, set(), {})
        assert not received.awaiting
        assert not received.dropped
        for stated in received.passed:
            for number in range(stated.from_seq_nr, stated.to_seq_nr + 1):
                reasons[stated.persistence_id, number] = stated.reason
        reached = max(at, reached, part.reached)
        assert all(places[number] <= at for number, reason in reasons.items() if reason == WITHHELD)
        assert all(places[name, seq_nr] <= reached for name, seq_nr in known.items() if seq_nr)
        to_come = {name for later in parts[index + 1 :] for name in later.events.persistence_id}
        for stated in whole.ranges:
            if stated.reason == TRIMMED and places[stated.persistence_id, stated.to_seq_nr] <= at:
                assert stated.to_seq_nr <= known.get(stated.persistence_id, 0) or stated.persistence_id in to_come
    assert at == whole.through
    assert (parts[-1].timestamp_us, parts[-1].digest, parts[-1].reached) == (7, "d", 0)
    return known


@settings(max_examples=500)
@given(stretches(), st.lists(st.booleans(), max_size=9))
def test_whatever_is_known_after_a_part_lies_behind_its_end(
    made: tuple[Deliver, dict[tuple[str, int], int]], choices: list[bool]
) -> None:
    message, places = made
    known = check_each_part(cut(message, choices), message, places)
    whole: dict[str, int] = {}
    admit_received(message, whole, set(), {})
    assert known == whole


@settings(max_examples=500)
@given(stretches(), st.lists(st.booleans(), min_size=14, max_size=14))
def test_so_it_is_when_a_function_withholds_some_of_the_events(
    made: tuple[Deliver, dict[tuple[str, int], int]], is_kept: list[bool]
) -> None:
    message, places = made

    def serve(events: EventBatch) -> EventBatch:
        return events.select([index for index in range(len(events)) if is_kept[index]])

    check_each_part(served_parts(message, serve), message, places)


def test_what_is_withheld_goes_with_the_event_that_follows_it_and_what_is_gone_with_the_first_part() -> None:
    events = log("A|a", "A|b", "A|b", "A|a")
    withheld, trimmed = StatedRange("A|a", 1, 1, WITHHELD), StatedRange("A|c", 1, 5, TRIMMED)
    message = Deliver(DeliveryLane.LIVE, 0, 9, 7, "d", events.select([1, 2, 3]), (trimmed, withheld), (2, 4))
    first, rest = halves(message)
    assert (first.after, first.through, first.ranges, first.leaving, first.reached) == (0, 2, (trimmed,), (2,), 9)
    assert (rest.after, rest.through, rest.ranges, rest.leaving) == (2, 9, (withheld,), (4,))
    assert (rest.reached, rest.timestamp_us, rest.digest) == (0, 7, "d")
