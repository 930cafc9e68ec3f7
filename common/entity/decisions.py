"""Decisions and states, made by an application's functions: pure, and every fault reported with its place in that code.

The runtime and the test kit both go through here, so a test sees what a service would do.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from common.core.errors import FOREIGN, BackhaulError, ErrorKind
from common.core.events.batch import EventBatch, join_tags, new_events
from common.core.events.leaving import LEAVING_TYPE
from common.core.events.rules import problems
from common.core.events.types import Unknown, place_of
from common.entity.definition import Decision, Definition, listed

_OURS: Final = __file__

AnyState: TypeAlias = Any
"""A state, of whatever type its definition says."""
_FAILED: Final = {"decide": "entity.decide_failed", "evolve": "entity.evolve_failed"}


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a command led to, on disk: the reply, and the entity's number after ``events`` new events.

    ``repeated`` says that the command had been accepted before with the same idempotency key.
    """

    reply: object = None
    seq_nr: int = 0
    events: int = 0
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The entity said no, in the state after its event ``seq_nr``, which was its last one."""

    reason: str
    seq_nr: int = 0


@dataclass(frozen=True, slots=True)
class Current:
    """A state, and the number of the last event in it."""

    state: AnyState
    seq_nr: int


Answer = Accepted | Rejected | Current


class ReadState:
    """The command of who only wants to see the state."""


READ_STATE: Final = ReadState()


@dataclass(slots=True)
class NewEvents:
    """The new events of one append, in columns."""

    event_type: list[str] = field(default_factory=list)
    codec: list[str] = field(default_factory=list)
    payload: list[bytes] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payload)

    def cut(self, n: int) -> None:
        """Only the first n stay."""
        for column in (self.event_type, self.codec, self.payload, self.metadata, self.tags):
            del column[n:]

    def batch(self, persistence_id: str) -> EventBatch:
        """As an append wants them."""
        return new_events(
            [persistence_id] * len(self.payload),
            self.event_type,
            self.payload,
            codec=self.codec,
            tags=self.tags,
            metadata=self.metadata,
        )


@dataclass(slots=True)
class Decided:
    """What a row of commands leads to, each decided on what the ones before it left; nothing is stored yet."""

    state: AnyState
    seq_nr: int
    answers: list[Answer | BackhaulError]
    events: NewEvents
    wants_snapshot: bool = False
    is_plain: bool = True
    """No tags and no events of unregistered types, so that only sizes can be wrong."""


def decide_all(
    definition: Definition,
    state: AnyState,
    seq_nr: int,
    commands: Sequence[object],
    event_max_bytes: int,
) -> Decided:
    """Decide the commands one after the other. A fault is the answer to its own command; the others do not see it."""
    refused: dict[int, BackhaulError] = {}
    while True:
        decided, owner = _decide_all(definition, state, seq_nr, commands, refused)
        if not owner or (decided.is_plain and max(map(len, decided.events.payload)) <= event_max_bytes):
            return decided
        objections = problems(decided.events.batch(f"{definition.entity_type}|new"), event_max_bytes)
        if not objections:
            return decided
        # Rare, so simply once more without those.
        for index, (code, what) in objections.items():
            refused[owner[index]] = _unfit_event(definition, code, what)


def _decide_all(
    definition: Definition,
    state: AnyState,
    seq_nr: int,
    commands: Sequence[object],
    refused: dict[int, BackhaulError],
) -> tuple[Decided, list[int]]:
    decided = Decided(state, seq_nr, [], NewEvents())
    owner: list[int] = []
    for index, command in enumerate(commands):
        if index in refused:
            decided.answers.append(refused[index])
        elif command is READ_STATE:
            decided.answers.append(Current(decided.state, decided.seq_nr))
        else:
            before = len(decided.events)
            try:
                decided.answers.append(_decide(definition, decided, command))
            except BackhaulError as error:
                decided.events.cut(before)
                decided.answers.append(error)
            owner += [index] * (len(decided.events) - before)
    return decided, owner


def _decide(definition: Definition, decided: Decided, command: object) -> Answer:
    """Decide one command and take its events; the events of one that raises are the caller's to cut."""
    try:
        decision = definition.entity.decide(decided.state, command)
    except FOREIGN as error:
        raise failed(definition, "decide", error) from error
    if type(decision) is not Decision:
        raise _wrong_decision(definition, decision)
    if decision.rejection:
        return Rejected(decision.rejection, decided.seq_nr)
    state, wants_snapshot = decided.state, False
    for event in decision.events:
        state, snapshot = _happen(definition, decided, state, event)
        wants_snapshot = wants_snapshot or snapshot
    reply = decision.reply
    if decision.reply_from is not None:
        try:
            reply = decision.reply_from(state)
        except FOREIGN as error:
            raise failed(definition, "decide", error) from error
    n = len(decision.events)
    decided.state = state
    decided.seq_nr += n
    decided.wants_snapshot = decided.wants_snapshot or wants_snapshot
    return Accepted(reply, decided.seq_nr, n)


