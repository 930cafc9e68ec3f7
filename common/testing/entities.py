"""Given events, when a command comes, then events, a reply or a rejection.

    outcome = given(Counters, Added(5)).when(Take(2))
    assert outcome.events == [Taken(2)]
    assert outcome.reply == 3

Everything passes through its codec: given events are stored and read, the state is stored and read between any two commands,
the command is written and read as if it came over HTTP. And what must be pure is called twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from common.core.errors import BackhaulError
from common.core.events.batch import new_events, split_tags
from common.core.events.typed_json import Misfit, reader_of, write_json
from common.core.events.types import EventTypes, is_message
from common.entity.decisions import Accepted, Decided, Rejected, decide_all, replay
from common.entity.definition import AnyEntity, Definition

_EVENT_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What one command led to. ``rejection`` is '' when it was accepted; ``tags`` has one entry an event."""

    events: list[Any]
    reply: Any
    rejection: str
    tags: list[tuple[str, ...]]
    state: Any


class EntityKit:
    """One entity under test; made by ``given``."""

    def __init__(self, entity: AnyEntity | type[AnyEntity], registry: EventTypes | None = None) -> None:
        self.definition = Definition(entity, registry or EventTypes())
        self.state: Any = self._read_again(self.definition.entity.empty)
        self.seq_nr = 0

    def and_given(self, *events: object) -> EntityKit:
        """These happened as well."""
        encoded = [self.definition.registry.encode_checked(event)[0] for event in events]
        types, codecs, payloads, metadata = (
            (list(column) for column in zip(*encoded, strict=True)) if encoded else ([],) * 4
        )
        batch = new_events(
            [f"{self.definition.entity_type}|tested"] * len(events), types, payloads, codec=codecs, metadata=metadata
        )
        batch.seq_nr = list(range(self.seq_nr + 1, self.seq_nr + 1 + len(events)))
        before = self._written(self.state)
        state = replay(self.definition, self.state, batch)
        self._unchanged(before, "evolve")
        self.state = self._read_again(state)
        self.seq_nr += len(events)
        return self

    def when(self, command: object) -> CommandOutcome:
        """The command comes; what it leads to is true for the next one.

        Raises:
            BackhaulError: what a service would answer when the application's code is at fault.
            AssertionError: the code is not pure, or something does not survive its codec.
        """
        command = self._as_from_outside(command)
        before = self._written(self.state)
        decided, again = self._decide(command), self._decide(command)
        self._unchanged(before, "decide or evolve")
        assert decided.events == again.events, f"{self.definition.decide_place} does not decide twice alike"
        [answer] = decided.answers
        if isinstance(answer, BackhaulError):
            raise answer
        assert isinstance(answer, Accepted | Rejected)
        self.state, self.seq_nr = self._read_again(decided.state), decided.seq_nr
        return CommandOutcome(
            self._events(decided),
            answer.reply if isinstance(answer, Accepted) else None,
            answer.reason if isinstance(answer, Rejected) else "",
            [split_tags(tags) for tags in decided.events.tags],
            self.state,
        )

    def _decide(self, command: object) -> Decided:
        return decide_all(self.definition, self.state, self.seq_nr, [command], _EVENT_MAX_BYTES)

    def _events(self, decided: Decided) -> list[Any]:
        new = decided.events
        rows = zip(new.event_type, new.codec, new.payload, new.metadata, strict=True)
        return [self.definition.registry.decode(*row) for row in rows]

    def _written(self, state: object) -> bytes:
        return self.definition.registry.encode_checked(state)[0][2]

    def _read_again(self, state: object) -> Any:  # noqa: ANN401  the application's state
        read = self.definition.registry.encode_checked(state)[1]
        assert read == state, f"the state does not survive being stored: {state!r} was read back as {read!r}"
        return read

    def _unchanged(self, before: bytes, function: str) -> None:
        assert self._written(self.state) == before, f"{function} changed the state it was given: return a new one"

    def _as_from_outside(self, command: Any) -> object:  # noqa: ANN401
        cls: Any = type(command)
        assert cls in self.definition.commands, f"{cls.__qualname__} is not a command of {self.definition.entity_type}"
        if is_message(cls):
            return cls.FromString(command.SerializeToString())
        try:
            read = reader_of(cls, strict=True)(orjson.loads(write_json(command)))
        except Misfit as misfit:
            raise AssertionError(f"{command!r} could not come from outside: {misfit.field} {misfit.what}") from misfit
        assert read == command, f"{command!r} comes from outside as {read!r}"
        return read


def given(entity: AnyEntity | type[AnyEntity], *events: object, registry: EventTypes | None = None) -> EntityKit:
    """An entity to which these events have happened."""
    return EntityKit(entity, registry).and_given(*events)
