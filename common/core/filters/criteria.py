"""Criteria of filters: from JSON to what they amount to, and back to the one text equal filters have.

A criterion is an object with one key, such as ``{"include_topics": ["site/7/#"]}``; a filter is a list of them, applied
in order. Whatever is wrong with one, or more than the limits allow, is refused: a filter that was cut would quietly
deliver something else than was asked for. Regular expressions run on RE2, in time linear in the id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, cast

import orjson
import re2

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import NAME_MAX_BYTES, SEPARATOR, persistence_id_problem, text_problem
from common.core.filters.topics import topic_problem

SEQ_NR_MAX = 2**63 - 1
_ALL = "exclude_all"
# In the order of the canonical text.
_LISTS: Final = (
    "exclude_tags",
    "exclude_ids",
    "exclude_regex",
    "include_tags",
    "include_ids",
    "include_regex",
    "include_topics",
)
_REMOVE = "remove_"
_REGEX_CACHE_ENTRIES = 1_024


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """What one filter may hold. Bytes are those of its JSON; entries those of each list after all criteria."""

    json_bytes: int = 131_072
    criteria: int = 1_000
    entries: int = 1_000
    regex_entries: int = 16
    regex_bytes: int = 512
    regex_memory_bytes: int = 262_144
    """For the program of one expression and what it needs to run."""


DEFAULT_LIMITS = FilterLimits()


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a list of criteria amounts to. ``include_ids`` maps an id to the number its events are wanted from (0 = all)."""

    exclude_all: bool = False
    exclude_tags: frozenset[str] = frozenset()
    exclude_ids: frozenset[str] = frozenset()
    exclude_regex: frozenset[str] = frozenset()
    include_tags: frozenset[str] = frozenset()
    include_ids: Mapping[str, int] = field(default_factory=dict)
    include_regex: frozenset[str] = frozenset()
    include_topics: frozenset[str] = frozenset()

    def canonical(self) -> str:
        """The JSON that every list of criteria with this meaning is written as."""
        listed: list[dict[str, object]] = [{_ALL: True}] if self.exclude_all else []
        for name in _LISTS:
            entries = getattr(self, name)
            if entries:
                listed.append({name: [_entry_to_json(entries, entry) for entry in sorted(entries)]})
        return orjson.dumps(listed).decode()


def parse_criteria(text: str | bytes, limits: FilterLimits = DEFAULT_LIMITS, onto: Criteria | None = None) -> Criteria:
    """Read criteria and apply them in order, to nothing or to those of ``onto``. No text at all is an empty list.

    Raises:
        BackhaulError: ``filter.invalid``, ``filter.too_large``, ``filter.bad_regex`` or ``filter.bad_topic``.
    """
    size = len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limits.json_bytes:
        raise _too_large(f"it has {size} bytes; the limit is {limits.json_bytes}")
    listed = _json_list(text)
    if len(listed) > limits.criteria:
        raise _too_large(f"it has {len(listed)} criteria; the limit is {limits.criteria}")
    start = onto or Criteria()
    excludes_all = start.exclude_all
    lists = {
        name: {entry: _from_seq_nr(getattr(start, name), entry) for entry in getattr(start, name)} for name in _LISTS
    }
    for number, criterion in enumerate(listed, 1):
        key, value = _one_key(number, criterion)
        removes = key.startswith(_REMOVE)
        name = key.removeprefix(_REMOVE)
        if name == _ALL:
            if value is not True:
                raise _invalid(f"{key} of criterion {number} is not true")
            excludes_all = not removes
            continue
        for entry, from_seq_nr in _entries(number, key, value):
            if removes:
                lists[name].pop(entry, None)
            else:
                _check_entry(name, entry, limits)
                lists[name][entry] = from_seq_nr
    for name, entries in lists.items():
        maximum = limits.regex_entries if name.endswith("_regex") else limits.entries
        if len(entries) > maximum:
            raise _too_large(f"{name} has {len(entries)} entries; the limit is {maximum}")
    chosen: dict[str, Any] = {name: frozenset(entries) for name, entries in lists.items()}
    return Criteria(exclude_all=excludes_all, **(chosen | {"include_ids": lists["include_ids"]}))


