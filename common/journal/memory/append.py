"""What appends change in a draft of the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import admit_local, admit_pushed, admit_repeat, link_tags
from common.core.journal.append import (
    Appended,
    AppendRefused,
    Fenced,
    LocalAppend,
    OriginBlocked,
    OutOfStep,
    Pushed,
    PushedAppend,
    PushLane,
)
from common.core.journal.tag_sets import TAG_SETS_MAX, begun_tag_sets
from common.core.push.filter_transition import UNFILTERED
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.state import AppendIdEntry, DraftHeads, MemoryState, ParkedEntry
from common.journal.stores.origins import StoredRange


def append_local(connections: MemoryConnections, draft: MemoryState, request: LocalAppend) -> Appended | AppendRefused:
    """Judge a request of this service and store it in the draft."""
    seen = draft.append_ids.get(request.append_id)
    if seen:
        return admit_repeat(request, seen.digest, seen.outcome)
    heads = DraftHeads(draft.heads)
    judged = admit_local(request, heads)
    if isinstance(judged, AppendRefused):
        return judged
    appended = Appended(draft.head_position + 1, judged)
    store(connections, draft, heads, replace(request.events, seq_nr=judged, origin_seq_nr=[0] * len(judged)))
    heads.keep()
    connections.database.tables.run(request.statements)
    if request.append_id:
        draft.append_ids[request.append_id] = AppendIdEntry(request.digest, appended)
    return appended


def append_pushed(
    connections: MemoryConnections, draft: MemoryState, request: PushedAppend
) -> Pushed | Fenced | OutOfStep | OriginBlocked:
    """Judge and store a stretch of another journal in the draft."""
    origin = draft.origins.get(request.origin_id)
    if origin is None or origin.session != request.session:
        return Fenced(origin.session if origin else 0)
    place = draft.push_filter_states.get(request.origin_id, UNFILTERED)
    position = origin.stored.position if request.lane is PushLane.LIVE else place.backfill_position
    if request.lane is not PushLane.PAST and position != request.after_position:
        return OutOfStep(position)
    heads = DraftHeads(draft.heads)
    own_parked = [parked for parked in draft.parked if parked.origin_id == request.origin_id]
    parked_to = {parked.persistence_id: parked.numbers.seq_nr for parked in own_parked}
    admission = admit_pushed(request, heads, parked_to, partial(draft.ranges_of, request))
    already = len(own_parked)
    if admission.parked and already + len(admission.parked) > request.parked_max:
        return OriginBlocked(already, request.parked_max)
    now_us = connections.now_us()
    accepted = request.events.select(admission.accepted)
    store(connections, draft, heads, replace(accepted, seq_nr=admission.seq_nr, origin_seq_nr=accepted.seq_nr))
    heads.keep()
    for index, parked in admission.parked:
        draft.last_parked_id += 1
        event = request.events.slice(index, index + 1)
        draft.parked.append(
            ParkedEntry(draft.last_parked_id, request.origin_id, request.branch, parked.code, now_us, event)
        )
    draft.cut_ranges(request, admission.returned)
    keep_ranges(connections, draft, request.origin_id, request.branch, admission.skipped)
    if request.lane is PushLane.PAST or request.through.position == request.after_position:
        pass  # the last event stored stays the one it is
    elif request.lane is PushLane.LIVE:
        draft.origins[request.origin_id] = replace(origin, stored=request.through, last_seen_us=connections.now_us())
    else:
        draft.origins[request.origin_id] = replace(origin, last_seen_us=connections.now_us())
        draft.push_filter_states[request.origin_id] = replace(place, backfill_position=request.through.position)
    answer = tuple(parked for _, parked in admission.parked)
    return Pushed(request.through.position, len(accepted), answer)


def store(connections: MemoryConnections, draft: MemoryState, heads: DraftHeads, events: EventBatch) -> None:
    """Put judged events at the end of the draft's log."""
    n = len(events)
    now_us = connections.now_us()
    first = draft.head_position + 1
    first_us = max(now_us, draft.head_timestamp_us + 1)
    events = replace(
        events,
        position=list(range(first, first + n)),
        timestamp_us=list(range(first_us, first_us + n)),
        stored_us=[now_us] * n,
        prev_seq_nr=[number - 1 for number in events.seq_nr],
        prev_tags=link_tags(events, heads),
    )
    draft.log.extend(events)
    for name, tags in sorted(begun_tag_sets(events)):
        noted = draft.tag_sets.get(name, frozenset())
        if len(noted) <= TAG_SETS_MAX:
            draft.tag_sets[name] = noted | {tags}
    if n:
        draft.head_position = first + n - 1
        draft.head_timestamp_us = first_us + n - 1


def keep_ranges(
    connections: MemoryConnections, draft: MemoryState, origin_id: str, branch: int, ranges: Sequence[StatedRange]
) -> None:
    """Keep what was stated as never to come."""
    now_us = connections.now_us()
    draft.ranges.extend((branch, StoredRange(origin_id, stated, now_us)) for stated in ranges)
