"""What is done with a database before a journal in it is used: look at it, migrate it, settle whose log it is, try it.

Asyncio-flavoured functions on a session. Several nodes may open one database at once; each step takes the lock it needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import asyncpg

from common.core.errors import ConfigurationError
from common.core.journal.history import Generation, History, begin_generation, epoch_jump, has_gone_back
from common.core.journal.server_choice import FoundServer, ServerIdentity
from common.core.journal.session_budget import ServerSessions
from common.fail_points import fail_point
from common.journal.migrations import check_not_older, load_functions, load_migrations, pending
from common.journal.postgres.connection import SCHEMA, SessionLimits

_OLDEST_VERSION = 15
# Any number that others do not use; the second key of a member's lock is the process id of its session.
MEMBER_LOCK = 22254286
# Any number will do that others do not use: "backhaul" by telephone keypad.
_LOCK = "SELECT pg_advisory_xact_lock(22254285)"
# A step may go through the whole log: a statement of it may take as long as that takes.
MIGRATION_LIMITS = SessionLimits(statement_timeout_s=6 * 3_600)
# One statement says all that a new session must know first. The control file knows of a new timeline only after the
# checkpoint that follows a promotion; the log has it at once.
_SERVER = """
SELECT pg_is_in_recovery() AS is_in_recovery,
       current_setting('transaction_read_only')::bool OR current_setting('default_transaction_read_only')::bool
           AS is_read_only,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS started_us,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS here,
       {cluster}{journal}
"""
_CLUSTER = """(SELECT system_identifier FROM pg_control_system()) AS system,
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id::bigint FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END AS line"""
_UNKNOWN_CLUSTER = "0::bigint AS system, 0::bigint AS line"
_JOURNAL = ", head.position, journal.* FROM head LEFT JOIN journal ON true"
# The holder of a lease may have taken pages from the log that is gone: see ``epoch_jump``.
_TAKE_LEASES_AWAY = (
    "UPDATE projection SET epoch = epoch + $1, owner = '', directed = false, lease_until = '-infinity'",
    "UPDATE lease SET epoch = epoch + $1, owner = '', until = '-infinity'",
)
_NOT_ON_THE_STANDBY = ("local", "remote_write")
# The members of a copy may be long gone, and those of today are not in it yet: nothing is assigned for as long as a lease.
_CLEAR_MEMBERS = """
WITH gone AS (DELETE FROM member RETURNING lease_until - renewed_at AS lease)
UPDATE membership SET settles_at = clock_timestamp() + (SELECT max(lease) FROM gone) WHERE EXISTS (SELECT FROM gone)
"""
# has_table_privilege with a list asks for any of them.
_CLOSED_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p') AND relname <> 'schema_version'
    AND NOT (SELECT bool_and(has_table_privilege(pg_class.oid, needed))
             FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed)
ORDER BY relname
"""
_DURABLE = {"fsync": "on", "full_page_writes": "on"}


async def check_server(connection: asyncpg.Connection, server: str) -> None:
    """Refuse what cannot keep a journal safe.

    Raises:
        ConfigurationError: ``postgres.too_old``, ``postgres.encoding``, ``journal.not_durable``.
    """
    version = connection.get_server_version()
    if version.major < _OLDEST_VERSION:
        raise ConfigurationError(
            "postgres.too_old",
            f"{server} is PostgreSQL {version.major}",
            f"use PostgreSQL {_OLDEST_VERSION} or later",
        )
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "server_encoding")
    values = {name: await connection.fetchval(f"SHOW {name}") for name in names}
    if values["server_encoding"] != "UTF8":
        raise ConfigurationError(
            "postgres.encoding",
            f"the database on {server} is encoded as {values['server_encoding']}",
            "create it with ENCODING 'UTF8'",
        )
    weak = [name for name, wanted in _DURABLE.items() if values[name] != wanted]
    if values["synchronous_commit"] == "off":
        weak.append("synchronous_commit")
    if weak:
        answer = ", ".join(f"{name} = {values[name]}" for name in weak)
        raise ConfigurationError(
            "journal.not_durable",
            f"{server} does not sync its commits: {answer}",
            "turn these settings on: an acknowledged event must survive a power cut",
        )
    if values["synchronous_standby_names"] and values["synchronous_commit"] in _NOT_ON_THE_STANDBY:
        raise ConfigurationError(
            "journal.not_durable",
            f"{server} names synchronous standbys, and does not wait until one has synced a commit:"
            f" synchronous_commit = {values['synchronous_commit']}",
            "set synchronous_commit = on: an acknowledged event must survive a failover to the standby; or name none",
        )


