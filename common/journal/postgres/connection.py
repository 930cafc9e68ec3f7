"""One owned connection to PostgreSQL: opened when needed, used by one caller at a time, cut rather than cancelled.

A statement in flight is never cancelled: its caller waits for it, and past a deadline the connection is terminated and
the next use opens another. Whether a new session stands where it should is decided in ``server_group``. What asyncpg and
the server raise becomes one of our codes here (``map_errors``).
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import trio

from common import border
from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.journal.url import parse_journal_url
from common.journal.fast_lock import FastLock
from common.journal.migrations import check_not_newer, load_migrations

import asyncpg  # isort: skip  # after border, which prepares asyncio

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA = "backhaul"
_RETRY_AFTER_S = 1.0
_GOODBYE_S = 2.0


class NoWritableServerError(Exception):
    """No server that the URL names is the one to stand on now; the message has each with its reason."""


# What passes by itself: the server restarts, fails over, is full of connections, or another session held a lock too long.
_PASSING = (
    OSError,
    trio.TooSlowError,
    TimeoutError,
    NoWritableServerError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    # Once the service runs, a login or database that is refused is one that is being moved.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
# The server is leaving: it shuts down, crashed beside us, or does not let anybody in yet (57P01 to 57P05).
_LEAVING = (
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
)
_SOCKET_OR_HOST = re.compile(r"(?P<host>/.*|\[[^\]]*\]|[^:\[]*)(?::(?P<port>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Seconds after which the server gives up, so that a stuck or paused node never holds what others wait for."""

    connect_timeout_s: float = 5.0
    lock_timeout_s: float = 5.0
    statement_timeout_s: float = 15.0
    idle_in_transaction_timeout_s: float = 3.0

    @property
    def deadline_s(self) -> float:
        """When the connection is cut: the server should have answered or given up by then."""
        return self.statement_timeout_s + 5.0

    def settings(self) -> dict[str, str]:
        """As session settings."""
        return {
            "lock_timeout": _ms(self.lock_timeout_s),
            "statement_timeout": _ms(self.statement_timeout_s),
            "idle_in_transaction_session_timeout": _ms(self.idle_in_transaction_timeout_s),
        }


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1_000)}ms"


@dataclass(frozen=True, slots=True)
class Server:
    """Where the database is, and how sessions with it are set up."""

    url: str
    limits: SessionLimits

    @property
    def name(self) -> str:
        """Host, port and database for messages, without user and password."""
        return parse_journal_url(self.url).place

    @property
    def hosts(self) -> tuple[str, ...]:
        """Each host that the URL names, as it stands there; one empty text for none: the driver's default."""
        return parse_journal_url(self.url).hosts or ("",)

    async def connect(self, purpose: str, settings: Mapping[str, str], host: str = "") -> asyncpg.Connection:
        """A new session with ``host``, one of ``hosts``. Trio-flavoured; raises what asyncpg raises.

        Not cancelled either: bounded by its timeout. Whether the server may be written is for the caller to find out.
        """
        session = {
            "application_name": f"backhaul {purpose}",
            "search_path": f"{SCHEMA}, public",
            "client_min_messages": "warning",
            "standard_conforming_strings": "on",
            "jit": "off",
            **self.limits.settings(),
            **settings,
        }

        at = _SOCKET_OR_HOST.fullmatch(host)
        assert at is not None, host

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(
                self.url,
                host=at["host"].strip("[]") or None,
                port=int(at["port"]) if at["port"] else None,
                target_session_attrs="any" if host else "read-write",
                server_settings=session,
                timeout=self.limits.connect_timeout_s,
                max_cached_statement_lifetime=0,
            )

        timeout_s = self.limits.connect_timeout_s + 1.0
        try:
            return await border.finish_asyncio(connect, deadline_s=timeout_s, cut=lambda: None)
        except BaseException:
            await _sockets_are_closed()
            raise