def _happen(definition: Definition, decided: Decided, state: AnyState, event: object) -> tuple[AnyState, bool]:
    # The state is made of the event as it will be read: then recovery cannot come to another one.
    (event_type, codec, payload, metadata), event = definition.registry.encode_checked(event)
    state = _evolve(definition, state, event)
    entity, tags = definition.entity, ""
    if definition.has_tags:
        try:
            tags = join_tags(dict.fromkeys(listed(entity.tags(state, event))))
        except FOREIGN as error:
            raise failed(definition, "tags", error) from error
    wants_snapshot = False
    if definition.has_snapshots:
        try:
            wants_snapshot = entity.snapshot_when(state, event)
        except FOREIGN as error:
            raise failed(definition, "snapshot_when", error) from error
    if tags or type(event) is Unknown:
        decided.is_plain = False
    events = decided.events
    events.event_type.append(event_type)
    events.codec.append(codec)
    events.payload.append(payload)
    events.metadata.append(metadata)
    events.tags.append(tags)
    return state, wants_snapshot


def _evolve(definition: Definition, state: AnyState, event: object) -> AnyState:
    try:
        state = definition.entity.evolve(state, event)
    except FOREIGN as error:
        raise failed(definition, "evolve", error) from error
    if type(state) is not definition.entity.state_type:
        raise BackhaulError(
            "entity.wrong_state",
            f"{definition.place('evolve')} returned a {type(state).__name__} for a {type(event).__name__}",
            f"return a {definition.entity.state_type.__name__} for every event",
            kind=ErrorKind.INTERNAL,
        )
    return state


def replay(definition: Definition, state: AnyState, events: EventBatch) -> AnyState:
    """The state after stored events.

    Raises:
        BackhaulError: ``types.unreadable``, ``types.newer_version``, ``entity.unknown_event``,
            ``entity.evolve_failed``, ``entity.wrong_state``; each with the event's number and type in its details.
    """
    decode, ignored = definition.registry.decode, definition.entity.ignored_events
    columns = zip(events.event_type, events.codec, events.payload, events.metadata, strict=True)
    for index, (event_type, codec, payload, metadata) in enumerate(columns):
        if event_type in ignored or event_type == LEAVING_TYPE:
            continue
        try:
            event = decode(event_type, codec, payload, metadata)
            if type(event) is Unknown:
                raise _unknown_event(definition, event_type)
            state = _evolve(definition, state, event)
        except BackhaulError as error:
            error.details.update(seq_nr=events.seq_nr[index], event_type=event_type)
            raise
    return state


def failed(definition: Definition, function: str, error: BaseException) -> BackhaulError:
    """An exception of the application's code as an error that names the function and the line."""
    if isinstance(error, BackhaulError) and error.code.startswith("types."):
        return error
    return BackhaulError(
        _FAILED.get(function, "entity.function_failed"),
        f"{definition.place(function)} raised {type(error).__name__}: {error}{_line_of(error)}",
        "correct the function; the command changed nothing",
        kind=ErrorKind.INTERNAL,
    )


def _line_of(error: BaseException) -> str:
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != _OURS]
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _wrong_decision(definition: Definition, decision: object) -> BackhaulError:
    if hasattr(decision, "close") and hasattr(decision, "cr_code"):
        decision.close()  # a coroutine nobody will await
    return BackhaulError(
        "entity.wrong_decision",
        f"{definition.place('decide')} returned a {type(decision).__name__}",
        "return accept(event, …) or reject(reason); the function must be a plain one",
        kind=ErrorKind.INTERNAL,
    )


def _unknown_event(definition: Definition, event_type: str) -> BackhaulError:
    return BackhaulError(
        "entity.unknown_event",
        f"{place_of(type(definition.entity))} has a stored event of type {event_type!r}, which it does not know",
        "name its class among the entity's events, or the type in ignored_events",
        kind=ErrorKind.INTERNAL,
    )


def _unfit_event(definition: Definition, code: str, what: str) -> BackhaulError:
    return BackhaulError(
        code,
        f"an event of {definition.place('decide')} cannot be stored: {what}",
        "keep events small, and tags short texts without control characters",
        kind=ErrorKind.INTERNAL,
    )
