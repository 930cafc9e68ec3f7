"""Where one event is, for the operator who asks: stored, deleted, stated as never to come, parked, or not known.

Without an origin the number asked for is this journal's own; with one, it is the number at that origin. The two are the same
unless numbers were withheld or the origin's history forked. The answer shows both where the event is stored. Parked
events and stated ranges have no number here yet: they are found by the origin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from common.core.events.batch import Envelope
from common.core.events.stated_range import REPLACED, StatedRange
from common.core.journal.admission import EntityHead
from common.journal.stores.journal import Journal
from common.journal.stores.parked import ParkedRow
from common.runtime.http.event_json import event_place_as_json

# Parked rows come with their payloads: few at a time.
_PARKED_PAGE: Final = 50
# Origins whose prefix is tried.
_HINTED_MAX: Final = 100
_STATES: Final[Mapping[str, str]] = {
    "withheld": "withheld",
    "dropped": "dropped",
    "trimmed": "deleted",
    REPLACED: "replaced",
}
"""By the reason of a stated range; any other is ``never``."""


async def find_event(journal: Journal, persistence_id: str, seq_nr: int, origin_id: str = "") -> dict[str, object]:
    """The answer of `GET /v1/where`.

    `state` is stored, deleted, withheld, dropped, replaced (a snapshot stands for it), never, parked, missing or unknown.
    `position`, `stored_us`, `origin_seq_nr` … are there when it is stored; `range` says what was stated; `parked` has the row.
    `missing` is a number below the head that is neither stored nor stated: a fault. What the source of a subscription had
    deleted before it came is deleted too, with the subscription's name. With ``origin_id``, `seq_nr` is the number there, and
    `asked` repeats what was asked.
    """
    head = await journal.log.entity_head(persistence_id)
    asked = {"asked": {"origin_id": origin_id, "seq_nr": seq_nr}} if origin_id else {}
    found = await (
        _at_origin(journal, persistence_id, head, seq_nr, origin_id)
        if origin_id
        else _here(journal, persistence_id, head, seq_nr)
    )
    hint = {} if head or found["state"] != "unknown" else await _hint(journal, persistence_id, origin_id)
    if found["state"] == "unknown" and not origin_id:
        found = await _deleted_at_source(journal, persistence_id, seq_nr) or found
    number = {} if origin_id else {"seq_nr": seq_nr}
    return {"entity": persistence_id, **number, **asked, **found, "head": asdict(head) if head else None, **hint}


async def _here(journal: Journal, persistence_id: str, head: EntityHead | None, seq_nr: int) -> dict[str, object]:
    """By this journal's own number; one that it has not given yet can only be an origin's."""
    if head is not None:
        stored = await journal.log.read_entity(persistence_id, seq_nr, seq_nr, max_events=1)
        if len(stored):
            return _stored(head, stored.envelope(0))
        if seq_nr <= head.deleted_to:
            return _deleted(head)
    expected = await _expected(journal, persistence_id, head, seq_nr, head.owner if head else "")
    if expected is None and head is not None and seq_nr <= head.seq_nr:
        return {"state": "missing"}
    return expected or {"state": "unknown"}


async def _deleted_at_source(journal: Journal, persistence_id: str, seq_nr: int) -> dict[str, object] | None:
    """Of an entity that is followed, not stored here: the number is the source's."""
    for name, stated in await journal.subscriptions.deleted_of(persistence_id):
        if stated.from_seq_nr <= seq_nr <= stated.to_seq_nr:
            return {"state": "deleted", "subscription": name, "range": _range_as_json(stated)}
    return None


def _range_as_json(stated: StatedRange) -> dict[str, object]:
    return {"from_seq_nr": stated.from_seq_nr, "to_seq_nr": stated.to_seq_nr, "reason": stated.reason}


