"""One database whose journal's tables are empty each time: as just made, and never opened.

Making the tables anew costs the server 0.15 s of its processor, emptying them a fifth of that, and the suites ask for it a
thousand times. What a test has done to the tables themselves shows in a digest of their definitions: they are made anew then.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from common.journal.postgres import opening
from common.journal.postgres.connection import SCHEMA
from examples.support.postgres import Databases, PostgresUnavailable

_FRESH_PUBLIC: Final = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
_WITHOUT_TABLES: Final = f"{_FRESH_PUBLIC} DROP SCHEMA IF EXISTS kept, {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}"
_TABLES: Final = f"SELECT relname FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r'"
# Copies of all tables, with the rows that migrations have written.
_KEEP: Final = f"""
CREATE SCHEMA kept;
DO $$ DECLARE name text; BEGIN
    FOR name IN {_TABLES} LOOP
        EXECUTE format('CREATE TABLE kept.%1$I AS TABLE {SCHEMA}.%1$I', name);
    END LOOP;
END $$
"""
# All in one transaction. Tables of projections stand beside the journal's. A trigger refuses rows for `head`.
_EMPTY: Final = f"""
{_FRESH_PUBLIC}
DO $$ DECLARE name text; is_filled bool; BEGIN
    FOR name IN {_TABLES} LOOP
        IF to_regclass(format('kept.%I', name)) IS NULL THEN
            EXECUTE format('DROP TABLE {SCHEMA}.%I CASCADE', name);
            CONTINUE;
        END IF;
        EXECUTE format('SELECT EXISTS (SELECT FROM {SCHEMA}.%I)', name) INTO is_filled;
        CONTINUE WHEN NOT is_filled;
        EXECUTE format('TRUNCATE {SCHEMA}.%I', name);
        EXECUTE format('ALTER TABLE {SCHEMA}.%I DISABLE TRIGGER USER', name);
        EXECUTE format('INSERT INTO {SCHEMA}.%1$I OVERRIDING SYSTEM VALUE TABLE kept.%1$I', name);
        EXECUTE format('ALTER TABLE {SCHEMA}.%I ENABLE TRIGGER USER', name);
    END LOOP;
    PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'S';
END $$;
"""
_DEFINITIONS: Final = f"""
WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace), definition(text) AS (
    SELECT concat_ws(' ', relname, relkind, relpersistence, reloptions) FROM ours
    UNION ALL SELECT concat_ws(' ', relname, attname, atttypid::regtype, attnotnull, attstorage, attacl)
        FROM pg_attribute JOIN ours ON ours.oid = attrelid WHERE attnum > 0
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN ours ON ours.oid = indexrelid
    UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(pg_constraint.oid))
        FROM pg_constraint WHERE connamespace = '{SCHEMA}'::regnamespace
    UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), tgenabled)
        FROM pg_trigger JOIN ours ON ours.oid = tgrelid
    UNION ALL SELECT concat_ws(' ', proname, md5(prosrc)) FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace
)
SELECT md5(string_agg(text, ' ' ORDER BY text)) FROM definition
"""


class EmptiedDatabase:
    """A database on a server, at ``url``; calling it empties it, and returns the URL. Nobody may be at work in it."""

    def __init__(self, databases: Databases, url: str) -> None:
        self.url = url
        self._databases = databases
        self._name = urlsplit(url).path.lstrip("/")
        self._definitions = ""

    def __call__(self) -> str:
        if not self._is_emptied():
            self._make()
        return self.url

    def _is_emptied(self) -> bool:
        """Whether the tables are there, as they were made, and empty now."""
        if not self._definitions:
            return False
        try:
            return self._run(f"{_EMPTY} {_DEFINITIONS}") == self._definitions
        except PostgresUnavailable:  # one of them is gone
            return False

    def _make(self) -> None:
        self._run(_WITHOUT_TABLES)
        asyncio.run(_migrate(self.url))
        self._run(_KEEP)
        self._definitions = self._run(_DEFINITIONS)

    def _run(self, sql: str) -> str:
        return self._databases.run(sql, database=self._name)


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    try:
        await opening.migrate(connection, "the tests' server")
    finally:
        await connection.close()
