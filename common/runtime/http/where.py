"""Where one event is, for the operator who asks: stored, deleted, stated as never to come, parked, or not known.

The number asked for is this journal's own. A pushed entity's number at its origin is the same unless numbers were
withheld or the origin's history forked; the answer then shows both, and the entity's head, so that it can be seen.
Parked events and stated ranges have no number here yet: they are found by the origin's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from common.core.journal.admission import EntityHead
from common.journal.stores.journal import Journal
from common.journal.stores.parked import ParkedRow
from common.runtime.http.event_json import event_place_as_json

# Parked rows come with their payloads: few at a time.
_PARKED_PAGE: Final = 50


async def find_event(journal: Journal, persistence_id: str, seq_nr: int) -> dict[str, object]:
    """The answer of `GET /v1/where`; `state` is stored, deleted, never, parked, missing or unknown.

    `position`, `stored_us`, `origin_seq_nr` … are there when it is stored; `range` says what was stated (deleted and
    never); `parked` has the row. `missing` is a number below the head that is neither stored nor stated: a fault.
    """
    head = await journal.log.entity_head(persistence_id)
    if head is None:
        return {"entity": persistence_id, "seq_nr": seq_nr, "state": "unknown", "head": None}
    return {
        "entity": persistence_id,
        "seq_nr": seq_nr,
        **await _found(journal, head, seq_nr),
        "head": asdict(head),
    }


async def _found(journal: Journal, head: EntityHead, seq_nr: int) -> dict[str, object]:
    stored = await journal.log.read_entity(head.persistence_id, seq_nr, seq_nr, max_events=1)
    if len(stored):
        return {"state": "stored", "origin_id": head.owner, **event_place_as_json(stored.envelope(0))}
    if seq_nr <= head.deleted_to:
        return {
            "state": "deleted",
            "range": {"from_seq_nr": 1, "to_seq_nr": head.deleted_to, "reason": head.deleted_reason},
        }
    for kept in await journal.origins.stored_ranges(head.persistence_id):
        if kept.stated.from_seq_nr <= seq_nr <= kept.stated.to_seq_nr:
            return {"state": "never", "range": {**asdict(kept.stated), "received_us": kept.received_us}}
    parked = await _parked(journal, head, seq_nr)
    if parked is not None:
        return {
            "state": "parked",
            "parked": {"id": parked.id, "code": parked.code, "parked_us": parked.parked_us},
        }
    return {"state": "missing" if seq_nr <= head.seq_nr else "unknown"}


async def _parked(journal: Journal, head: EntityHead, seq_nr: int) -> ParkedRow | None:
    """The owner's parked event with this number; other origins' are not the entity's events."""
    after = 0
    while head.parked:
        rows = await journal.parked.rows(origin_id=head.owner, after_id=after, max_rows=_PARKED_PAGE)
        for row in rows:
            if (row.event.persistence_id, row.event.seq_nr) == (head.persistence_id, seq_nr):
                return row
        if len(rows) < _PARKED_PAGE:
            break
        after = rows[-1].id
    return None
