"""The kit for entities, used as an application does; and what it finds that would fail in the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from common.core.errors import BackhaulError
from common.entity.definition import Decision, EventSourced, accept
from common.testing import given
from tests.support.entities import Add, AddEach, Added, Break, Count, Counters, Take, Taken


def test_given_events_when_a_command_then_events_and_a_reply() -> None:
    answer = given(Counters, Added(5)).when(Take(2))
    assert answer.events == [Taken(2)]
    assert answer.reply == 3
    assert answer.rejection == ""
    assert answer.state == Count(3)


def test_given_events_when_a_command_then_a_rejection() -> None:
    answer = given(Counters, Added(1), Taken(1)).when(Take(2))
    assert answer.rejection == "only 0 are there"
    assert answer.events == []


def test_what_a_command_led_to_is_true_for_the_next() -> None:
    counter = given(Counters)
    counter.when(Add(99))
    assert counter.when(AddEach((1, 1))).tags == [("high",), ("high",)]
    assert counter.state == Count(101)


def test_a_fault_is_told_as_a_service_would() -> None:
    with pytest.raises(BackhaulError) as raised:
        given(Counters).when(Break("raises"))
    assert raised.value.code == "entity.decide_failed"


@dataclass(frozen=True)
class Bag:
    things: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Put:
    thing: str


@dataclass(frozen=True)
class WasPut:
    thing: str


class Careless(EventSourced[Bag, Put, WasPut]):
    """Changes its state in place, so that a decision that is made again begins from a wrong one."""

    entity_type = "Bag"
    empty = Bag()

    def decide(self, state: Bag, command: Put) -> Decision:
        return accept(WasPut(command.thing))

    def evolve(self, state: Bag, event: WasPut) -> Bag:
        state.things.append(event.thing)
        return state


class Forgetful(Careless):
    """Keeps what JSON does not."""

    def evolve(self, state: Bag, event: WasPut) -> Bag:
        return Bag(cast(Any, [*state.things, 1]))


class Fickle(Careless):
    """Decides by something else than its arguments."""

    calls = 0

    def decide(self, state: Bag, command: Put) -> Decision:
        self.calls += 1
        return accept(WasPut(f"{command.thing}{self.calls}"))

    def evolve(self, state: Bag, event: WasPut) -> Bag:
        return Bag([*state.things, event.thing])


def test_a_state_that_is_changed_in_place_is_found() -> None:
    with pytest.raises(AssertionError, match="changed the state it was given"):
        given(Careless).when(Put("a"))
    with pytest.raises(AssertionError, match="changed the state it was given"):
        given(Careless, WasPut("a"))


def test_a_state_that_does_not_survive_being_stored_is_found() -> None:
    with pytest.raises(BackhaulError, match=r"field 'things.0' must be a text"):
        given(Forgetful).when(Put("a"))


def test_a_decision_that_is_not_pure_is_found() -> None:
    with pytest.raises(AssertionError, match="does not decide twice alike"):
        given(Fickle).when(Put("a"))


def test_an_event_that_could_not_be_stored_cannot_be_given() -> None:
    with pytest.raises(BackhaulError) as raised:
        given(Counters, Added(cast(int, "5")))
    assert raised.value.code == "types.unfit"


def test_a_command_that_could_not_come_from_outside_is_found() -> None:
    with pytest.raises(AssertionError, match="could not come from outside: by must be a whole number"):
        given(Counters).when(Add(cast(int, "5")))
