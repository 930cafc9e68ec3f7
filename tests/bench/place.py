"""Where a run keeps its stores, and the proof that they are on a disk that is synced.

Figures of a store that loses commits in a power cut mean nothing, so settings and file systems are printed before
anything is measured, and what is off, or in memory, ends the run.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from common.journal.sqlite.file import open_file
from examples.support.postgres import PostgresServer, postgres_server

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_SYNCHRONOUS_FULL = 2


class NotDurable(Exception):
    """A store that could lose what it acknowledged; the message names it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One run's folder and server. ``is_quick`` asks for sizes that only show that everything works."""

    folder: Path
    postgres: PostgresServer
    is_quick: bool

    def sized(self, full: int, quick: int) -> int:
        """A size for this run."""
        return quick if self.is_quick else full

    def fresh_folder(self, name: str) -> Path:
        """An empty folder; the same name twice gives two."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


@contextmanager
def open_place(is_quick: bool) -> Iterator[Place]:
    """A folder below the system's temporary one (TMPDIR) and a PostgreSQL in it; both are gone afterwards.

    Raises:
        PostgresUnavailable, NotDurable.
    """
    with tempfile.TemporaryDirectory(prefix="backhaul-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user when root starts it
        settings = {"max_wal_size": "4GB", "shared_buffers": "256MB", "max_connections": "400"}
        with postgres_server(folder / "postgres", settings=settings) as server:
            server.require_durable()
            yield Place(folder, server, is_quick)


def describe(place: Place) -> list[str]:
    """The lines to print first. Raises ``NotDurable``."""
    settings = place.postgres.durability()
    synchronous, mode = _sqlite_settings(place.folder)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"machine     {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        f"software    Python {platform.python_version()}, PostgreSQL {place.postgres.run('SHOW server_version')},"
        f" SQLite {apsw.sqlite_lib_version()}",
        f"PostgreSQL  {', '.join(f'{name} = {value}' for name, value in settings.items())},"
        f" on {_file_system(place.postgres.directory)}",
        f"SQLite      journal_mode = {mode}, synchronous = {synchronous}, on {_file_system(place.folder)}",
    ]


def _sqlite_settings(folder: Path) -> tuple[str, str]:
    """What SQLite itself says of a file opened as the product opens its own."""
    path = folder / "probe.db"
    file = open_file(path, max_bytes=None, vfs=None, now_us=lambda: 0)
    try:
        synchronous = file.writer.execute("PRAGMA synchronous").get
        mode = str(file.writer.execute("PRAGMA journal_mode").get)
    finally:
        file.close()
    if synchronous < _SYNCHRONOUS_FULL:
        raise NotDurable(f"SQLite answers synchronous = {synchronous}: a commit would not be synced")
    return ("FULL" if synchronous == _SYNCHRONOUS_FULL else "EXTRA"), mode


def _file_system(folder: Path) -> str:
    """Type and mount point of the file system that holds ``folder``."""
    if sys.platform != "linux":
        return "a file system that this system does not name"
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        point = Path(mount.encode().decode("unicode_escape"))
        if folder.resolve().is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, found
    if kind in _IN_MEMORY:
        raise NotDurable(f"{folder} is on {kind}, in memory: set TMPDIR to a folder on a disk")
    return f"{kind} ({best})"
