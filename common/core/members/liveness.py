"""When a member counts as dead before its lease has lapsed: its process has ended, which frees its lock at once.

A free lock alone proves little: a cut session frees the lock of a live node until its next renewal, and a promoted standby
knows of no locks at all. So two looks in a row must find it free, with no renewal between them, and the last one a second ago.
A held lock proves nothing: a stopped process keeps it, and its lease lapses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common.core.members.member import Member

SILENT_S: Final = 1.0


class DeathWatch:
    """What the last look found, for the next one to compare with."""

    def __init__(self) -> None:
        self._found_free: dict[str, int] = {}

    def dead(self, members: Iterable[Member]) -> list[Member]:
        """Those of a new look whose leases are still running, and need not be waited for."""
        free = {one.instance: one for one in members if one.is_live and not one.has_lock}
        before, self._found_free = self._found_free, {name: one.renewals for name, one in free.items()}
        return [one for name, one in free.items() if before.get(name) == one.renewals and one.silent_s >= SILENT_S]