_SESSIONS = """
SELECT current_setting('max_connections')::integer AS max_connections,
       current_setting('superuser_reserved_connections')::integer
           + coalesce(current_setting('reserved_connections', true)::integer, 0) AS reserved,
       (SELECT CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END FROM pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,
       -- A session's name says what it is for, and no node has two for the same.
       coalesce((SELECT max(n) FROM (SELECT count(*)::integer AS n FROM ours GROUP BY application_name) AS each), 0) AS nodes,
       (SELECT count(*)::integer FROM sessions) - (SELECT count(*)::integer FROM ours) - 1 AS others
"""
# A row whose session is gone is of a process that has been killed: it may be this node before it was started again.
_MEMBERS = """
SELECT count(*)::integer FROM member WHERE member_left(member) > interval '0' AND lock_pid IN (
    SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = $1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""
_WITH_SESSIONS = """
WITH sessions AS (
    SELECT datname, application_name FROM pg_stat_activity WHERE backend_type = 'client backend'
), ours AS (
    SELECT application_name FROM sessions WHERE datname = current_database() AND application_name LIKE 'backhaul %'
        AND application_name <> 'backhaul start'
)
"""


async def count_sessions(connection: asyncpg.Connection) -> ServerSessions:
    """What the server allows, and who has sessions with it; called in a session named ``backhaul start``.

    Nodes are counted by their sessions and by the rows of members, whichever are more: one that has just started has few
    sessions yet and will want the others, and one that is stopped is no member and keeps those it has.
    """
    found = ServerSessions(*await connection.fetchrow(_WITH_SESSIONS + _SESSIONS))
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{SCHEMA}.member"):
        return found
    return replace(found, nodes=max(found.nodes, await connection.fetchval(_MEMBERS, MEMBER_LOCK)))


async def has_own_session(connection: asyncpg.Connection) -> bool:
    """Whether the process that greeted us is the one that serves us; otherwise a pooler stands between."""
    pids = [await connection.fetchval("SELECT pg_backend_pid()") for _ in range(2)]
    return pids == [connection.get_server_pid()] * 2


async def shares_session(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    """Whether what one client set is seen by another, or is gone while another works: a pool in transaction mode."""
    await first.execute("SELECT set_config('backhaul.probe', 'first', false)")
    # A transaction keeps a server session busy, so that the pool must give the first client a different one.
    async with second.transaction():
        if await second.fetchval("SELECT current_setting('backhaul.probe', true)") == "first":
            return True
        return bool(await first.fetchval("SELECT current_setting('backhaul.probe', true)") != "first")


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


async def migrate(connection: asyncpg.Connection, server: str) -> None:
    """Make or update our tables, in one transaction under a lock.

    Raises:
        ConfigurationError: ``journal.not_a_journal``, ``journal.schema_newer``.
    """
    async with connection.transaction():
        await connection.execute(_LOCK)
        timeout = MIGRATION_LIMITS.settings()["statement_timeout"]
        await connection.execute(f"SET LOCAL statement_timeout = '{timeout}'")
        if not await _has_tables(connection, server):
            # IF NOT EXISTS asks for CREATE on the database even where the schema exists.
            if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", SCHEMA):
                await connection.execute(f"CREATE SCHEMA {SCHEMA}")
            await connection.execute("CREATE TABLE schema_version (version int PRIMARY KEY, name text NOT NULL)")
        applied = [row[0] for row in await connection.fetch("SELECT version FROM schema_version")]
        steps = pending(load_migrations("postgres"), applied)
        for step in steps:
            await connection.execute(step.sql)
            await connection.execute("INSERT INTO schema_version VALUES ($1, $2)", step.version, step.name)
            fail_point("migration.in_transaction")
        if steps:
            for function in load_functions("postgres"):
                await connection.execute(function)


async def check_migrated(connection: asyncpg.Connection, server: str) -> None:
    """Refuse tables that are not as this version needs them, or that this role may not use; nothing is changed.

    Raises:
        ConfigurationError: ``journal.not_a_journal``, ``journal.schema_older``, ``journal.schema_newer``,
            ``postgres.access_denied``.
    """
    known = load_migrations("postgres")
    applied: list[int] = []
    user = await connection.fetchval("SELECT current_user")
    if await connection.fetchval("SELECT NOT has_schema_privilege(to_regnamespace($1), 'USAGE')", SCHEMA):
        raise _closed(server, f"the role {user} may not use the schema {SCHEMA}")
    if await _has_tables(connection, server):
        applied = [row[0] for row in await connection.fetch("SELECT version FROM schema_version")]
    pending(known, applied)
    check_not_older(f"the journal in {server}", max(applied, default=0), len(known))
    closed = [row[0] for row in await connection.fetch(_CLOSED_TABLES, SCHEMA)]
    if closed:
        raise _closed(server, f"the role {user} may not read and write {', '.join(closed)}")


def _closed(server: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        "postgres.access_denied", f"{server}: {what}", "docs/security.md has the grants, also of tables still to come"
    )


async def _has_tables(connection: asyncpg.Connection, server: str) -> bool:
    tables = {
        row[0]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')", SCHEMA
        )
    }
    if tables and "schema_version" not in tables:
        raise ConfigurationError(
            "journal.not_a_journal",
            f"the database {server} has a schema {SCHEMA} of another program; nothing in it was changed",
            "give another database",
        )
    return bool(tables)


@dataclass(frozen=True, slots=True)
class Look:
    """What a session's first statement found: the server, and the journal's row with the log's head, if asked for."""

    server: FoundServer
    row: asyncpg.Record
    knows_cluster: bool


