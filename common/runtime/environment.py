"""Everything a service gets from the world, in one value: clock, chance, storage, streams.

Each composition root takes an ``Environment``. The real one is made here; simulation makes another, with memory pipes, a
mock clock and storage that can be rewound, and runs the same ``serve``. PostgreSQL's driver is loaded only when a
journal's URL asks for it, so an edge starts without it.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from starlette.types import ASGIApp

from common.core.addresses import Address, PeerAddress
from common.core.errors import ConfigurationError
from common.core.journal.url import JournalUrl
from common.journal.stores.journal import Journal
from common.projection.handler_executor import HandlerExecutor, ThreadExecutor
from common.projection.progress import OnCommit
from common.runtime.disk_space import volume_free_bytes
from common.runtime.loop_load import open_loop_load
from common.runtime.reload import Reloads
from common.runtime.settings.service import ServiceSettings
from common.runtime.settings.streams import StreamSettings
from common.transport.grpc.tls import TlsFiles
from common.transport.link.dialler import PeerDialler
from common.transport.link.live_peers import DialledPeers
from common.transport.stream import Channel, Methods


class Dial(Protocol):
    """Open a connection to one address."""

    def __call__(
        self,
        address: Address,
        *,
        tls: TlsFiles | None,
        connect_timeout_s: float,
        message_max_bytes: int,
        user_timeout_s: float,
    ) -> AbstractAsyncContextManager[Channel]: ...


class ServeGrpc(Protocol):
    """Serve methods on a port while the block runs; yields the port."""

    def __call__(
        self,
        methods: Methods,
        *,
        host: str,
        port: int,
        tls: TlsFiles | None,
        message_max_bytes: int,
        connections_max: int,
        user_timeout_s: float,
    ) -> AbstractAsyncContextManager[int]: ...


class ServeHttp(Protocol):
    """Serve an ASGI application on a port while the block runs; yields the port."""

    def __call__(
        self, app: ASGIApp, host: str, port: int, *, connections_max: int
    ) -> AbstractAsyncContextManager[int]: ...


class ServeSocket(Protocol):
    """Serve an ASGI application on a Unix socket while the block runs."""

    def __call__(
        self, app: ASGIApp, path: Path, *, mode: int, uids: frozenset[int], connections_max: int
    ) -> AbstractAsyncContextManager[None]: ...


class ServeGrpcSocket(Protocol):
    """Serve methods on a Unix socket while the block runs."""

    def __call__(
        self,
        methods: Methods,
        *,
        path: Path,
        mode: int,
        uids: frozenset[int],
        message_max_bytes: int,
        connections_max: int,
    ) -> AbstractAsyncContextManager[None]: ...


class JournalOpener(Protocol):
    """Open the journal a URL or path names; ``max_bytes`` caps one in a file, ``notified`` allows notifications.

    Without ``migrates`` tables of a database must be as this version needs them; a file is always migrated.
    """

    def __call__(
        self, url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
    ) -> AbstractAsyncContextManager[Journal]: ...


@dataclass(frozen=True, slots=True)
class Environment:
    """The world as a service sees it. ``now_us`` gives UTC microseconds, ``new_id`` a random id."""

    now_us: Callable[[], int]
    new_id: Callable[[], str]
    chance: random.Random
    open_journal: JournalOpener
    dial: Dial
    serve_grpc: ServeGrpc
    serve_http: ServeHttp
    plain_calls: Callable[[], HandlerExecutor] = ThreadExecutor
    """What an application's plain functions are called by."""
    reloads: Reloads = field(default_factory=Reloads)
    """What is read again at SIGHUP; a part of the service that keeps a file of its own adds itself."""
    serve_socket: ServeSocket | None = None
    """None: there are no Unix sockets."""
    serve_grpc_socket: ServeGrpcSocket | None = None
    """None, as ``serve_socket``."""
    dialled: DialledPeers = field(default_factory=DialledPeers)
    """The connections that this service has dialled; who may stay connected is set by the watch over certificates."""
    on_projected: OnCommit | None = None
    """Watches projections: called at each commit with its events, right after it."""
    loop_load: Callable[[], float] = lambda: 0.0
    """Share of a processor that the loop's thread wants, from 0 to 1."""
    volume_free_bytes: Callable[[JournalUrl], int | None] = volume_free_bytes
    """Room on the volume of a journal file; None for a database elsewhere."""


def tls_files(settings: ServiceSettings) -> TlsFiles | None:
    """The certificate files of the settings, or None for plaintext."""
    if settings.tls_ca is None or settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_ca, settings.identity_rule)


def peer_dialler(settings: StreamSettings, environment: Environment, peer: PeerAddress) -> PeerDialler:
    """What dials a peer of this service, by the settings."""
    tls = tls_files(settings)

    def dial(address: Address) -> AbstractAsyncContextManager[Channel]:
        dialled = environment.dial(
            address,
            tls=tls,
            connect_timeout_s=settings.connect_timeout_s,
            message_max_bytes=2 * settings.window_max_bytes,
            user_timeout_s=settings.user_timeout_s,
        )
        return environment.dialled.watched(dialled, str(address), environment.now_us) if tls else dialled

    return PeerDialler(peer, dial, environment.chance)


@asynccontextmanager
async def real_environment(reloads: Reloads | None = None) -> AsyncIterator[Environment]:
    """The real world, with the asyncio loop that grpclib and asyncpg need."""
    from common.border import open_loop
    from common.runtime.http.serving.server import serve_http, serve_http_socket
    from common.transport.grpc.client import open_channel
    from common.transport.grpc.server import serve_grpc, serve_grpc_socket

    with open_loop_load() as loop_load:
        async with open_loop():
            yield Environment(
                now_us=utc_now_us,
                new_id=_new_id,
                chance=random.SystemRandom(),
                open_journal=_open_journal,
                dial=open_channel,
                serve_grpc=serve_grpc,
                serve_http=serve_http,
                serve_socket=serve_http_socket,
                serve_grpc_socket=serve_grpc_socket,
                reloads=reloads or Reloads(),
                loop_load=loop_load,
            )


def utc_now_us() -> int:
    """The system's clock, in UTC microseconds."""
    return time.time_ns() // 1_000


def _new_id() -> str:
    return uuid.uuid4().hex


@asynccontextmanager
async def _open_journal(
    url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
) -> AsyncIterator[Journal]:
    if url.is_file:
        from common.journal.sqlite import open_sqlite_journal

        async with open_sqlite_journal(url.target, now_us=utc_now_us, new_id=_new_id, max_bytes=max_bytes) as journal:
            yield journal
        return
    try:
        from common.journal.postgres import open_postgres_journal
    except ImportError as error:
        raise ConfigurationError(
            "journal.driver_missing",
            f"a PostgreSQL journal needs a package that is not installed: {error.name}",
            "install the extra: pip install 'backhaul[cloud]'",
        ) from error
    async with open_postgres_journal(
        url.target, now_us=utc_now_us, new_id=_new_id, notify=notified, migrates=migrates
    ) as stored:
        yield stored
