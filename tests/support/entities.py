"""A small application for tests of entities: counters that cannot fall below zero."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, cast

from common.core.errors import BackhaulError
from common.core.events.types import EventTypes
from common.core.journal.append import AppendOutcome, AppendRequest
from common.entity.definition import AnyEntity, Decision, EventSourced, accept, define, reject
from common.entity.runtime import Entities, open_entities
from common.entity.settings import EntitySettings
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore


@dataclass(frozen=True)
class Count:
    value: int = 0


@dataclass(frozen=True)
class Add:
    by: int
    note: str = ""


@dataclass(frozen=True)
class Take:
    by: int


@dataclass(frozen=True)
class AddEach:
    by: tuple[int, ...]


@dataclass(frozen=True)
class Break:
    how: str


@dataclass(frozen=True)
class Added:
    by: int
    note: str = ""


@dataclass(frozen=True)
class Taken:
    by: int


class Counters(EventSourced[Count, Add | Take | AddEach | Break, Added | Taken]):
    entity_type = "Counter"
    empty = Count()

    def decide(self, state: Count, command: Add | Take | AddEach | Break) -> Decision:
        match command:
            case Add(by, note):
                return accept(Added(by, note), reply=state.value + by)
            case Take(by) if by > state.value:
                return reject(f"only {state.value} are there")
            case Take(by):
                return accept(Taken(by)).then(lambda after: after.value)
            case AddEach(steps):
                return accept(*map(Added, steps))
            case Break(how):
                return cast(Decision, broken(how))

    def evolve(self, state: Count, event: Added | Taken) -> Count:
        if isinstance(event, Added) and event.note == "evolve raises":
            raise ArithmeticError("no such step")
        return Count(state.value + (event.by if isinstance(event, Added) else -event.by))

    def tags(self, state: Count, event: Added | Taken) -> Iterable[str]:
        if isinstance(event, Added) and event.note == "tags are a text":
            return event.note
        return {"high"} if state.value >= 100 else ()


def broken(how: str) -> Any:  # noqa: ANN401  whatever a careless application returns
    match how:
        case "raises":
            raise ZeroDivisionError("of mine")
        case "exits":
            raise SystemExit(3)
        case "returns none":
            return None
        case "unregistered":
            return accept(Break("not an event"))
        case "evolve raises" | "tags are a text":
            return accept(Added(1), Added(1, how))
        case "too large":
            return accept(Added(1, "x" * 2_000_000))
        case "not its type":
            return accept(Added(cast(int, object())))
    raise AssertionError(how)


@asynccontextmanager
async def entities_over(
    journal: Journal,
    commit: GroupCommit,
    *definitions: type[AnyEntity],
    settings: EntitySettings | None = None,
    node: str = "node-1",
    registry: EventTypes | None = None,
) -> AsyncIterator[Entities]:
    """The counters, or other entities, over a journal."""
    found = define(definitions or (Counters,), registry or EventTypes())
    async with open_entities(
        journal, commit, found, settings or EntitySettings(), node=node, chance=Random(1)
    ) as entities:
        yield entities


class DoubtfulCommits:
    """A journal whose appends may go unanswered: ``faults`` says of each group to come what becomes of it.

    "" is well, "before" is a connection lost before the commit, "after" one lost after it.
    """

    def __init__(self, journal: Journal) -> None:
        self._log = journal.log
        self.journal = replace(journal, log=cast(LogStore, self))
        self.faults: list[str] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the log has)
        return getattr(self._log, name)

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        fault = self.faults.pop(0) if self.faults else ""
        lost = BackhaulError("journal.unavailable", "cut", retry_after_s=0.01)
        if fault == "before":
            raise lost
        answer = await self._log.append_group(requests)
        if fault == "after":
            raise lost
        return answer
