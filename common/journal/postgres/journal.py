"""A journal in a PostgreSQL database: opens it and puts its parts together; which session does what is in ``sessions``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog
import trio

from common.core.journal.history import History
from common.core.journal.session_budget import ServerSessions, check_sessions, is_short
from common.journal.postgres import opening
from common.journal.postgres.connection import (
    Server,
    SessionLimits,
    finish,
    map_start_errors,
    pooler_refused,
    say_goodbye,
)
from common.journal.postgres.fleet.store import PostgresFleet
from common.journal.postgres.leases import PostgresAges, PostgresLeases
from common.journal.postgres.log import PostgresLog
from common.journal.postgres.nodes.members import PostgresMembers
from common.journal.postgres.origins import PostgresIdentities, PostgresOrigins
from common.journal.postgres.parked import PostgresParked
from common.journal.postgres.projections import PostgresProjections
from common.journal.postgres.push_filters import PostgresPushFilters
from common.journal.postgres.server_group import ServerGroup
from common.journal.postgres.sessions import PostgresSessions
from common.journal.postgres.snapshots import PostgresSnapshots
from common.journal.postgres.subscriptions import PostgresSubscriptions
from common.journal.stores.journal import Journal

_log = structlog.get_logger()


@asynccontextmanager
async def open_postgres_journal(
    url: str,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    notify: bool = True,
    migrates: bool = True,
    limits: SessionLimits | None = None,
) -> AsyncIterator[Journal]:
    """Open the journal in the database at ``url``, made or migrated when need be. Needs ``border.open_loop``.

    Without ``notify`` nodes neither tell each other of commits nor listen: they only poll. Without ``migrates`` no table
    is made or changed, also not by ``ProjectionStore.migrate``: a role without rights to do so is enough.

    Raises:
        ConfigurationError: ``postgres.access_denied``, ``postgres.no_database``, ``postgres.invalid_url``,
            ``postgres.pooler``, ``postgres.too_old``, ``postgres.encoding``, ``postgres.too_few_connections``,
            ``journal.not_durable``, ``journal.not_a_journal``, ``journal.schema_newer``, ``journal.schema_older``.
        BackhaulError: ``postgres.unreachable``: it may answer later.
    """
    with map_start_errors("the journal's URL"):
        group = ServerGroup(Server(url, limits or SessionLimits()), new_id)
    history, place_key = await _look_and_migrate(group, new_id, notify=notify, migrates=migrates)
    sessions = PostgresSessions(group, history, place_key, now_us)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.watch_address)
            if notify:
                nursery.start_soon(sessions.run_hints)
            yield _compose(sessions, migrates=migrates)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is our affair: what the block raised comes out as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        await sessions.aclose()


async def _look_and_migrate(
    group: ServerGroup, new_id: Callable[[], str], *, notify: bool, migrates: bool
) -> tuple[History, str]:
    server = group.server
    with map_start_errors(server.name):
        first = await group.dial("start", {})
        try:
            if not await finish(first, server.limits, opening.has_own_session, first):
                await _refuse_shared_session(group, first)
            await finish(first, server.limits, opening.check_server, first, server.name)
            _check_sessions(server, await finish(first, server.limits, opening.count_sessions, first), notify)
            if migrates:
                await finish(first, opening.MIGRATION_LIMITS, opening.migrate, first, server.name)
            else:
                await finish(first, server.limits, opening.check_migrated, first, server.name)
            seen = await finish(first, server.limits, opening.look, first)
            history = await finish(first, server.limits, opening.settle_history, first, new_id, None, seen)
            return history, await finish(first, server.limits, opening.read_place_key, first)
        finally:
            await say_goodbye(first)


def _check_sessions(server: Server, found: ServerSessions, notify: bool) -> None:
    needed = check_sessions(server.name, found, notify=notify)
    if is_short(found, needed):
        _log.warning(
            "journal.connections_short",
            needed=needed,
            nodes=found.nodes + 1,
            available=found.available,
            others=found.others,
        )


async def _refuse_shared_session(group: ServerGroup, first: asyncpg.Connection) -> None:
    second = await group.dial("start", {})
    try:
        if await finish(first, group.server.limits, opening.shares_session, first, second):
            raise pooler_refused(group.server.name)
    finally:
        await say_goodbye(second)


def _compose(sessions: PostgresSessions, *, migrates: bool) -> Journal:
    return Journal(
        log=PostgresLog(sessions),
        origins=PostgresOrigins(sessions),
        parked=PostgresParked(sessions),
        projections=PostgresProjections(sessions, migrates=migrates),
        leases=PostgresLeases(sessions),
        ages=PostgresAges(sessions),
        members=PostgresMembers(sessions),
        subscriptions=PostgresSubscriptions(sessions),
        snapshots=PostgresSnapshots(sessions),
        push_filters=PostgresPushFilters(sessions),
        identities=PostgresIdentities(sessions),
        fleet=PostgresFleet(sessions),
    )
