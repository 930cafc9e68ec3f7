"""Hints between nodes: who commits tells the others the new head over a session that no append waits for.

The same session hears of changes of members and of the owners of ranges, which the database tells (triggers).

A hint may be lost at any time (the session breaks, the service stops); who follows the log also looks without one.
"""

from __future__ import annotations

import asyncpg
import trio

from common.core.errors import BackhaulError
from common.journal.change_signal import ChangeSignal
from common.journal.head_signal import HeadSignal
from common.journal.postgres.connection import OwnedConnection, Sessions

_CHANNEL = "backhaul_head"
_MEMBERS_CHANNEL = "backhaul_members"
# A hint costs the server a commit: under load one now and then says as much as one for each append.
_SPACING_S = 0.01
# PostgreSQL tells nobody that a LISTEN session's line is dead; asking does.
_ALIVE_EVERY_S = 10.0
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0)


class Hints:
    """One session that listens and notifies; ``committed`` is called by the node's own appends."""

    def __init__(self, sessions: Sessions, head_signal: HeadSignal, members_changed: ChangeSignal) -> None:
        self._head_signal = head_signal
        self._members_changed = members_changed
        self._newest = head_signal.position
        self._news = trio.Event()
        self._is_alone = False
        self._connection = OwnedConnection(
            sessions, "hints", settings={"synchronous_commit": "off"}, prepare=self._listen
        )

    def committed(self, position: int) -> None:
        """This node has stored events up to ``position``."""
        if position != self._newest:  # lower after a failover that lost commits
            self._newest = position
            if not self._is_alone:
                self._news.set()

    def saw_others(self, are_there: bool) -> None:
        """Whether this node has seen another member: alone it has nobody to tell, but for the sign that the line is alive."""
        if self._is_alone and are_there:
            self._news.set()
        self._is_alone = not are_there

    async def run(self) -> None:
        """Listen and notify until cancelled; sessions that break are opened again after a while."""
        failures = 0
        answer = self._newest
        try:
            while True:
                self._news = trio.Event()
                newest = self._newest
                try:
                    await self._connection.run(_notify if newest != answer else _ask, newest)
                except BackhaulError:
                    await trio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                    failures += 1
                    continue
                answer, failures = newest, 0
                await trio.sleep(_SPACING_S)
                with trio.move_on_after(_ALIVE_EVERY_S):
                    await self._news.wait()
        finally:
            await self._connection.aclose()

    async def _listen(self, connection: asyncpg.Connection) -> None:
        await connection.add_listener(_CHANNEL, self._heard)
        await connection.add_listener(_MEMBERS_CHANNEL, self._heard_of_members)
        connection.add_termination_listener(lambda _: self._news.set())
        # What happened while nobody listened.
        self._members_changed.fire()
        self._head_signal.raise_to(await connection.fetchval("SELECT position FROM head"))

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if payload.isdecimal():
            self._head_signal.raise_to(int(payload))

    def _heard_of_members(self, _connection: object, _pid: int, _channel: str, _payload: str) -> None:
        self._members_changed.fire()


async def _notify(connection: asyncpg.Connection, position: int) -> None:
    await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, str(position))


async def _ask(connection: asyncpg.Connection, _position: int) -> None:
    await connection.execute("SELECT 1")
