"""Stores entities' snapshots beside their work: the latest wanted one of each, a few at a time.

A snapshot is a shortcut and never the truth, so a full queue leaves it out and the next good moment takes it.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.journal.snapshot import NewSnapshot
from common.entity.definition import Definition
from common.entity.live import LiveEntity
from common.journal.stores.journal import Journal

_log = structlog.get_logger()

_AT_A_TIME: Final = 100


class SnapshotWriter:
    """``add`` is called after a commit; ``run`` is started by the owner."""

    def __init__(self, journal: Journal, waiting_max: int, retry_s: float, kept: int) -> None:
        self._journal = journal
        self._kept = kept
        self._waiting_max = waiting_max
        self._retry_s = retry_s
        self._waiting: dict[str, tuple[Definition, Any, int]] = {}
        self._work = trio.lowlevel.ParkingLot()

    def add(self, entity: LiveEntity) -> None:
        """The entity's present state is worth a snapshot."""
        if len(self._waiting) >= self._waiting_max and entity.persistence_id not in self._waiting:
            return
        self._waiting[entity.persistence_id] = (entity.definition, entity.state, entity.seq_nr)
        entity.snapshot_seq_nr = entity.seq_nr
        self._work.unpark()

    async def run(self) -> NoReturn:
        """Store what was added until cancelled."""
        while True:
            while not self._waiting:
                await self._work.park()
            names = list(self._waiting)[:_AT_A_TIME]
            encoded = [self._encoded(name, *self._waiting.pop(name)) for name in names]
            snapshots = [snapshot for snapshot in encoded if snapshot is not None]
            try:
                await self._journal.snapshots.put(snapshots, keep=self._kept)
            except BackhaulError as error:
                _log.warning("entity.snapshots_failed", count=len(snapshots), code=error.code, reason=error.message)
                await trio.sleep(self._retry_s)

    def _encoded(self, name: str, definition: Definition, state: Any, seq_nr: int) -> NewSnapshot | None:  # noqa: ANN401
        try:
            (event_type, codec, payload, metadata), _ = definition.registry.encode_checked(state)
        except BackhaulError as error:
            _log.error(
                "entity.snapshot_unfit",
                entity=name,
                code=error.code,
                reason=error.message,
                repeat_key=definition.entity_type,
            )
            return None
        says_last_event = definition.entity.snapshot_says_last_event
        return NewSnapshot(name, seq_nr, event_type, codec, payload, metadata=metadata, says_last_event=says_last_event)
