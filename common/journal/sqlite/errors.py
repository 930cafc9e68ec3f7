"""SQLite's errors as ours: what is full, what the medium did, what is damaged.

SQLITE_FULL is one code for two things with two ways out: the byte cap (``max_page_count``) and a disk without room. A file
without a cap can only mean the disk; with one, the room on the file system decides.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import apsw

from common.core.errors import BackhaulError, ErrorKind

DISK_ROOM_BYTES: Final = 64 * 1024
"""Below this much free space the disk is full: one commit, and the index of the WAL, need about as much."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING = (apsw.BusyError, apsw.LockedError, apsw.ReadOnlyError, apsw.NoMemError)


def free_bytes(path: Path) -> int:
    """What this process may still write on the file's file system."""
    found = os.statvfs(path)
    return found.f_frsize * (found.f_bavail if os.geteuid() else found.f_bfree)


def is_disk_full(path: Path) -> bool:
    """Whether the file system has no room for another commit; one that cannot be asked is not full."""
    try:
        return free_bytes(path) < DISK_ROOM_BYTES
    except OSError:
        return False


def is_of_medium(error: apsw.Error, path: Path) -> bool:
    """Whether the file could not be read or written: the connections' state is not known then."""
    return isinstance(error, apsw.IOError | apsw.CantOpenError) and not is_disk_full(path)


def is_damage(error: apsw.Error) -> bool:
    """Whether what was read is not what was written; a failing medium looks like it, too."""
    return isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.ProtocolError)


def coded_error(error: apsw.Error, path: Path, *, is_capped: bool) -> BackhaulError:
    """What an error of SQLite means for users of the journal."""
    reason = f"{path.name}: {type(error).__name__}: {error}"
    if isinstance(error, apsw.FullError | apsw.IOError | apsw.CantOpenError) and is_disk_full(path):
        return disk_full(path.name)
    if isinstance(error, apsw.FullError):
        return cap_reached(path.name) if is_capped else disk_full(path.name)
    if isinstance(error, apsw.IOError | apsw.CantOpenError):
        return io_error(error, path)
    if isinstance(error, _PASSING):
        return BackhaulError(
            "journal.unavailable",
            f"cannot read or write {reason}",
            hint="look at the disk and its file system; nothing acknowledged is lost",
            retry_after_s=1.0,
        )
    return BackhaulError(
        "journal.broken",
        f"cannot use {reason}",
        hint="keep a copy of the file; check it with sqlite3's PRAGMA integrity_check",
        kind=ErrorKind.INTERNAL,
    )


def cap_reached(reason: str) -> BackhaulError:
    """The journal may not grow: its own limit, not the disk's."""
    return BackhaulError(
        "journal.full",
        f"the byte cap leaves no room: {reason}",
        hint="events leave when they are acknowledged and old enough; mend the link, or raise journal_max_bytes",
        kind=ErrorKind.FULL,
    )


def disk_full(reason: str) -> BackhaulError:
    """The journal cannot grow: the file system's limit, not its own."""
    return BackhaulError(
        "journal.disk_full",
        f"the disk has no room: {reason}",
        hint="free disk space, or raise the quota: the journal goes on by itself; what is stored is still read and sent",
        kind=ErrorKind.FULL,
    )


def disk_full_at(error: OSError, path: Path) -> BackhaulError | None:
    """``journal.disk_full`` if this is what the system's error says."""
    return disk_full(f"{path.name}: {error.strerror}") if error.errno in _NO_ROOM else None


def io_error(error: Exception | str, path: Path) -> BackhaulError:
    """The medium failed: what is stored may be good, and is looked at again."""
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return BackhaulError(
        "journal.io_error",
        f"cannot read or write {path.name}: {reason}",
        hint="look at the disk and the kernel's log; the file is opened anew at each use, and nothing acknowledged is lost",
        retry_after_s=1.0,
    )
