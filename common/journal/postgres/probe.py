"""Find out whether appends can be stored now, without storing any. Asyncio-flavoured, on a session."""

from __future__ import annotations

import asyncpg


async def probe(connection: asyncpg.Connection, append_bytes: int) -> None:
    """See ``LogStore.probe``: the head is written as an append would; a table of ``append_bytes`` is made and undone."""
    await connection.execute("UPDATE head SET position = position")
    if append_bytes:
        undone = connection.transaction()
        await undone.start()
        try:
            await connection.execute("CREATE TEMP TABLE probe (bytes bytea) ON COMMIT DROP")
            await connection.execute("ALTER TABLE probe ALTER bytes SET STORAGE EXTERNAL")
            await connection.execute("INSERT INTO probe VALUES (convert_to(repeat('x', $1), 'UTF8'))", append_bytes)
        except asyncpg.InsufficientPrivilegeError:
            pass  # a role without TEMPORARY: the head's write must do
        finally:
            await undone.rollback()
