"""Runs a service's durable state: reads from the tables, changes through the journal's one writer.

A change names the revision that it goes on from. One that was given none reads the present one and tries again when
another writer was first; an answer that was lost is asked for until it comes or the deadline passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import join_tags, new_events
from common.core.events.ids import persistence_id
from common.core.events.rules import problems
from common.core.journal.append import Appended, AppendRefused, LocalAppend
from common.core.journal.statement import Statement
from common.entity import refusals
from common.entity.durable_state import StateDefinition, StateDeleted, Versioned, Where
from common.entity.live import marked
from common.entity.recovery import was_stored
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal

ROWS_MAX: Final = 1_000
_RETRY_S: Final = 0.5


class States:
    """All durable state of a service. ``prepare`` comes first. ``node`` is unique among all that write to the journal."""

    def __init__(
        self,
        journal: Journal,
        commit: GroupCommit,
        definitions: Mapping[str, StateDefinition],
        *,
        node: str,
        now_us: Callable[[], int],
        id_prefix: str = "",
        deadline_s: float = 5.0,
        event_max_bytes: int = 1024 * 1024,
    ) -> None:
        self.definitions = definitions
        self._journal = journal
        self._commit = commit
        self._node = node
        self._now_us = now_us
        self._id_prefix = id_prefix
        self._deadline_s = deadline_s
        self._event_max_bytes = event_max_bytes
        self._marks = 0

    async def prepare(self) -> None:
        """Make or migrate the tables. Raises what ``ProjectionStore.migrate`` does."""
        for definition in self.definitions.values():
            await self._journal.projections.migrate(definition.migration_name, definition.migrations)
            if definition.state.migrations:
                await self._journal.projections.migrate(definition.own_tables_name, definition.state.migrations)

    # -- reading ---------------------------------------------------------------------------------------------------
    async def get(self, entity_type: str, entity_id: str) -> Versioned[Any]:
        """The value, or None with the revision that the next change goes on from.

        Raises:
            BackhaulError: ``entity.unknown_type``, ``entity.invalid_name``, what decoding and the journal raise.
        """
        definition = self._definition(entity_type)
        name = self._name(entity_type, entity_id)
        rows = await self._journal.projections.query(definition.one(), (name,))
        if rows:
            return definition.versioned(rows[0], self._id_prefix)
        return Versioned(entity_id, None, await self._revision(name))

    async def query(
        self,
        entity_type: str,
        *,
        tag: str = "",
        where: Sequence[Where] = (),
        after: str = "",
        max_rows: int = 100,
    ) -> list[Versioned[Any]]:
        """Values with this tag, for which all conditions hold, by entity id after ``after``; at most ``ROWS_MAX``.

        Raises:
            BackhaulError: ``state.bad_query``, and as ``get``.
        """
        definition = self._definition(entity_type)
        start = f"{entity_type}|{self._id_prefix}{after}"
        sql, args = definition.query(tag, where, start, min(max_rows, ROWS_MAX))
        return [definition.versioned(row, self._id_prefix) for row in await self._journal.projections.query(sql, args)]

    # -- changing --------------------------------------------------------------------------------------------------
    async def upsert(self, entity_type: str, entity_id: str, value: object, *, expected: int | None = None) -> int:
        """Make ``value`` the stored one; returns its revision, when it is on disk.

        Raises:
            BackhaulError: ``state.wrong_revision`` when ``expected`` is not the present one, ``state.wrong_value``,
                ``state.change_failed``, ``entity.outcome_unknown``, ``append.foreign_owner``, and as ``get``.
        """
        definition = self._definition(entity_type)
        if type(value) is not definition.state.value_type:
            raise BackhaulError(
                "state.wrong_value",
                f"{entity_type} holds {definition.state.value_type.__qualname__}, not {type(value).__qualname__}",
                "give a value of the declared class",
            )
        encoded, read = definition.registry.encode_checked(value)
        tags = definition.tags_of(read)
        name = self._name(entity_type, entity_id)

        def statements(revision: int) -> tuple[Statement, ...]:
            now = Versioned(entity_id, read, revision, now_us := self._now_us(), tuple(tags))
            return *definition.upserted(name, revision, now_us, encoded, read, tags), *definition.changes(now)

        return await self._change(definition, name, encoded, tags, statements, expected)

    async def delete(self, entity_type: str, entity_id: str, *, expected: int | None = None) -> int:
        """Remove the value; returns the revision of that change, or the present one when there was no value.

        Raises as ``upsert``.
        """
        definition = self._definition(entity_type)
        found = await self.get(entity_type, entity_id)
        if found.value is None and expected in {None, found.revision}:
            return found.revision
        encoded, _ = definition.registry.encode_checked(StateDeleted())
        name = self._name(entity_type, entity_id)

        def statements(revision: int) -> tuple[Statement, ...]:
            now: Versioned[Any] = Versioned(entity_id, None, revision, self._now_us(), found.tags)
            return *definition.deleted(name), *definition.changes(now)

        return await self._change(definition, name, encoded, list(found.tags), statements, expected)

    async def _change(
        self,
        definition: StateDefinition,
        name: str,
        encoded: tuple[str, str, bytes, str],
        tags: Sequence[str],
        statements: Callable[[int], tuple[Statement, ...]],
        expected: int | None,
    ) -> int:
        event_type, codec, payload, metadata = encoded
        self._marks += 1
        mark = f"{self._node}.{self._marks}"
        events = new_events(
            [name], [event_type], [payload], codec=[codec], tags=[join_tags(tags)], metadata=[marked(metadata, mark)]
        )
        for code, what in problems(events, self._event_max_bytes).values():
            raise BackhaulError(code, f"{name}: {what}", "keep values small, and tags short texts")
        with trio.move_on_after(self._deadline_s):
            while True:
                before = await self._revision(name) if expected is None else expected
                request = LocalAppend(events, {name: before}, statements=statements(before + 1))
                try:
                    outcome = await self._append(request, name, before, mark)
                except BackhaulError as error:
                    if error.code == "projection.statement_failed":
                        raise definition.change_failed(error) from error
                    raise
                if outcome is None:
                    return before + 1
                if outcome.code != "append.wrong_expected_seq_nr":
                    raise refusals.refused(outcome)
                if expected is not None:
                    raise _wrong_revision(name, expected, outcome.actual)
        raise refusals.too_late(name, has_begun=True)

    async def _append(self, request: LocalAppend, name: str, before: int, mark: str) -> AppendRefused | None:
        """None when it is stored. An answer that was lost is asked for again: the number lets it be stored once only."""
        is_repeated = False
        while True:
            try:
                outcome = await self._commit.append(request)
                if isinstance(outcome, Appended):
                    return None
                assert isinstance(outcome, AppendRefused)
                if is_repeated and await was_stored(self._journal, name, before, mark):
                    return None
                return outcome
            except BackhaulError as error:
                if not refusals.leaves_doubt(error):
                    raise
            is_repeated = True
            await trio.sleep(_RETRY_S)

    async def _revision(self, name: str) -> int:
        head = await self._journal.log.entity_head(name)
        return head.seq_nr if head else 0

    def _definition(self, entity_type: str) -> StateDefinition:
        definition = self.definitions.get(entity_type)
        if definition is None:
            raise refusals.unknown_type(entity_type, self.definitions)
        return definition

    def _name(self, entity_type: str, entity_id: str) -> str:
        return persistence_id(entity_type, entity_id, self._id_prefix)


def _wrong_revision(name: str, expected: int, actual: int) -> BackhaulError:
    return BackhaulError(
        "state.wrong_revision",
        f"{name} is at revision {actual}, not at the expected {expected}",
        "read it, decide again, and give the present revision",
        kind=ErrorKind.CONFLICT,
        details={"expected": expected, "actual": actual},
    )