def compile_regex(pattern: str, memory_bytes: int = DEFAULT_LIMITS.regex_memory_bytes) -> Callable[[str], bool]:
    """Whether an entity id is matched whole by ``pattern``. Raises ``filter.bad_regex``."""
    try:
        fullmatch = _compiled(pattern, memory_bytes)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if isinstance(error, re2.error) and error.args else "it is not text"
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise BackhaulError(
            "filter.bad_regex",
            f"the expression {pattern[:80]!r} cannot be used: {reason[:200]}",
            "write it as RE2 does: no look-around, no back-references, counted repeats up to 1000",
        ) from None
    return lambda entity_id: fullmatch(entity_id) is not None


@lru_cache(_REGEX_CACHE_ENTRIES)
def _compiled(pattern: str, memory_bytes: int) -> Callable[[str], object]:
    """Cached: a thousand subscribers tend to ask with few expressions."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = memory_bytes
    return cast("Callable[[str], object]", re2.compile(pattern, options).fullmatch)


def _json_list(text: str | bytes) -> list[object]:
    if not text:
        return []
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"it is not JSON: {error}") from None
    if not isinstance(listed, list):
        raise _invalid("it is not a JSON list")
    return listed


def _one_key(number: int, criterion: object) -> tuple[str, object]:
    if not isinstance(criterion, dict) or len(criterion) != 1:
        raise _invalid(f"criterion {number} is not an object with one key")
    [(key, value)] = criterion.items()
    if key.removeprefix(_REMOVE) not in (_ALL, *_LISTS):
        known = ", ".join((_ALL, *_LISTS))
        raise _invalid(
            f"criterion {number} has the unknown key {key[:40]!r}; known are {known}, each also behind {_REMOVE}"
        )
    return key, value


def _entries(number: int, key: str, value: object) -> list[tuple[str, int]]:
    if not isinstance(value, list):
        raise _invalid(f"{key} of criterion {number} is not a list")
    found = []
    for entry in value:
        if isinstance(entry, str):
            found.append((entry, 0))
        elif key == "include_ids" and _is_id_with_start(entry):
            found.append((entry["id"], entry["from_seq_nr"]))
        else:
            raise _invalid(f"{key} of criterion {number} has the entry {str(entry)[:80]}")
    return found


def _is_id_with_start(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"id", "from_seq_nr"}
        and isinstance(entry["id"], str)
        and type(entry["from_seq_nr"]) is int
        and 0 <= entry["from_seq_nr"] <= SEQ_NR_MAX
    )


def _check_entry(name: str, entry: str, limits: FilterLimits) -> None:
    if name.endswith("_regex"):
        if len(entry.encode("utf-8", "surrogatepass")) > limits.regex_bytes:
            raise _too_large(f"an expression is longer than {limits.regex_bytes} bytes: {entry[:80]!r}")
        compile_regex(entry, limits.regex_memory_bytes)
        return
    if name == "include_topics":
        problem = topic_problem(entry)
        if problem:
            raise BackhaulError(
                "filter.bad_topic",
                f"the topic {entry[:80]!r} {problem}",
                "write levels parted by /; + alone stands for one level, # alone at the end for the rest",
            )
        return
    if name.endswith("_ids") and SEPARATOR in entry:
        problem = persistence_id_problem(entry)
    else:
        problem = text_problem(entry, NAME_MAX_BYTES) if entry else "is empty"
    if problem:
        raise _invalid(f"{name} has {entry[:80]!r}, which {problem}")


def _from_seq_nr(entries: object, entry: str) -> int:
    return entries[entry] if isinstance(entries, dict) else 0


def _entry_to_json(entries: object, entry: str) -> object:
    from_seq_nr = _from_seq_nr(entries, entry)
    return {"id": entry, "from_seq_nr": from_seq_nr} if from_seq_nr else entry


def _invalid(what: str) -> BackhaulError:
    return BackhaulError(
        "filter.invalid",
        f"the filter cannot be used: {what}",
        'write a list of criteria such as [{"exclude_all": true}, {"include_topics": ["site/7/#"]}]',
    )


def _too_large(what: str) -> BackhaulError:
    return BackhaulError(
        "filter.too_large",
        f"the filter cannot be used: {what}",
        "say it with fewer entries: topics with wildcards, or tags",
        kind=ErrorKind.TOO_LARGE,
    )
