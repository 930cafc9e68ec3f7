"""A look at a database from outside, for an operator who searches for a fault: nothing is changed in it."""

from __future__ import annotations

import asyncpg
import trio

from common.core.journal.url import JournalUrl
from common.journal.postgres.connection import Server, SessionLimits, finish, map_start_errors, say_goodbye
from common.journal.postgres.opening import check_server

_LIMITS = SessionLimits()
# A transaction that writes nothing but a line to the write-ahead log, which its commit syncs.
_SYNCED = "SELECT pg_logical_emit_message(true, 'backhaul', 'doctor')"


async def look_at(url: JournalUrl, commits: int) -> tuple[str, list[float]]:
    """The server's version, and the seconds that some synced commits took. In `border.open_loop`.

    Raises what opening a journal there raises: `postgres.unreachable`, `postgres.access_denied`, `journal.not_durable` …
    """
    server = Server(url.target, _LIMITS)
    with map_start_errors(server.name):
        connection: asyncpg.Connection = await server.connect("doctor", {})
        try:
            await finish(connection, _LIMITS, check_server, connection, server.name)
            seconds = []
            for _ in range(commits):
                began_s = trio.current_time()
                await finish(connection, _LIMITS, connection.fetchval, _SYNCED)
                seconds.append(trio.current_time() - began_s)
            return f"PostgreSQL {connection.get_server_version().major}", seconds
        finally:
            await say_goodbye(connection)
