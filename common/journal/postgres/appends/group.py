"""Appending: which server function stores a group, and what is done with its answer.

Small groups try ``append_plain`` first. What that does not store, and all else, ``append_batch`` judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from common.core.events.batch import EventBatch
from common.core.journal.append import AppendOutcome, AppendRequest, LocalAppend, Pushed
from common.fail_points import fail_point
from common.journal.commit_feed import CommitFeed
from common.journal.postgres import selected
from common.journal.postgres.appends.batch import APPEND_SQL, AppendCall, answers, only_asks
from common.journal.postgres.appends.plain import PLAIN_SQL, PlainCall
from common.journal.postgres.offsets import run_statements
from common.journal.postgres.sessions import PostgresSessions

_ENTITIES_MAX: Final = 200_000
# A group that is not plain costs a round trip, and what it is not (of an entity with parked events, say) the next may not be.
GROUPS_AFTER_FAILURE: Final = 16

_Stored = tuple[list[AppendOutcome], EventBatch, int]


class Appends:
    """What ``PostgresLog`` appends by."""

    def __init__(self, sessions: PostgresSessions, feed: CommitFeed) -> None:
        self._sessions = sessions
        self._feed = feed
        self._groups_before_plain = 0

    async def group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``LogStore.append_group``: one call of a server function, seldom two.

        Its arguments are made before the writer's turn comes, while the server is busy with the group before.
        """
        sessions = self._sessions
        if all(map(only_asks, requests)):
            return await self._answer(requests)
        before, made_for = sessions.history, sessions.writer_state
        call = self._plain_call(requests) or sessions.append_call(requests, wants_all=self._feed.is_wanted)
        outcomes, stored, head = await sessions.writer.run(self._append, call, made_for)
        sessions.check_answer(sessions.writer, before, head)
        self._feed.give(stored)  # before the signal: to who has taken it from here the head is no news
        sessions.saw_head(head)
        sessions.hints.committed(head)
        return outcomes

    async def _answer(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        # The server function would write, and sync, what has not changed.
        names = {name for request in requests if isinstance(request, LocalAppend) for name in request.expected}
        before = self._sessions.history
        position, heads = await self._sessions.writer.run(selected.entity_numbers, names)
        self._sessions.saw_answer(self._sessions.writer, before, position)
        return answers(requests, position, heads)

    def _plain_call(self, requests: Sequence[AppendRequest]) -> PlainCall | None:
        if self._groups_before_plain:
            self._groups_before_plain -= 1
            return None
        return self._sessions.plain_call(requests)

    async def _append(
        self, connection: asyncpg.Connection, call: PlainCall | AppendCall, made_for: tuple[int, str]
    ) -> _Stored:
        # The session has settled the history: what was made before may be of another one, and build on what is lost.
        is_current = made_for == self._sessions.writer_state
        fail_point("append.before_commit")
        stored: _Stored | None = None
        if is_current and isinstance(call, PlainCall):
            stored = await self._append_plain(connection, call)
        if stored is None:
            if not is_current or isinstance(call, PlainCall):
                call = self._sessions.append_call(call.requests, wants_all=self._feed.is_wanted)
            stored = await self._append_batch(connection, call)
        return stored

    async def _append_plain(self, connection: asyncpg.Connection, call: PlainCall) -> _Stored | None:
        answer = await connection.fetchrow(PLAIN_SQL, *call.arguments)
        head: int | None = answer["head_position"]
        if head is None:
            self._groups_before_plain = GROUPS_AFTER_FAILURE
            return None
        fail_point("append.after_commit")
        return call.outcomes(answer), call.stored(answer) if self._feed.is_wanted else EventBatch(), head

    async def _append_batch(self, connection: asyncpg.Connection, call: AppendCall) -> _Stored:
        if call.has_statements:
            # The head is held for as long as they take; what they touch nobody else writes.
            async with connection.transaction():
                answer = await connection.fetchrow(APPEND_SQL, *call.arguments)
                await run_statements(connection, call.statements_of(call.outcomes(answer)))
        else:
            answer = await connection.fetchrow(APPEND_SQL, *call.arguments)
        fail_point("append.after_commit")
        numbers = answer["n_no"]
        if numbers:
            if len(self._sessions.entity_no) > _ENTITIES_MAX:
                self._sessions.entity_no.clear()
            self._sessions.entity_no.update(
                (name, number) for name, number in zip(call.entities, numbers, strict=True) if number
            )
        outcomes = call.outcomes(answer)
        for outcome in outcomes:
            if isinstance(outcome, Pushed):
                for (
                    parked
                ) in outcome.parked:  # what has events parked is not plain: without its number no group of it tries
                    self._sessions.entity_no.pop(parked.persistence_id, None)
        stored = call.stored(answer) if call.wants_all else EventBatch()
        return outcomes, stored, answer["head_position"]