async def look_at_server(connection: asyncpg.Connection) -> FoundServer:
    """Before there are tables."""
    return (await _look(connection, "")).server


async def look(connection: asyncpg.Connection) -> Look:
    """The first step of every session of an open journal: one statement."""
    return await _look(connection, _JOURNAL)


async def settle_history(
    connection: asyncpg.Connection, new_id: Callable[[], str], known: History | None, seen: Look
) -> History:
    """The journal's history, after ``look`` has ``seen`` it; a new generation begins when the log may have gone another way.

    That is: another system identifier or database (a dump restored, a directory copied to a new cluster), another
    timeline (recovery to a point in time, a promoted standby that may lack commits), or a log older than ``known``, what
    this process has seen (a disk put back to an older state). Nodes agree by taking turns. Every lease falls then.
    """
    found = _found(seen, new_id, known)
    if not found.is_begun:
        return found.history
    async with connection.transaction():
        await connection.execute(_LOCK)
        # Another node may have seen the same and begun a generation already.
        found = _found(await _look(connection, _JOURNAL, knows_cluster=seen.knows_cluster), new_id, known)
        if found.is_begun:
            await connection.execute(
                "INSERT INTO journal (journal_id, generations, system_identifier, timeline, database_oid)"
                " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (one) DO UPDATE"
                " SET (generations, system_identifier, timeline, database_oid) = ($2, $3, $4, $5)",
                found.history.journal_id,
                dump_generations(found.history.generations),
                *found.identity,
            )
            for statement in _TAKE_LEASES_AWAY:
                await connection.execute(statement, epoch_jump(found.history.generation_id))
            await connection.execute(_CLEAR_MEMBERS)
        return found.history


async def read_place_key(connection: asyncpg.Connection) -> str:
    """See ``LogStore.place_key``."""
    key: str = await connection.fetchval("SELECT key FROM place_key")
    return key


@dataclass(frozen=True, slots=True)
class _Found:
    """A journal's history, which may just have been thought of: ``is_begun`` = it is to be stored first."""

    history: History
    is_begun: bool
    identity: tuple[int, int, int]


def _found(seen: Look, new_id: Callable[[], str], known: History | None) -> _Found:
    row, server = seen.row, seen.server.identity
    identity = (server.system_identifier, server.timeline, server.database_oid)
    head = row["position"]
    if row["journal_id"] is None:
        return _Found(History(new_id(), begin_generation((), new_id(), head), head), True, identity)
    generations = load_generations(row["generations"])
    stored = (row["system_identifier"], row["timeline"], row["database_oid"])
    is_another = any(a != b for a, b in zip(identity, stored, strict=True) if a and b)
    begins = is_another or (known is not None and has_gone_back(known, generations, head))
    if begins:
        generations = begin_generation(generations, new_id(), head)
    return _Found(History(row["journal_id"], generations, head), begins, identity)


async def _look(connection: asyncpg.Connection, journal: str, *, knows_cluster: bool = True) -> Look:
    try:
        row = await connection.fetchrow(
            _SERVER.format(cluster=_CLUSTER if knows_cluster else _UNKNOWN_CLUSTER, journal=journal)
        )
    except asyncpg.InsufficientPrivilegeError:
        if not knows_cluster:
            raise
        return await _look(connection, journal, knows_cluster=False)
    identity = ServerIdentity(row["system"], row["line"], row["here"], row["started_us"])
    journal_id = (row["journal_id"] if journal else None) or ""
    found = FoundServer(identity, row["is_in_recovery"], row["is_read_only"], journal_id)
    return Look(found, row, knows_cluster)


def dump_generations(generations: Sequence[Generation]) -> str:
    """Generations as they are stored."""
    return json.dumps([[generation.id, generation.first_position] for generation in generations])


def load_generations(stored: str) -> tuple[Generation, ...]:
    """Stored generations."""
    return tuple(Generation(id_, first) for id_, first in json.loads(stored))
