"""An entity's state from the journal: the latest snapshot, and the events after it, page by page.

Also what a decided command needs of the past: the state at a number, and whether an append in doubt was stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch, split_metadata
from common.entity import mends
from common.entity.decisions import replay
from common.entity.definition import Definition
from common.entity.live import MARK_KEY, LiveEntity
from common.journal.stores.journal import Journal
from common.watchdog import Watchdog

_log = structlog.get_logger()

_FIRST_PAGE: Final = 50
_PAGE_MAX: Final = 2_000
_PAGE_BYTES: Final = 2 * 1024 * 1024
_LAST: Final = 2**62
_TOGETHER: Final = 32
_EACH_MAX: Final = 40


async def bring_up(journal: Journal, entity: LiveEntity, watchdog: Watchdog) -> None:
    """Bring a live entity's state to the end of its events. On an error the entity is as it was, or further on.

    Raises:
        BackhaulError: ``entity.history_missing``, what ``replay`` and the journal raise.
    """
    if entity.is_new:
        if entity.definition.has_snapshots:
            found = await _from_snapshot(journal, entity.definition, entity.persistence_id, _LAST)
            if found is not None:
                entity.state, entity.seq_nr = found
                entity.snapshot_seq_nr = entity.seq_nr
        entity.is_new = False
    entity.state, entity.seq_nr = await _follow(
        journal, entity.definition, entity.persistence_id, entity.state, entity.seq_nr, _LAST, watchdog
    )
    if entity.seq_nr < entity.seen_seq_nr:
        raise _missing(entity.persistence_id, entity.seq_nr + 1)
    entity.is_stale = False


def take_together(waiting: deque[LiveEntity]) -> list[LiveEntity]:
    """The first that waits and, when it is new and small as far as is known, those behind it that are as well."""
    taken = [waiting.popleft()]
    while waiting and len(taken) < _TOGETHER and _is_small(taken[-1]) and _is_small(waiting[0]):
        taken.append(waiting.popleft())
    return taken


def _is_small(entity: LiveEntity) -> bool:
    return entity.is_new and not entity.is_alone and entity.batch is None and not entity.definition.has_snapshots


async def bring_up_together(journal: Journal, entities: Sequence[LiveEntity], watchdog: Watchdog) -> None:
    """Bring up what few events make, in one read; whatever stays stale is to be brought up alone.

    Nothing is raised: who has a fault, in the journal or in its own events, finds it again alone.
    """
    for entity in entities:
        entity.is_alone = True
    try:
        events = await journal.log.read_entities(
            {one.persistence_id: one.seq_nr for one in entities}, each_max=_EACH_MAX
        )
    except BackhaulError:
        return
    places: dict[str, list[int]] = {}
    for index, name in enumerate(events.persistence_id):
        places.setdefault(name, []).append(index)
    for entity in entities:
        page = events.select(places.get(entity.persistence_id, ()))
        if len(page) >= _EACH_MAX or (page and page.seq_nr[0] != entity.seq_nr + 1):
            continue
        try:
            with watchdog.over(entity.definition.evolve_place):
                entity.state = replay(entity.definition, entity.state, page)
        except BackhaulError:
            continue
        entity.seq_nr += len(page)
        entity.is_new = entity.is_stale = False


async def state_at(
    journal: Journal, definition: Definition, persistence_id: str, seq_nr: int, watchdog: Watchdog
) -> Any:  # noqa: ANN401  the application's state
    """The state after event ``seq_nr``; raises as ``bring_up``."""
    state, at = definition.entity.empty, 0
    if definition.has_snapshots:
        state, at = await _from_snapshot(journal, definition, persistence_id, seq_nr) or (state, at)
    state, at = await _follow(journal, definition, persistence_id, state, at, seq_nr, watchdog)
    if at != seq_nr:
        raise _missing(persistence_id, at + 1)
    return state


async def _from_snapshot(
    journal: Journal, definition: Definition, persistence_id: str, seq_nr_max: int
) -> tuple[Any, int] | None:
    snapshot = await journal.snapshots.get(persistence_id)
    if snapshot is None or snapshot.seq_nr > seq_nr_max:
        return None
    try:
        state = definition.registry.decode(snapshot.event_type, snapshot.codec, snapshot.payload, snapshot.metadata)
        if type(state) is definition.entity.state_type:
            return state, snapshot.seq_nr
        reason = f"a stored {snapshot.event_type!r} is not its state"
    except BackhaulError as error:
        reason = error.message
    # Its events may still be there; if not, the gap that they leave is reported.
    _log.warning("entity.snapshot_unreadable", entity=persistence_id, seq_nr=snapshot.seq_nr, reason=reason)
    return None


async def _follow(
    journal: Journal,
    definition: Definition,
    persistence_id: str,
    state: Any,  # noqa: ANN401
    seq_nr: int,
    through: int,
    watchdog: Watchdog,
) -> tuple[Any, int]:
    page_max = _FIRST_PAGE
    while seq_nr < through:
        page = await journal.log.read_entity(persistence_id, seq_nr + 1, through, max_events=page_max)
        if not len(page):
            break
        if page.seq_nr[0] != seq_nr + 1:
            raise _missing(persistence_id, seq_nr + 1)
        state = await _replayed(journal, definition, state, page, watchdog)
        seq_nr = page.seq_nr[-1]
        if len(page) < page_max:
            break
        page_max = max(1, min(_PAGE_MAX, _PAGE_BYTES * len(page) // page.byte_size()))
        await trio.lowlevel.checkpoint()
    return state, seq_nr


async def _replayed(
    journal: Journal,
    definition: Definition,
    state: Any,  # noqa: ANN401
    events: EventBatch,
    watchdog: Watchdog,
) -> Any:  # noqa: ANN401
    """The state after a page; an event that fails is taken as an operator decided, if one did."""
    while True:
        try:
            with watchdog.over(definition.evolve_place):
                return replay(definition, state, events)
        except BackhaulError as error:
            mended = await mends.mended(journal, events, error.details.get("seq_nr"))
            if mended is None:
                raise
            events = mended


async def was_stored(journal: Journal, persistence_id: str, seq_nr: int, mark: str) -> bool:
    """Whether the event after ``seq_nr`` has this mark, so that an append that went unanswered was stored."""
    page = await journal.log.read_entity(persistence_id, seq_nr + 1, seq_nr + 1, max_events=1)
    return len(page) == 1 and split_metadata(page.metadata[0]).get(MARK_KEY) == mark


def _missing(persistence_id: str, seq_nr: int) -> BackhaulError:
    return BackhaulError(
        "entity.history_missing",
        f"{persistence_id} has no event {seq_nr} any more, and no snapshot that covers it",
        "let retention delete only what snapshots cover: its state cannot be made again",
        kind=ErrorKind.INTERNAL,
        details={"seq_nr": seq_nr},
    )
