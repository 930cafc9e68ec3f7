"""Histories of single entities, read once for many consumers.

An entity that enters many subscriptions at once is asked for by each of them. The first one reads, several entities in one
go; those who come while it does wait for it, and those who come a little later are given the same. A history holds as long
as the entity has no newer event: the ring, which sees every event of the log in order, has it forgotten. So one that is kept
is whole up to where the ring is, and serves every consumer that is not further. What is deleted, or snapshots that are
stored, meanwhile make it no less true: it is as if it had been sent before. It is kept for seconds, and never across a
change of the log's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from common.core.events.batch import EVENT_OVERHEAD_BYTES
from common.journal.entity_history import EntityHistory, HistoryRequest, read_histories, read_history
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
    error: Exception | None = None
    """Why it could not be read: for all who wait."""
    weight: int = 0
    is_over: trio.Event = field(default_factory=trio.Event)


class EntityHistories:
    """See the module. ``through`` is where the ring is, ``log`` names the log's history as it is known now."""

    def __init__(
        self,
        journal: Journal,
        through: Callable[[], int],
        log: Callable[[], object],
        *,
        max_bytes: int,
        keep_s: float,
        ahead_max_bytes: int,
        short_max_events: int,
    ) -> None:
        self._journal = journal
        self._through = through
        self._log = log
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._ahead_max_bytes = ahead_max_bytes
        self._short_max_events = short_max_events
        self._kept: dict[HistoryRequest, _Kept] = {}  # in the order in which they were asked for first
        self._of: dict[str, set[HistoryRequest]] = {}
        self._bytes = 0
        self.reads = 0
        self.shared = 0

    async def read(self, asked: HistoryRequest, position: int) -> EntityHistory:
        """The history, whole up to ``position`` at least: a place up to which the asking consumer knows the log.

        Raises what the journal raises, also for a read that another consumer began.
        """
        while (kept := self._current(asked, position)) is not None:
            if (history := await self._over(kept)) is not None:
                self.shared += 1
                return history
        kept = self._begin(asked, position)
        with self._reading([kept]):
            kept.history = history = await read_history(self._journal, asked)
        return history

    async def read_ahead(self, asked: Sequence[HistoryRequest], position: int, *, soon: int) -> None:
        """If one of the first ``soon`` is not kept, have those that are short read in one go, so that ``read`` does not wait.

        What others are reading is waited for. A long one is left for ``read``. Raises as that.
        """
        current = [self._current(one, position) for one in asked]
        if None in current[:soon]:
            begun = [self._begin(one, position) for one, kept in zip(asked, current, strict=True) if kept is None]
            with self._reading(begun):
                found = await read_histories(
                    self._journal,
                    [kept.asked for kept in begun],
                    each_max=self._short_max_events,
                    max_bytes=self._ahead_max_bytes,
                )
                for kept in begun:
                    kept.history = found.get(kept.asked)
        for other in current[:soon]:
            if other is not None:
                await self._over(other)

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
            if kept.is_over.is_set():
                self._forget(kept)

    def _current(self, asked: HistoryRequest, position: int) -> _Kept | None:
        """What is kept, or being read, if it holds for a consumer that is at ``position``."""
        kept = self._kept.get(asked)
        if kept is None or kept.log != self._log():
            return None
        if kept.is_over.is_set() and kept.began_s <= trio.current_time() - self._keep_s:
            return None
        return kept if position <= kept.reaches or position <= self._through() else None

    async def _over(self, kept: _Kept) -> EntityHistory | None:
        """Wait until it is read. None: it was not, because its reader was cancelled or it is not short."""
        if not kept.is_over.is_set():
            await kept.is_over.wait()
        if kept.error is not None:
            raise kept.error
        return kept.history

    def _begin(self, asked: HistoryRequest, position: int) -> _Kept:
        before = self._kept.get(asked)
        if before is not None:
            self._forget(before)
        kept = _Kept(asked, self._log(), max(position, self._through()), trio.current_time())
        self._kept[asked] = kept
        self._of.setdefault(asked.persistence_id, set()).add(asked)
        return kept

    @contextmanager
    def _reading(self, begun: Sequence[_Kept]) -> Iterator[None]:
        """Whatever the block ends with, those who wait get it; one that was not read is forgotten, or is read again."""
        try:
            yield
        except Exception as error:
            for kept in begun:
                kept.error = error
            raise
        finally:
            for kept in begun:
                if kept.history is not None and kept.error is None:
                    self.reads += 1
                    self._weigh(kept, kept.history)
                else:
                    self._forget(kept)
                kept.is_over.set()

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