class Call(Protocol):
    """Awaits an asyncio-flavoured function of a connection to its end, whatever happens to the caller."""

    async def __call__(
        self, fn: Callable[Concatenate[asyncpg.Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


class Sessions(Protocol):
    """Where owned connections get their sessions, and what hears that a session's server is read-only."""

    server: Server

    async def dial(self, purpose: str, settings: Mapping[str, str]) -> asyncpg.Connection:
        """A new session, with the server that all stand on; trio-flavoured. Raises as ``Server.connect``, and
        ``NoWritableServerError``.
        """

    def refused_to_write(self, connection: asyncpg.Connection) -> None:
        """The server of this session takes no writes: sessions with it are of no use."""


class OwnedConnection:
    """A connection for one purpose. ``prepare`` is run on each new session before its first use; asyncio-flavoured."""

    def __init__(
        self,
        sessions: Sessions,
        purpose: str,
        *,
        settings: Mapping[str, str] | None = None,
        prepare: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    ) -> None:
        self._sessions = sessions
        self._server = sessions.server
        self._name = sessions.server.name
        self._purpose = purpose
        self._settings = settings or {}
        self._prepare = prepare
        self._connection: asyncpg.Connection | None = None
        self._lock = FastLock()

    @property
    def is_busy(self) -> bool:
        """Whether a task uses it now."""
        return self._lock.is_taken

    async def run(
        self, fn: Callable[Concatenate[asyncpg.Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await the asyncio-flavoured ``fn(connection, …)`` to its end, whatever happens to the caller.

        Raises:
            BackhaulError: ``journal.unavailable``, ``journal.disk_full``, ``journal.broken``; the connection is gone then
                unless the server itself refused the statement. What ``fn`` did is not known after the first.
        """
        async with self._lock:
            with map_errors(self._name):
                connection = await self._ready()
                return await self._finish(connection, fn, connection, *args, **kwargs)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Call]:
        """The connection for several calls in a row, those of one transaction; each is as ``run``.

        A session that is still in a transaction when the block is left is cut, and so undone; one that is lost within
        the block is not replaced there, since the next call would take effect without what went before.
        """
        async with self._lock:
            used: asyncpg.Connection | None = None

            async def call(
                fn: Callable[Concatenate[asyncpg.Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
            ) -> T:
                nonlocal used
                with map_errors(self._name):
                    if used is not None and used.is_closed():
                        raise asyncpg.ConnectionDoesNotExistError("the session was lost between two statements")
                    used = used or await self._ready()
                    return await self._finish(used, fn, used, *args, **kwargs)

            try:
                yield call
            finally:
                connection = self._connection
                if connection is not None and not connection.is_closed() and connection.is_in_transaction():
                    self.cut()

    async def _ready(self) -> asyncpg.Connection:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._dial()
            if self._prepare:
                try:
                    await self._finish(connection, self._prepare, connection)
                except BaseException:
                    self.cut()
                    raise
        return connection

    async def _dial(self) -> asyncpg.Connection:
        try:
            return await self._sessions.dial(self._purpose, self._settings)
        except asyncpg.PostgresError as error:
            if not is_passing(error):
                await self._check_schema()
            raise

    async def _finish(
        self, connection: asyncpg.Connection, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await finish(connection, self._server.limits, fn, *args, **kwargs)
        except BaseException as error:
            # A refused statement leaves a usable session; after anything else its state is not known.
            usable = isinstance(error, asyncpg.PostgresError | BackhaulError) and not isinstance(error, _LEAVING)
            if not usable or connection.is_closed() or connection.is_in_transaction():
                connection.terminate()
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                self._sessions.refused_to_write(connection)
            if isinstance(error, asyncpg.PostgresError) and not is_passing(error):
                await self._check_schema()
            raise

    async def _check_schema(self) -> None:
        """Name a later version's tables as the reason why a statement failed, if they are; on a session of its own."""
        try:
            connection = await self._server.connect("schema", {})
            try:
                await finish(connection, self._server.limits, check_schema, connection)
            finally:
                connection.terminate()
        except (*_PASSING, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # the statement's own error says more

    def cut(self) -> None:
        """Drop the session at once; the next use opens another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def aclose(self) -> None:
        """Say goodbye; bounded."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await say_goodbye(connection)


async def check_schema(connection: asyncpg.Connection) -> None:
    """Refuse tables that a later version has changed under this running one; asyncio-flavoured.

    Raises:
        BackhaulError: ``journal.schema_newer``; another node may do what this one cannot.
    """
    refuse_newer(await connection.fetchval("SELECT max(version) FROM schema_version"))


def refuse_newer(stored_version: int) -> None:
    """As ``check_schema``, of a version that was read already."""
    known = len(load_migrations("postgres"))
    try:
        check_not_newer("the journal", stored_version, known)
    except ConfigurationError as error:
        raise BackhaulError(
            "journal.schema_newer",
            error.message,
            "a later version has changed the tables while this node ran: it drains, and its work is another node's",
            details=error.details,
            retry_after_s=_RETRY_AFTER_S,
        ) from error


async def say_goodbye(connection: asyncpg.Connection) -> None:
    """Close a session that nobody uses; bounded, and not cancelled."""
    with trio.CancelScope(shield=True):
        try:
            await border.finish_asyncio(connection.close, deadline_s=_GOODBYE_S, cut=connection.terminate)
        except Exception:  # noqa: BLE001  it is over either way
            connection.terminate()
        await _sockets_are_closed()


async def _sockets_are_closed() -> None:
    # asyncio closes a socket in the loop's next turn, which an end of the loop would leave no time for.
    with trio.CancelScope(shield=True):
        for _ in range(3):
            await trio.lowlevel.checkpoint()


async def finish(
    connection: asyncpg.Connection,
    limits: SessionLimits,
    fn: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Await the asyncio-flavoured ``fn`` to its end, or until the session is cut at the deadline."""

    async def call() -> T:
        return await fn(*args, **kwargs)

    return await border.finish_asyncio(call, deadline_s=limits.deadline_s, cut=connection.terminate)


@contextmanager
def map_errors(server: str) -> Iterator[None]:
    """Every error of a running session as one of ours."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise BackhaulError(
            "journal.disk_full",
            f"{server}: {reason_of(error)}",
            "free disk space on the database server",
            kind=ErrorKind.FULL,
        ) from error
    except (*_PASSING, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise (_unavailable if is_passing(error) else _broken)(server, error) from error


def is_passing(error: BaseException) -> bool:
    """Whether the same may succeed later without anybody changing anything in the program."""
    # InterfaceError: the connection was closed under us; also a ValueError: we passed what fits no column.
    return isinstance(error, _PASSING) or (
        isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    )


def _unavailable(server: str, error: BaseException) -> BackhaulError:
    return BackhaulError(
        "journal.unavailable",
        f"{server}: {reason_of(error)}",
        "the same request may succeed when the database answers again",
        retry_after_s=_RETRY_AFTER_S,
    )


def _broken(server: str, error: BaseException) -> BackhaulError:
    return BackhaulError(
        "journal.broken",
        f"{server}: {reason_of(error)}",
        "the tables are not as this version left them; see the database's log",
        kind=ErrorKind.INTERNAL,
    )


def reason_of(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, NoWritableServerError):
        return str(error)
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    # asyncpg appends DETAIL and HINT, and a detail may quote a row: the first line is enough to look it up.
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


@contextmanager
def map_start_errors(server: str) -> Iterator[None]:
    """Every error of the first connection: what an operator must change has a code of its own."""
    try:
        yield
    except BackhaulError:
        raise
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigurationError(
            "postgres.access_denied",
            f"{server}: {reason_of(error)}",
            "correct user, password or privileges; docs/security.md has the least that roles need",
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise ConfigurationError(
            "postgres.no_database", f"{server}: {reason_of(error)}", "create the database, or correct its name"
        ) from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise ConfigurationError(
            "postgres.invalid_url",
            f"{server}: {reason_of(error)}",
            "write postgresql://user:password@host:5432/database",
        ) from error
    except (asyncpg.ProtocolViolationError, asyncpg.FeatureNotSupportedError) as error:
        if "startup parameter" in str(error):
            raise pooler_refused(server) from error
        raise _unreachable(server, error) from error
    except (*_PASSING, asyncpg.InterfaceError) as error:
        raise _unreachable(server, error) from error
    except asyncpg.PostgresError as error:
        raise _broken(server, error) from error


def _unreachable(server: str, error: BaseException) -> BackhaulError:
    return BackhaulError(
        "postgres.unreachable",
        f"{server}: {reason_of(error)}",
        "start the database, or correct host and port; of a database and its standbys the primary must answer",
        retry_after_s=_RETRY_AFTER_S,
    )


def pooler_refused(server: str) -> ConfigurationError:
    """Session settings, LISTEN and prepared statements need a session of one's own."""
    return ConfigurationError(
        "postgres.pooler",
        f"{server} is a connection pooler that shares sessions between its clients",
        "connect to the database itself, or to a pool in session mode that lets startup parameters through",
    )
