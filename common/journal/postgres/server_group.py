"""The sessions of a node as a group: every one on the same writable server, wherever the address leads.

Each dial tries the hosts of the URL in turn, the last good one first, and looks at the server before the session is given
out (``core.journal.server_choice`` decides). A session with the server that was stood on before is terminated as soon as a
new one is taken on another, statement in flight or not: a reader there would answer of a history that is over, and a
writer would store what nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Protocol

import asyncpg
import structlog
import trio

from common.core.journal.history import History
from common.core.journal.server_choice import (
    ServerIdentity,
    ServerVerdict,
    are_siblings_closed,
    judge_server,
    newest_of,
)
from common.journal.postgres import opening
from common.journal.postgres.connection import NoWritableServerError, Server, finish, is_passing, reason_of, say_goodbye

_log = structlog.get_logger()

# A server that is stopped or cut off ends no session, and one that was left without being fenced goes on answering: only
# a new session sees where the address leads.
_LOOK_EVERY_S = 5.0
_PAUSE_S = 1.0
_UNREACHED = (OSError, trio.TooSlowError, TimeoutError, asyncpg.CannotConnectNowError, NoWritableServerError)


def _is_servers(error: Exception) -> bool:
    """Whether it is of the server that was dialled, and so says nothing of the next one."""
    return is_passing(error) or isinstance(error, asyncpg.PostgresError)


class KnownHistory(Protocol):
    """What this process has seen of the log."""

    @property
    def history(self) -> History:
        """The newest of it."""

    def saw_history(self, found: History) -> None:
        """A new session has settled this."""


class ServerGroup:
    """Dials, and closes what must not stay; see ``connection.Sessions``."""

    def __init__(self, server: Server, new_id: Callable[[], str]) -> None:
        self.server = server
        self._new_id = new_id
        self._hosts = list(server.hosts)
        self._known: KnownHistory | None = None
        self._identity: ServerIdentity | None = None
        self._newest: ServerIdentity | None = None
        self._open: dict[asyncpg.Connection, ServerIdentity] = {}
        self._looked_at_s = -inf

    def open(self, known: KnownHistory) -> None:
        """The journal is open: from now on new sessions settle its history."""
        self._known = known

    async def dial(self, purpose: str, settings: Mapping[str, str]) -> asyncpg.Connection:
        """See ``connection.Sessions.dial``."""
        if self._newest is None and self._identity is None and len(self._hosts) > 1:
            await self._look_at_all()
        failures: list[tuple[str, Exception]] = []
        for host in list(self._hosts):
            try:
                connection = await self._dial(purpose, settings, host)
            except Exception as error:
                if not _is_servers(error):
                    raise
                failures.append((host, error))
                continue
            self._hosts.sort(key=lambda other: other != host)
            return connection
        # Of several hosts, one that refuses the login is to be mended and named as such; the rest may just be away.
        refused = next((error for _, error in failures if not isinstance(error, _UNREACHED)), None)
        if refused is not None or len(failures) == 1:
            raise refused or failures[0][1]
        reasons = "; ".join(f"{host}: {reason_of(error)}" for host, error in failures)
        raise NoWritableServerError(reasons) from failures[-1][1]

    async def _look_at_all(self) -> None:
        """Before the first session: which of the hosts is of the newest timeline, standbys too; who is away does not count."""
        found: list[ServerIdentity] = []

        async def look(host: str) -> None:
            try:
                connection = await self.server.connect("look", {}, host)
            except Exception as error:
                if not _is_servers(error):
                    raise
                return
            try:
                server = await finish(connection, self.server.limits, opening.look_at_server, connection)
                found.append(server.identity)
            except Exception as error:
                if not _is_servers(error):
                    raise
            finally:
                await say_goodbye(connection)

        async with trio.open_nursery() as nursery:
            for host in dict.fromkeys(self._hosts):
                nursery.start_soon(look, host)
        self._newest = newest_of(found)

    async def _dial(self, purpose: str, settings: Mapping[str, str], host: str) -> asyncpg.Connection:
        connection = await self.server.connect(purpose, settings, host)
        try:
            await self._admit(connection, host)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _admit(self, connection: asyncpg.Connection, host: str) -> None:
        limits, known = self.server.limits, self._known
        seen, before = None, known.history if known else None
        if known is None:
            found = await finish(connection, limits, opening.look_at_server, connection)
        else:
            seen = await finish(connection, limits, opening.look, connection)
            found = seen.server
        verdict = judge_server(self._identity or self._newest, before.journal_id if before else "", found)
        self._close([
            open_
            for open_, sibling in self._open.items()
            if self._identity is not None and are_siblings_closed(verdict, sibling, found.identity)
        ])  # fmt: skip
        if verdict.is_refusal:
            raise NoWritableServerError(verdict.value)
        self._looked_at_s = trio.current_time()
        if verdict is ServerVerdict.MOVED and self._identity is not None:
            server = found.identity
            _log.warning("journal.server_changed", system=server.system_identifier, timeline=server.timeline, host=host)
        self._identity = self._open[connection] = found.identity
        if known is not None and seen is not None:
            settle = opening.settle_history
            history = await finish(connection, limits, settle, connection, self._new_id, before, seen)
            if connection.is_closed():  # another session has found another server meanwhile
                raise NoWritableServerError("the address leads to another server by now")
            known.saw_history(history)

    def refused_to_write(self, connection: asyncpg.Connection) -> None:
        """See ``connection.Sessions.refused_to_write``."""
        server = self._open.get(connection)
        self._close([open_ for open_, sibling in self._open.items() if sibling == server])

    def _close(self, connections: list[asyncpg.Connection]) -> None:
        for connection in connections:
            connection.terminate()
        self._open = {open_: server for open_, server in self._open.items() if not open_.is_closed()}

    async def watch_address(self) -> None:
        """Open a session now and then when nothing else does, until cancelled; its look is all that it is for."""
        while True:
            await trio.sleep(max(0, self._looked_at_s + _LOOK_EVERY_S - trio.current_time()))
            if trio.current_time() < self._looked_at_s + _LOOK_EVERY_S:
                continue
            try:
                await say_goodbye(await self.dial("look", {}))
            except Exception as error:
                if not _is_servers(error):
                    raise
                await trio.sleep(_PAUSE_S)  # what the sessions in use find is what is said