async def _at_origin(
    journal: Journal, persistence_id: str, head: EntityHead | None, seq_nr: int, origin_id: str
) -> dict[str, object]:
    """By the number that the event has at its origin."""
    owned = head if head is not None and head.owner == origin_id else None
    event = await _by_origin_number(journal, owned, seq_nr) if owned else None
    if owned is not None and event is not None and event.origin_seq_nr == seq_nr:
        return _stored(owned, event)
    expected = await _expected(journal, persistence_id, owned, seq_nr, origin_id)
    if expected is not None or owned is None:
        return expected or {"state": "unknown"}
    # What retention deleted here has lost its number at the origin: it lay below the first that is kept.
    if owned.deleted_to and seq_nr <= owned.origin_seq_nr and (event is None or event.seq_nr == owned.deleted_to + 1):
        return _deleted(owned)
    return {"state": "missing" if seq_nr <= owned.origin_seq_nr else "unknown"}


async def _by_origin_number(journal: Journal, head: EntityHead, origin_seq_nr: int) -> Envelope | None:
    """The first stored event whose number at the origin is not below this one. They rise together, but at forks."""
    low, high, found = head.deleted_to + 1, head.seq_nr, None
    while low <= high:
        middle = (low + high) // 2
        page = await journal.log.read_entity(head.persistence_id, middle, high, max_events=1)
        if not len(page) or page.origin_seq_nr[0] >= origin_seq_nr:
            found = page.envelope(0) if len(page) else found
            high = middle - 1
        else:
            low = page.seq_nr[0] + 1
    return found


def _stored(head: EntityHead, event: Envelope) -> dict[str, object]:
    return {"state": "stored", "origin_id": head.owner, **event_place_as_json(event)}


def _deleted(head: EntityHead) -> dict[str, object]:
    return {
        "state": "deleted",
        "range": _range_as_json(StatedRange(head.persistence_id, 1, head.deleted_to, head.deleted_reason)),
    }


async def _expected(
    journal: Journal, persistence_id: str, head: EntityHead | None, seq_nr: int, origin_id: str
) -> dict[str, object] | None:
    """What is known of a number at an origin that has no event here: stated, or parked."""
    for kept in await journal.origins.stored_ranges(persistence_id):
        is_asked = not origin_id or kept.origin_id == origin_id
        if is_asked and kept.stated.from_seq_nr <= seq_nr <= kept.stated.to_seq_nr:
            return {
                "state": _STATES.get(kept.stated.reason, "never"),
                "origin_id": kept.origin_id,
                "range": {**kept.stated._asdict(), "received_us": kept.received_us},
            }
    parked = await _parked(journal, head, seq_nr)
    if parked is None:
        return None
    return {
        "state": "parked",
        "origin_id": parked.origin_id,
        "parked": {"id": parked.id, "code": parked.code, "parked_us": parked.parked_us},
    }


async def _parked(journal: Journal, head: EntityHead | None, seq_nr: int) -> ParkedRow | None:
    """The owner's parked event with this number; other origins' are not the entity's events."""
    after = 0
    while head is not None and head.parked:
        rows = await journal.parked.rows(origin_id=head.owner, after_id=after, max_rows=_PARKED_PAGE)
        for row in rows:
            if (row.event.persistence_id, row.event.seq_nr) == (head.persistence_id, seq_nr):
                return row
        if len(rows) < _PARKED_PAGE:
            break
        after = rows[-1].id
    return None


async def _hint(journal: Journal, persistence_id: str, origin_id: str) -> dict[str, object]:
    """The entity with an edge's prefix (``{edge_id}/``), if that is one: what an edge's programs call it is without."""
    entity_type, _, entity_id = persistence_id.partition("|")
    origins = [origin_id] if origin_id else [row.origin_id for row in await journal.origins.rows()]
    for one in origins[:_HINTED_MAX]:
        prefixed = f"{entity_type}|{one}/{entity_id}"
        if await journal.log.entity_head(prefixed):
            return {"hint": f"there is {prefixed}: an edge puts its prefix before the ids of its entities"}
    return {}
