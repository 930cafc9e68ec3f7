"""What makes an event fit to store: sizes and texts, the same at every door.

An intake refuses a whole request; a push endpoint parks the single event. Both ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b

from common.core.events.batch import FOLDS_TAG, LEFT_TAGS, UNIT_SEPARATOR, EventBatch, split_metadata
from common.core.events.deleted import DELETED_TYPE
from common.core.events.ids import (
    NAME_MAX_BYTES,
    PERSISTENCE_ID_MAX_BYTES,
    new_id_problem,
    persistence_id_problem,
    text_problem,
)
from common.core.events.leaving import LEAVING_TYPE, is_mark, mark_problem
from common.core.events.replacing import REPLACES_KEY
from common.core.events.restart import RESTART_TYPE

TAGS_MAX = 32
METADATA_MAX = 32
TIME_MAX_US = 253_402_300_800_000_000  # the year 10000
KEY_MAX_BYTES = 256
_CACHED_MAX_CHARS = 256


def problems(
    events: EventBatch, event_max_bytes: int, *, is_stored: bool = False, may_leave: bool = False
) -> dict[int, tuple[str, str]]:
    """Index → (code, what is wrong) for every event that must not be stored; empty for a good batch.

    ``is_stored``: the events come out of another service's journal, which may be older than the rule on invisible
    characters. ``may_leave``: they come from a peer, and leaving marks may be among them.

    Codes: ``entity.invalid_name``, ``events.too_large``, ``events.invalid``.
    """
    id_problem = persistence_id_problem if is_stored else new_id_problem
    found: dict[int, tuple[str, str]] = {}

    def object_to(index: int, code: str, what: str) -> None:
        found.setdefault(index, (code, what))

    # Whole columns first: a good batch costs a few passes in C and one cached look-up an entity.
    if any(map(id_problem, set(events.persistence_id))):
        for index, persistence_id in enumerate(events.persistence_id):
            problem = id_problem(persistence_id)
            if problem:
                object_to(index, "entity.invalid_name", problem)
    if events.payload and max(map(len, events.payload)) > event_max_bytes:
        for index, payload in enumerate(events.payload):
            if len(payload) > event_max_bytes:
                object_to(
                    index,
                    "events.too_large",
                    f"payload has {len(payload)} bytes, the limit is {event_max_bytes}",
                )
    for name in ("event_type", "codec"):
        column = getattr(events, name)
        if any(map(_label_problem, set(column))):
            for index, label in enumerate(column):
                if _label_problem(label):
                    object_to(index, "events.invalid", f"{name} {_label_problem(label)}")
    if any(events.tags):
        for index, tags in enumerate(events.tags):
            if tags and _tags_problem(tags) and not (may_leave and tags == LEFT_TAGS):
                object_to(index, "events.invalid", _tags_problem(tags))
    if LEAVING_TYPE in events.event_type or LEFT_TAGS in events.tags:
        for index, event_type in enumerate(events.event_type):
            if event_type == LEAVING_TYPE or is_mark(events, index):
                problem = mark_problem(events, index) if may_leave else f"event_type {LEAVING_TYPE!r} is reserved"
                if problem:
                    object_to(index, "events.invalid", problem)
    if DELETED_TYPE in events.event_type or RESTART_TYPE in events.event_type:
        for index, event_type in enumerate(events.event_type):
            if event_type in (DELETED_TYPE, RESTART_TYPE):
                object_to(index, "events.invalid", f"event_type {event_type!r} is reserved")
    if any(events.metadata):
        for index, metadata in enumerate(events.metadata):
            if metadata and _metadata_problem(metadata):
                object_to(index, "events.invalid", _metadata_problem(metadata))
    for index in _out_of_range(events.event_time_us):
        object_to(index, "events.invalid", "event_time_us is not between 0 and the year 10000")
    return found


def _out_of_range(times_us: list[int]) -> Iterable[int]:
    if not times_us or (min(times_us) >= 0 and max(times_us) < TIME_MAX_US):
        return ()
    return [index for index, time_us in enumerate(times_us) if not 0 <= time_us < TIME_MAX_US]


def _cached_for_short(rule: Callable[[str], str]) -> Callable[[str], str]:
    """Short texts come back again and again; a long one may be a peer's attempt to fill our memory."""
    cached = lru_cache(4096)(rule)
    return lambda text: cached(text) if len(text) <= _CACHED_MAX_CHARS else rule(text)


@_cached_for_short
def _label_problem(label: str) -> str:
    return text_problem(label, NAME_MAX_BYTES) if label else "is empty"


@_cached_for_short
def _tags_problem(joined: str) -> str:
    tags = joined.split(UNIT_SEPARATOR)
    if len(tags) > TAGS_MAX + (FOLDS_TAG in tags):  # it was added to those of a snapshot
        return f"has {len(tags)} tags, the limit is {TAGS_MAX}"
    return next((f"tag {tag[:40]!r} {_label_problem(tag)}" for tag in tags if _label_problem(tag)), "")


@_cached_for_short
def _metadata_problem(joined: str) -> str:
    if joined.count(UNIT_SEPARATOR) % 2 == 0:
        return "has metadata that is not pairs of key and value"
    metadata = split_metadata(joined)
    if len(metadata) > METADATA_MAX + (REPLACES_KEY in metadata):
        return f"has {len(metadata)} metadata entries, the limit is {METADATA_MAX}"
    for key, value in metadata.items():
        problem = _label_problem(key) or text_problem(value, NAME_MAX_BYTES)
        if problem:
            return f"metadata {key[:40]!r} {problem}"
    return ""


def storable(text: str) -> str:
    """A text that must be kept although it breaks the rules, with what no database takes written as escapes."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped if text_problem(text, NAME_MAX_BYTES) else text


def storable_id(persistence_id: str) -> str:
    """A persistence id that must be kept although it breaks the rules: no longer than a good one, as an index needs it."""
    if not persistence_id_problem(persistence_id):
        return persistence_id
    escaped = persistence_id.encode("unicode_escape").decode("ascii")
    if len(escaped) <= PERSISTENCE_ID_MAX_BYTES:
        return escaped
    digest = blake2b(escaped.encode("ascii"), digest_size=8).hexdigest()
    return f"{escaped[: PERSISTENCE_ID_MAX_BYTES - len(digest)]}{digest}"
