"""Histories of single entities, read once for many consumers.

An entity that enters many subscriptions at once is asked for by each of them. The first one reads; those who come while it
does wait for it, and those who come a little later are given the same. A history holds as long as the entity has no newer
event: the ring, which sees every event of the log in order, has it forgotten. So one that is kept is whole up to where the ring
is, and serves every consumer that is not further. What is deleted, or snapshots that are stored, meanwhile make it no less
true: it is as if it had been sent before. It is kept for seconds, and never across a change of the log's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio

from common.core.events.batch import EVENT_OVERHEAD_BYTES
from common.journal.entity_history import EntityHistory, HistoryRequest, read_history
from common.journal.stores.journal import Journal

# Columns of a few events weigh several times their payloads, and their bytes are kept beside them.
_WEIGHT_FACTOR = 3
_WEIGHT_LEAST = 2_048


@dataclass(slots=True, eq=False)
class _Kept:
    """A history that is being read (None) or was; whole up to the position ``reaches`` when its reading began."""

    asked: HistoryRequest
    log: object
    reaches: int
    began_s: float
    history: EntityHistory | None = None
    weight: int = 0
    is_read: trio.Event = field(default_factory=trio.Event)


class EntityHistories:
    """See the module. ``through`` is where the ring is, ``log`` names the log's history as it is known now."""

    def __init__(
        self, journal: Journal, through: Callable[[], int], log: Callable[[], object], *, max_bytes: int, keep_s: float
    ) -> None:
        self._journal = journal
        self._through = through
        self._log = log
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._kept: dict[HistoryRequest, _Kept] = {}  # in the order in which they were asked for first
        self._of: dict[str, set[HistoryRequest]] = {}
        self._bytes = 0
        self.reads = 0
        self.shared = 0

    async def read(self, asked: HistoryRequest, position: int) -> EntityHistory:
        """The history, whole up to ``position`` at least: a place up to which the asking consumer knows the log."""
        while (kept := self._kept.get(asked)) is not None and self._holds(kept, position):
            if kept.history is None:
                await kept.is_read.wait()
            if kept.history is not None:
                self.shared += 1
                return kept.history
        kept = self._begin(asked, position)
        try:
            kept.history = history = await read_history(self._journal, asked)
        finally:
            if kept.history is None:
                self._forget(kept)
            kept.is_read.set()
        self._weigh(kept, history)
        return history

    def extended(self, persistence_ids: Iterable[str]) -> None:
        """The ring has these entities' newest events."""
        if self._of:
            for name in self._of.keys() & persistence_ids:
                self._forget_of(name)

    def forget_all(self) -> None:
        """The ring has left out a stretch of the log, or the log is another one."""
        self._kept.clear()
        self._of.clear()
        self._bytes = 0

    def forget_old(self, now_s: float) -> None:
        """What is kept is used soon or not at all. To be called now and then."""
        for kept in list(self._kept.values()):
            if kept.began_s > now_s - self._keep_s:
                break
            self._forget(kept)

    def _holds(self, kept: _Kept, position: int) -> bool:
        if kept.began_s <= trio.current_time() - self._keep_s or kept.log != self._log():
            return False
        return position <= max(kept.reaches, self._through())

    def _begin(self, asked: HistoryRequest, position: int) -> _Kept:
        before = self._kept.get(asked)
        if before is not None:
            self._forget(before)
        kept = _Kept(asked, self._log(), max(position, self._through()), trio.current_time())
        self._kept[asked] = kept
        self._of.setdefault(asked.persistence_id, set()).add(asked)
        self.reads += 1
        return kept

    def _weigh(self, kept: _Kept, history: EntityHistory) -> None:
        if self._kept.get(kept.asked) is not kept:
            return  # forgotten meanwhile
        snapshot_bytes = len(history.snapshot.payload) + EVENT_OVERHEAD_BYTES if history.snapshot else 0
        kept.weight = _WEIGHT_FACTOR * history.events.byte_size() + snapshot_bytes + _WEIGHT_LEAST
        self._bytes += kept.weight
        if kept.weight > self._max_bytes // 4:
            self._forget(kept)
        while self._bytes > self._max_bytes:
            self._forget(next(one for one in self._kept.values() if one.weight))

    def _forget_of(self, persistence_id: str) -> None:
        for asked in list(self._of.get(persistence_id, ())):
            self._forget(self._kept[asked])

    def _forget(self, kept: _Kept) -> None:
        asked = kept.asked
        if self._kept.get(asked) is not kept:
            return
        del self._kept[asked]
        self._bytes -= kept.weight
        others = self._of[asked.persistence_id]
        others.discard(asked)
        if not others:
            del self._of[asked.persistence_id]
