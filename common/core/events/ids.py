"""Names of event-sourced things, and the slice each falls into.

A persistence id is ``EntityType|entityId``. Its slice, 0 to 1023, is a Java string hash, so that other systems of
this family agree on it; projections divide their work by ranges of slices. A slice is always computed here from the
id: a number received from a peer never decides where data goes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from common.core.errors import BackhaulError

SLICES = 1024
SEPARATOR = "|"
NAME_MAX_BYTES = 256
PERSISTENCE_ID_MAX_BYTES = 2 * NAME_MAX_BYTES + len(SEPARATOR)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
# Characters that leave no mark or change the order of the others: two ids that look alike would be two entities.
# Soft hyphen, grapheme joiner, Arabic letter mark, Mongolian vowel separator, zero-width space to right-to-left mark,
# bidirectional embeddings, overrides and isolates, word joiner and invisible operators, byte order mark, tags.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# Most persistence ids: printable ASCII on both sides of the separator.
_USUAL_ID = re.compile(rf"[ -{{}}~]{{1,{NAME_MAX_BYTES}}}\|[ -{{}}~]{{1,{NAME_MAX_BYTES}}}")
_SLICE_CACHE_ENTRIES = 65_536


def java_string_hash(text: str) -> int:
    """Hash of the UTF-16 code units as Java's ``String.hashCode`` defines it: h = 31 h + unit, signed 32 bit."""
    h = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            h = (31 * h + unit) & 0xFFFFFFFF
    else:
        units = text.encode("utf-16-le", "surrogatepass")
        for low, high in zip(units[::2], units[1::2], strict=True):
            h = (31 * h + (high << 8 | low)) & 0xFFFFFFFF
    return h - 0x1_0000_0000 if h & 0x8000_0000 else h


@lru_cache(_SLICE_CACHE_ENTRIES)
def slice_of(persistence_id: str) -> int:
    """The slice, 0 to 1023, of a persistence id.

    Java's remainder is cut toward zero, so the sign is dropped before the modulo: Python's ``%`` on a negative hash
    gives another slice.
    """
    return abs(java_string_hash(persistence_id)) % SLICES


@dataclass(frozen=True, slots=True, order=True)
class SliceRange:
    """Slices ``first`` to ``last``, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < SLICES:
            raise BackhaulError(
                "slices.invalid_range",
                f"slice range {self.first}-{self.last} is not inside 0-{SLICES - 1}",
                hint="give first <= last, both between 0 and 1023",
            )

    def __contains__(self, slice_: int) -> bool:
        return self.first <= slice_ <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @property
    def is_all(self) -> bool:
        """Whether this is the whole key space, so that a reader needs no condition."""
        return self.first == 0 and self.last == SLICES - 1


ALL_SLICES = SliceRange(0, SLICES - 1)


def slice_ranges(count: int) -> list[SliceRange]:
    """``count`` equal contiguous ranges that cover every slice once; ``count`` must divide 1024."""
    if count < 1 or SLICES % count:
        raise BackhaulError(
            "slices.invalid_range",
            f"cannot divide {SLICES} slices into {count} equal ranges",
            hint="use a power of two from 1 to 1024",
        )
    width = SLICES // count
    return [SliceRange(first, first + width - 1) for first in range(0, SLICES, width)]


def persistence_id(entity_type: str, entity_id: str, prefix: str = "") -> str:
    """Join and check the two halves; ``prefix`` is put before the id, and makes none of an empty one.

    Raises:
        BackhaulError: ``entity.invalid_name`` naming the half and the rule it breaks.
    """
    check_name("entity type", entity_type)
    check_name("entity id", entity_id and prefix + entity_id)
    return f"{entity_type}{SEPARATOR}{prefix}{entity_id}"


def new_persistence_id(entity_type: str, entity_id: str, prefix: str = "") -> str:
    """As ``persistence_id``, of an entity that gets an event: invisible characters are refused too."""
    name = persistence_id(entity_type, entity_id, prefix)
    problem = invisible_problem(name)
    if problem:
        raise BackhaulError("entity.invalid_name", f"{name!r} {problem}", hint="use characters that are seen")
    return name


def split_persistence_id(text: str) -> tuple[str, str]:
    """Entity type and entity id; checks both halves.

    Raises:
        BackhaulError: ``entity.invalid_name``.
    """
    entity_type, separator, entity_id = text.partition(SEPARATOR)
    if not separator:
        raise BackhaulError(
            "entity.invalid_name",
            f"persistence id {text[:80]!r} has no {SEPARATOR!r}",
            hint="write EntityType|entityId",
        )
    check_name("entity type", entity_type)
    check_name("entity id", entity_id)
    return entity_type, entity_id


def entity_type_of(persistence_id: str) -> str:
    """The part before the separator, unchecked: for ids that were checked at the door."""
    return persistence_id.partition(SEPARATOR)[0]


def check_name(what: str, name: str) -> None:
    """Refuse empty and over-long names, control characters, lone surrogates and the separator.

    Raises:
        BackhaulError: ``entity.invalid_name``.
    """
    problem = _name_problem(name)
    if problem:
        raise BackhaulError(
            "entity.invalid_name",
            f"{what} {name[:80]!r} {problem}",
            hint=f"use 1 to {NAME_MAX_BYTES} bytes of UTF-8 without control characters or {SEPARATOR!r}",
        )


def _name_problem(name: str) -> str:
    if not name:
        return "is empty"
    if SEPARATOR in name:
        return f"contains {SEPARATOR!r}"
    return text_problem(name, NAME_MAX_BYTES)


def text_problem(text: str, max_bytes: int) -> str:
    """What makes a short text (a name, tag, type or key) unfit to store, or '' when nothing does."""
    if _CONTROL.search(text):
        return "contains a control character"
    if len(text) > max_bytes or (not text.isascii() and len(text.encode()) > max_bytes):
        return f"is longer than {max_bytes} bytes"
    return ""


def invisible_problem(text: str) -> str:
    """What makes a name look like another one, or ''. For new names only: older journals may hold such."""
    found = None if text.isascii() else _INVISIBLE.search(text)
    return f"contains the invisible character U+{ord(found[0]):04X}" if found else ""


def new_id_problem(text: str) -> str:
    """What makes a persistence id unfit for an event that comes in, or ''."""
    return persistence_id_problem(text) or (
        f"persistence id {text!r} {problem}" if (problem := invisible_problem(text)) else ""
    )


def persistence_id_problem(text: str) -> str:
    """What is wrong with a persistence id, or ''."""
    if len(text) > PERSISTENCE_ID_MAX_BYTES:  # not one for the cache, which would keep it
        return f"persistence id {text[:80]!r}… is longer than {PERSISTENCE_ID_MAX_BYTES} bytes"
    return _short_id_problem(text)


@lru_cache(_SLICE_CACHE_ENTRIES)
def _short_id_problem(text: str) -> str:
    """Cached: the same ids come back in every batch."""
    if _USUAL_ID.fullmatch(text):
        return ""
    try:
        split_persistence_id(text)
    except BackhaulError as error:
        return error.message
    return ""
