"""The past of entities that come in, both pure ends and the judge together, in the world of ``test_filter_transition``.

Each that is there is there from its first event on, whatever was changed and cut; what a wall forbids is stated.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.batch import EventBatch
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from tests.core.push.test_filter_transition import BY_ID, BY_TAG, World, numbers_of, only, play


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_with_their_past_entities_are_there_whole_whatever_selects_them(data: st.DataObject) -> None:
    """Changes, cuts, and entities that come and go by their tags: each that is there is there from its first event on."""
    world = World(Past.FULL)
    last = play(world, data, BY_TAG, owns=BY_ID)
    assert set(world.selected(last)) <= set(world.cloud.stored)
    assert world.cloud.stated == []


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_wall_lets_no_past_through_that_it_forbids(data: st.DataObject) -> None:
    """The edge's own filter is the wall here, the cloud asks for what it likes: what is not brought is stated."""
    world = World(Past.FULL)
    world.own = data.draw(st.sampled_from(BY_TAG))
    world.dial()
    play(world, data, BY_TAG, owns=(world.own,))
    wall = parse_filter(world.own)
    tags = {(name, number): tags for name, number, tags in _rows(world.log.events)}
    assert all(wall.matches(name, tags[name, number]) for name, number in world.brought)
    permitted = {event for event, own in tags.items() if wall.matches(event[0], own)}
    stated = {(one.persistence_id, number) for one in world.cloud.stated for number in numbers_of(one)}
    assert not permitted & stated, "what may be seen is brought"


def _rows(events: EventBatch) -> list[tuple[str, int, str]]:
    return list(zip(events.persistence_id, events.seq_nr, events.tags, strict=True))


def test_what_the_cloud_has_is_not_brought_again() -> None:
    world = World(Past.FULL)
    world.ask_for(only(include_tags=["red"]))
    world.run()
    for tags in ("", "red", "", "", "", "red"):
        world.log.add("S|a", tags)
        world.run()
    assert world.cloud.stored == [("S|a", number) for number in range(1, 7)]
    assert world.brought == [("S|a", 1), ("S|a", 4), ("S|a", 5)]
    world.log.add("S|a", "")
    world.log.add("S|a", "")
    world.dial()
    world.log.add("S|a", "red")
    world.run()
    assert world.brought[3:] == [("S|a", 8)], "another stream asks what is known"


def test_an_entity_that_comes_in_twice_in_a_page_cuts_it() -> None:
    world = World(Past.FULL)
    world.ask_for(only(include_tags=["red"]))
    world.run()
    for tags in ("red", "", "", "red", "", "", "red"):
        world.log.add("S|a", tags)
    while world.send(max_events=7) or world.receive() or world.commit() or world.hear():
        pass
    assert world.cloud.stored == [("S|a", number) for number in range(1, 8)]


def test_a_stated_start_is_the_beginning_of_the_past_too() -> None:
    world = World(Past.FULL)
    world.ask_for(only(include_ids=[{"id": "a", "from_seq_nr": 3}], include_tags=["red"]))
    world.run()
    for tags in ("", "", "", "", "red"):
        world.log.add("S|b", tags)
        world.log.add("S|a", tags)
    world.run()
    assert sorted(world.cloud.stored) == [*(("S|a", n) for n in (3, 4, 5)), *(("S|b", n) for n in (1, 2, 3, 4, 5))]
    world.check_story()
