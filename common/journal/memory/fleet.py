"""The fleet's state in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from common.journal.memory.connections import MemoryConnections
from common.journal.stores.fleet import HOURS_KEPT_US, NODE_KEPT_US, NOTES_MAX, FleetNote, FleetRow, OriginTally
from common.journal.stores.origins import StoredRange


class MemoryFleet:
    """``FleetStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def record(self, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]) -> None:
        """See ``FleetStore.record``."""
        async with self._connections.transaction() as draft:
            nodes = draft.fleet_nodes | {node: now_us}
            draft.fleet_nodes = {name: at_us for name, at_us in nodes.items() if at_us >= now_us - NODE_KEPT_US}
            for row in rows:
                known = draft.fleet_rows.get(row.origin_id)
                if known is None or row.session >= known.session:
                    draft.fleet_rows[row.origin_id] = row
            for origin_id in {note.origin_id for note in notes}:
                found = {(note.at_us, note.kind): note for note in draft.fleet_notes.get(origin_id, ())}
                found |= {(note.at_us, note.kind): note for note in notes if note.origin_id == origin_id}
                kept = [note for _, note in sorted(found.items())]
                kept = [note for note in kept if note.kind != "hour" or note.at_us >= now_us - HOURS_KEPT_US]
                if len(kept) > NOTES_MAX:
                    kept = [note for note in kept if note.at_us > kept[-NOTES_MAX - 1].at_us]
                draft.fleet_notes[origin_id] = tuple(kept)

    async def rows(self, origin_ids: Collection[str] | None = None) -> list[FleetRow]:
        """See ``FleetStore.rows``."""
        await trio.lowlevel.checkpoint()
        known = self._connections.database.state.fleet_rows
        return [row for name, row in sorted(known.items()) if origin_ids is None or name in origin_ids]

    async def notes(self, origin_id: str) -> list[FleetNote]:
        """See ``FleetStore.notes``."""
        await trio.lowlevel.checkpoint()
        return list(self._connections.database.state.fleet_notes.get(origin_id, ()))

    async def tallies(self, origin_id: str | None = None) -> list[OriginTally]:
        """See ``FleetStore.tallies``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        found = []
        for name in sorted(state.origins):
            if origin_id in (None, name):
                stated: dict[str, int] = {}
                for _, kept in state.ranges:
                    if kept.origin_id == name:
                        one = kept.stated
                        stated[one.reason] = stated.get(one.reason, 0) + one.to_seq_nr - one.from_seq_nr + 1
                stored = sum(head.seq_nr for head in state.heads.values() if head.owner == name)
                parked = sum(entry.origin_id == name for entry in state.parked)
                found.append(OriginTally(name, stored, parked, stated))
        return found

    async def stated(self, origin_id: str, most: int) -> list[StoredRange]:
        """See ``FleetStore.stated``."""
        await trio.lowlevel.checkpoint()
        kept = [kept for _, kept in self._connections.database.state.ranges if kept.origin_id == origin_id]
        return kept[::-1][:most]

    async def nodes(self) -> dict[str, int]:
        """See ``FleetStore.nodes``."""
        await trio.lowlevel.checkpoint()
        return dict(self._connections.database.state.fleet_nodes)
