"""Two PostgreSQL servers with streaming replication, and an address that leads to either: failovers to be played.

What fails over is real: ``pg_basebackup``, a standby that streams, ``pg_promote``. The address is a TCP relay in the
test's own loop; a connection that is up stays where it is when the address moves, as with a moved DNS name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import trio

from examples.support.postgres import PostgresServer, postgres_server
from examples.support.relay import Relay

_SETTINGS: Final = {"wal_keep_size": "256MB", "wal_receiver_timeout": "2s", "wal_retrieve_retry_interval": "100ms"}
_CAUGHT_UP_S: Final = 30.0


class ReplicatedPair:
    """A primary and its standby, which change places; made anew by ``restore`` after a failover."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby
        self._is_whole = True

    def restore(self, *, synchronous: bool) -> None:
        """A primary with a standby that streams, whatever was played before."""
        if not self._is_whole:
            self.standby.follow(self.primary)
        self.set_writable()
        names = "*" if synchronous else ""
        self.primary.superuser.run(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.superuser.run("SELECT pg_reload_conf()")
        self._is_whole = True

    def promote(self) -> None:
        """The standby takes over, and waits for nobody; what becomes of the former primary is the test's affair."""
        self._is_whole = False
        self.standby.promote()
        self.standby.superuser.run("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.standby.superuser.run("ALTER SYSTEM RESET default_transaction_read_only")
        self.standby.superuser.run("SELECT pg_reload_conf()")
        self.primary, self.standby = self.standby, self.primary

    def demote(self) -> None:
        """The former primary, which was stopped, becomes a standby of the new one."""
        self.standby.follow(self.primary, rewind=True)
        self._is_whole = True

    def set_read_only(self) -> None:
        """As a cut-over does to the primary: sessions stay open, their next transactions may not write."""
        self.primary.superuser.run("ALTER SYSTEM SET default_transaction_read_only = on")
        self.primary.superuser.run("SELECT pg_reload_conf()")

    def set_writable(self) -> None:
        """And back."""
        self.primary.superuser.run("ALTER SYSTEM RESET default_transaction_read_only")
        self.primary.superuser.run("SELECT pg_reload_conf()")

    async def caught_up(self) -> None:
        """Wait until the standby has replayed all that the primary has."""
        lag = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
        with trio.fail_after(_CAUGHT_UP_S):
            for _ in count():
                if await away(self.primary.superuser.run, lag) == "1":
                    return
                await trio.sleep(0.05)


@contextmanager
def replicated_pair(directory: Path | None = None) -> Iterator[ReplicatedPair]:
    """Both servers, running, in ``directory`` (kept) or in temporary ones. Raises `PostgresUnavailable`."""
    first, second = (directory / name if directory else None for name in ("one", "two"))
    with postgres_server(first, settings=_SETTINGS) as primary:
        with postgres_server(second, settings=_SETTINGS, primary=primary) as standby:
            yield ReplicatedPair(primary, standby)


async def away(fn: Callable[..., object], *args: object) -> object:
    """Call what blocks in a thread, while relays and nodes go on in the loop."""
    return await trio.to_thread.run_sync(fn, *args)


class Address:
    """A host and port that lead to a server; ``run`` in a nursery gives the port."""

    def __init__(self, server: PostgresServer) -> None:
        self._relay = Relay([("127.0.0.1", server.port)])
        self.port = 0

    def url(self, database_url: str) -> str:
        """The database through this address."""
        parts = urlsplit(database_url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))

    def lead_to(self, server: PostgresServer) -> None:
        """New connections go to this server."""
        self._relay.lead_to(("127.0.0.1", server.port))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled."""
        async with trio.open_nursery() as nursery:
            self.port = await nursery.start(self._relay.run)
            task_status.started()
