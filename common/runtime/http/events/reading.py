"""`GET /v1/events`: a page of the log, of one entity, or of what fits conditions.

Conditions are looked up in the journal's indexes, and a time by halving the log, which is in the order of
`timestamp_us`. One request makes a bounded number of bounded reads: a page may hold fewer events than there are, and
`through` says where to go on.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from common.core.events.batch import EventBatch
from common.core.events.ids import check_name
from common.core.events.stated_range import StatedRange
from common.core.filters.event_query import EventQuery
from common.core.filters.topics import topic_problem
from common.core.journal.admission import EntityHead
from common.firehose.deletions import ranges_gone
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage, LogStore
from common.runtime.http.event_json import event_as_json, stated_as_json
from common.runtime.http.fields import check_query, entity, invalid, query_number, query_time_us

ROWS_MAX: Final = 1_000
_ROWS_DEFAULT: Final = 100
_ANSWER_BYTES_MAX: Final = 1024 * 1024
# The journal does not bound these reads in bytes, and an event may have a MiB or more.
_ROWS_A_READ: Final = 20
# How long an answer may wait for news: shorter than what a stopping service gives its requests to end.
_WAIT_MAX_S: Final = 2
# Reads with conditions of one request, and how many positions are looked through at once from the end back.
_READS_MAX: Final = 200
_STRETCH_MIN, _STRETCH_MAX = 64, 65_536
_BEYOND: Final = 2**62

_CONDITIONS: Final = frozenset({"type", "tag", "topic", "since", "until"})


async def read_events(journal: Journal, request: Request) -> dict[str, object]:
    """The answer's object. Raises BackhaulError: `http.invalid_request`, `entity.invalid_name`."""
    if "entity" in request.query_params and _CONDITIONS.isdisjoint(request.query_params):
        check_query(request, {"entity", "after_seq_nr", "last", "max", "wait_s", *_CONDITIONS})
        return await _events_of_entity(journal, request)
    check_query(request, {"after", "last", "max", "wait_s", "entity", *_CONDITIONS})
    return await _events_of_log(journal.log, request)


async def _events_of_log(log: LogStore, request: Request) -> dict[str, object]:
    """Events behind a position, `through`, the position to go on after, and `end`, where what is asked for ends.

    Of an entity 1 … n is `deleted` in the page where the last removed event stood; a page is cut where that is too much.
    """
    query = _query(request)
    wanted = query_number(request, "max", _ROWS_DEFAULT, minimum=1, maximum=ROWS_MAX)
    wait_s = query_number(request, "wait_s", 0, maximum=_WAIT_MAX_S)
    since_us, until_us = query_time_us(request, "since"), query_time_us(request, "until")
    head = (await log.read(_BEYOND, max_events=1, max_bytes=1)).head
    end = head if until_us is None else await _position_before(log, until_us, head)
    low = 0 if since_us is None else await _position_before(log, since_us, head)
    searched: dict[str, object] = {}
    if "last" in request.query_params:
        if "after" in request.query_params:
            raise invalid("last", "excludes after")
        after, searched_after = await _before_last(log, query, query_number(request, "last", 0), low, end)
        searched = {"searched_after": searched_after}
    else:
        after = max(low, query_number(request, "after", 0))
    page = await _page(log, query, after, None if until_us is None else end, wanted)
    if wait_s and until_us is None and not len(page.events):
        await log.head_signal.wait_above(max(after, page.head), wait_s)
        page = await _page(log, query, max(after, page.through), None, wanted)
    page, gone = await ranges_gone(log, after, page, max_entities=ROWS_MAX)
    return {
        "events": _shown(page.events),
        "deleted": [stated_as_json(stated) for stated in gone if query.may_name(stated.persistence_id)],
        # Never below what was asked: to go on from there would show events again.
        "through": max(after, page.through),
        "head": page.head,
        "end": page.head if until_us is None else end,
        **searched,
    }


async def _page(log: LogStore, query: EventQuery, after: int, bound: int | None, wanted: int) -> LogPage:
    """At most ``wanted`` events behind ``after`` up to ``bound``, how far was looked, and the head."""
    found, through, head = EventBatch(), after, 0
    for _ in range(_READS_MAX):
        page = await log.read(
            through,
            through=bound,
            max_events=wanted - len(found),
            max_bytes=max(1, _ANSWER_BYTES_MAX - found.byte_size()),
            selection=query.selection,
        )
        found.extend(query.of(page.events))
        through, head = max(through, page.through), page.head
        is_end = through >= (head if bound is None else min(bound, head))
        if is_end or query.is_all or len(found) >= wanted or found.byte_size() >= _ANSWER_BYTES_MAX:
            break
    return LogPage(found, through, head)


