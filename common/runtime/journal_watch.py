"""Does the journal serve? Asked now and then, so that readiness is about the present and not the last request's luck.

Reading is tried at every look. Writing is shown by the appends themselves; while the last one was refused, or none has
been stored for a while, it is tried as well (``LogStore.probe``): a service that is asked nothing learns of a full disk or a
database that only reads, and one that is left alone because it is not ready learns when that is over.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import structlog
import trio

from common.core.errors import BackhaulError, ConfigurationError
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal

_log = structlog.get_logger()

_INTERVAL_S = 2.0
# A probe is a synced commit: an idle gateway's flash takes two a minute.
_IDLE_PROBE_S = 30.0
# A look that takes longer says as much as one that fails.
_SLOW_S = 5.0
# A medium that stays dead is opened anew at every look; another process may find what this one does not.
_DEAD_S = 60.0


class JournalWatch:
    """What keeps the journal from serving, for readiness: ``unreadable`` and ``unwritable`` are reasons or None."""

    def __init__(self, journal: Journal, commit: GroupCommit) -> None:
        self._journal = journal
        self._commit = commit
        self.outdated = trio.Event()
        """Set when a later version has changed the tables: this process is to drain and end."""
        self._outdated: BackhaulError | None = None
        self._looking_since_s: float | None = None
        self._unreadable: BackhaulError | None = None
        self._unwritable: BackhaulError | None = None
        self._commits = 0
        self._written_s = -math.inf  # nothing has shown yet that it can be written

    def unreadable(self) -> str | None:
        """Why the journal cannot be read."""
        if self._unreadable is not None:
            return _reason(self._unreadable)
        slow_s = trio.current_time() - self._looking_since_s if self._looking_since_s is not None else 0.0
        return f"the journal has not answered for {slow_s:.0f} s" if slow_s > _SLOW_S else None

    def unwritable(self) -> str | None:
        """Why nothing can be appended."""
        return _reason(self._unwritable) if self._unwritable is not None else None

    async def stop_when_outdated(self, stop: trio.Event) -> None:
        """Ask the service to drain, should this version of it be outdated."""
        await self.outdated.wait()
        stop.set()

    def check_not_outdated(self) -> None:
        """Raise ConfigurationError ``journal.schema_newer`` after such a drain: only another version can go on."""
        error = self._outdated
        if error is not None:
            raise ConfigurationError(error.code, error.message, error.hint, details=error.details)

    async def run(self) -> None:
        """Look every two seconds, until cancelled; what changes is logged.

        Raises:
            BackhaulError: ``journal.io_error``, when a file's medium has failed for a minute: the process is to be
                started again by what supervises it.
        """
        dead_since_s: float | None = None
        while True:
            self._looking_since_s = trio.current_time()
            await self._look()
            self._looking_since_s = None
            error = self._unreadable
            if error is None or error.code != "journal.io_error":
                dead_since_s = None
            elif dead_since_s is None:
                dead_since_s = trio.current_time()
            elif trio.current_time() - dead_since_s >= _DEAD_S:
                raise error
            await trio.sleep(_INTERVAL_S)

    async def _look(self) -> None:
        before, self._unreadable = self._unreadable, await _failure(self._journal.log.stats)
        if self._unreadable is not None and self._unreadable.code == "journal.schema_newer":
            if self._outdated is None:
                self._outdated = error = self._unreadable
                _log.error("service.outdated", code=error.code, reason=error.message, hint=error.hint)
                self.outdated.set()
            return
        if self._unreadable is not None:
            error = self._unreadable
            _log.warning(
                "journal.unreadable", code=error.code, reason=error.message, hint=error.hint, repeat_key=error.code
            )
            return
        if before is not None:
            _log.info("journal.readable")
        if self._commits != self._commit.commits:
            self._commits, self._written_s = self._commit.commits, trio.current_time()
        refused_bytes = self._commit.refused_bytes
        is_idle = trio.current_time() - self._written_s >= _IDLE_PROBE_S
        if refused_bytes is None and self._unwritable is None and not is_idle:
            return
        before, self._unwritable = self._unwritable, await _failure(lambda: self._journal.log.probe(refused_bytes or 0))
        if self._unwritable is not None:
            error = self._unwritable
            _log.warning(
                "journal.unwritable", code=error.code, reason=error.message, hint=error.hint, repeat_key=error.code
            )
            return
        self._written_s = trio.current_time()
        if self._commit.refused_bytes == refused_bytes:
            self._commit.refused_bytes = None
        if before is not None:
            _log.info("journal.writable")


async def _failure(ask: Callable[[], Awaitable[object]]) -> BackhaulError | None:
    try:
        await ask()
    except BackhaulError as error:
        return error
    return None


def _reason(error: BackhaulError) -> str:
    return f"{error.message} [{error.code}]"