async def _position_before(log: LogStore, time_us: int, head: int) -> int:
    """The last position that was stored before a time; some 30 reads of one event in a log of any length."""
    low, high = 0, head
    while low < high:
        middle = (low + high) // 2
        following = (await log.read(middle, through=high, max_events=1, max_bytes=1)).events
        if len(following) and following.timestamp_us[0] < time_us:
            low = following.position[0]
        else:
            high = middle
    return low


async def _before_last(log: LogStore, query: EventQuery, count: int, low: int, end: int) -> tuple[int, int]:
    """The position behind which the last ``count`` events up to ``end`` stand, and the one down to which was looked."""
    if query.is_all or count == 0:
        after = max(low, end - count)
        return after, after
    found: list[int] = []
    high, width, reads = end, max(count, _STRETCH_MIN), 0
    while len(found) < count and high > low and reads < _READS_MAX:
        begin = at = max(low, high - min(width, _STRETCH_MAX))
        positions: list[int] = []
        while at < high:
            page = await log.read(
                at, through=high, max_events=ROWS_MAX, max_bytes=_ANSWER_BYTES_MAX, selection=query.selection
            )
            positions += query.of(page.events).position
            at = max(at + 1, page.through)
            reads += 1
        found = positions + found
        high, width = begin, width * 4
    return (found[-count] - 1 if len(found) >= count else high), high


def _query(request: Request) -> EventQuery:
    given = {name: request.query_params[name] for name in ("type", "tag", "topic") if name in request.query_params}
    for name, value in given.items():
        if not value:
            raise invalid(name, "is empty")
    entity_type, topic = given.get("type", ""), given.get("topic", "")
    if entity_type:
        check_name("type", entity_type)
    if topic and (problem := topic_problem(topic)):
        raise invalid("topic", problem)
    named = entity(request.query_params["entity"]) if "entity" in request.query_params else ""
    return EventQuery(named, entity_type, given.get("tag", ""), topic)


async def _events_of_entity(journal: Journal, request: Request) -> dict[str, object]:
    """Events of one entity behind a number, what retention removed of it, and `through_seq_nr`, where to go on after."""
    wanted = query_number(request, "max", _ROWS_DEFAULT, minimum=1, maximum=ROWS_MAX)
    wait_s = query_number(request, "wait_s", 0, maximum=_WAIT_MAX_S)
    persistence_id = entity(request.query_params.get("entity"))
    heard = journal.log.head_signal.position
    head = await _head_of(journal, persistence_id)
    after = _after(request, head.seq_nr)
    if wait_s and after >= head.seq_nr:
        await journal.log.head_signal.wait_above(heard, wait_s)
        head = await _head_of(journal, persistence_id)
    last = head.seq_nr
    found = EventBatch()
    through = after
    while through < last and len(found) < wanted and found.byte_size() < _ANSWER_BYTES_MAX:
        page_max = min(_ROWS_A_READ, wanted - len(found))
        page = await journal.log.read_entity(persistence_id, through + 1, last, max_events=page_max)
        found.extend(page)
        through = page.seq_nr[-1] if len(page) == page_max else last
    head = await _head_of(journal, persistence_id)  # read after the events: what is in neither was never there
    last_gone = min(head.deleted_to, found.seq_nr[0] - 1 if found else through)
    gone = StatedRange(persistence_id, 1, last_gone, head.deleted_reason)
    return {
        "events": _shown(found),
        "deleted": [stated_as_json(gone)] if gone.to_seq_nr > after else [],
        "through_seq_nr": through,
        "head_seq_nr": last,
    }


async def _head_of(journal: Journal, persistence_id: str) -> EntityHead:
    return await journal.log.entity_head(persistence_id) or EntityHead(persistence_id)


def _after(request: Request, head: int) -> int:
    """Where to begin: behind a number, or so that the `last` n before the head are shown."""
    if "last" not in request.query_params:
        return query_number(request, "after_seq_nr", 0)
    if "after_seq_nr" in request.query_params:
        raise invalid("last", "excludes after_seq_nr")
    return max(0, head - query_number(request, "last", 0))


def _shown(events: EventBatch) -> list[dict[str, object]]:
    return [event_as_json(event) for event in events.envelopes()]
