"""How a projection's work is divided: ranges of slices, each with its own offset, epoch and lease.

The offsets of a projection are one map from slices to positions: everything of a slice up to its position has taken
effect. A range says it with one position for all its slices and, where some are further than that, with what they are
``ahead`` by: so ranges are split and merged at any moment, and nothing is done twice or left out. A merged range goes
over the stretch again in which its parts differ and takes from it only what the lagging ones have not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import SliceRange, slice_of


@dataclass(frozen=True, slots=True, order=True)
class Ahead:
    """Slices of a range that are further than its position: to ``position``."""

    slices: SliceRange
    position: int


@dataclass(frozen=True, slots=True, order=True)
class RangeOffset:
    """The offset of a range: all its slices are at ``position``, but for those that are ahead."""

    slices: SliceRange
    position: int
    ahead: tuple[Ahead, ...] = ()


def check_ranges(name: str, wanted: SliceRange, stored: Iterable[SliceRange]) -> None:
    """Refuse a range that cuts across one of those which projection ``name`` has offsets for.

    Raises:
        BackhaulError: ``projection.ranges_changed``.
    """
    known = sorted(stored)
    for other in known:
        if other != wanted and _overlap(other, wanted):
            raise BackhaulError(
                "projection.ranges_changed",
                f"projection {name} is to run on slices {wanted}, but its offsets are kept for {len(known)} ranges, "
                f"{other} among them",
                hint="nothing to do: the present ranges are looked up, and run",
                kind=ErrorKind.CONFLICT,
                details={"projection": name, "slices": str(wanted), "stored": str(other), "ranges": len(known)},
            )


def range_gone(name: str, slices: SliceRange) -> BackhaulError:
    """The ranges of a projection were changed, and this is no longer one of them."""
    return BackhaulError(
        "projection.ranges_changed",
        f"projection {name} has no range {slices} any more",
        hint="nothing to do: the present ranges are looked up, and run",
        kind=ErrorKind.CONFLICT,
        details={"projection": name, "slices": str(slices)},
    )


def missing_ranges(stored: Iterable[SliceRange], wanted: Iterable[SliceRange]) -> list[SliceRange]:
    """The parts of ``wanted`` that no stored range covers: where offsets are still to be made."""
    missing = list(wanted)
    for known in stored:
        missing = [part for one in missing for part in _without(one, known)]
    return sorted(missing)


def divide(name: str, stored: Sequence[RangeOffset], wanted: Sequence[SliceRange]) -> list[RangeOffset]:
    """The same offsets, kept for the ranges ``wanted``.

    Raises:
        BackhaulError: ``projection.unknown`` when nothing is stored, ``projection.other_slices`` when the two do not
            cover the same slices, each once.
    """
    if not stored:
        raise unknown_projection(name)
    slices = [slice_ for one in wanted for slice_ in range(one.first, one.last + 1)]
    if sorted(slices) != [slice_ for one in sorted(stored) for slice_ in range(one.slices.first, one.slices.last + 1)]:
        raise BackhaulError(
            "projection.other_slices",
            f"{', '.join(map(str, wanted))} are not the slices that projection {name} has offsets for, each once",
            hint="name ranges that cover the same slices without overlap",
        )
    parts = [part for one in stored for part in _parts(one)]
    divided = []
    for target in sorted(wanted):
        within = [
            Ahead(SliceRange(max(part.slices.first, target.first), min(part.slices.last, target.last)), part.position)
            for part in parts
            if _overlap(part.slices, target)
        ]
        position = min(part.position for part in within)
        divided.append(RangeOffset(target, position, _joined(part for part in within if part.position > position)))
    return divided


def changes(
    stored: Sequence[RangeOffset], divided: Sequence[RangeOffset]
) -> tuple[list[SliceRange], list[RangeOffset]]:
    """What a division changes: ranges that are no more, and those that are new. The others keep row, owner and epoch."""
    before, after = {one.slices for one in stored}, {one.slices for one in divided}
    return sorted(before - after), [one for one in divided if one.slices not in before]


def still_ahead(ahead: Sequence[Ahead], position: int) -> tuple[Ahead, ...]:
    """What is still ahead once the range as a whole is at ``position``."""
    return tuple(one for one in ahead if one.position > position) if ahead else ()


def not_yet_done(ahead: Sequence[Ahead], persistence_ids: Sequence[str], positions: Sequence[int]) -> list[int]:
    """Indexes of the events that have not taken effect yet, of a stretch behind the range's position."""
    if not ahead or not positions or positions[0] > max(one.position for one in ahead):
        return list(range(len(positions)))
    return [
        index
        for index, (persistence_id, position) in enumerate(zip(persistence_ids, positions, strict=True))
        if not any(position <= one.position and slice_of(persistence_id) in one.slices for one in ahead)
    ]


def ahead_as_text(ahead: Iterable[Ahead]) -> str:
    """As one stored value: ``first-last:position`` and so on, '' for none."""
    return " ".join(f"{one.slices}:{one.position}" for one in ahead)


def ahead_of_text(text: str) -> tuple[Ahead, ...]:
    """The reverse of ``ahead_as_text``."""
    found = []
    for entry in text.split():
        slices, _, position = entry.partition(":")
        first, _, last = slices.partition("-")
        found.append(Ahead(SliceRange(int(first), int(last)), int(position)))
    return tuple(found)


def unknown_projection(name: str) -> BackhaulError:
    """Nothing of this name has an offset."""
    return BackhaulError(
        "projection.unknown",
        f"no projection {name[:80]!r} ever ran on this journal",
        "list the projections for their names",
        kind=ErrorKind.NOT_FOUND,
    )


def projection_not_paused(name: str) -> BackhaulError:
    """The refusal to move a projection that may commit at any moment."""
    return BackhaulError(
        "projection.not_paused",
        f"projection {name} is not paused: it would go on while it is moved",
        "pause it first, and resume it when it is where it is to be",
        kind=ErrorKind.CONFLICT,
    )


def projection_in_use(name: str, owner: str) -> BackhaulError:
    """A node still runs it."""
    return BackhaulError(
        "projection.in_use",
        f"{owner} runs projection {name}, which would begin again from the start of the log",
        hint="take it out of the application or the settings, and restart the service first",
        kind=ErrorKind.CONFLICT,
    )


def _overlap(one: SliceRange, other: SliceRange) -> bool:
    return one.first <= other.last and other.first <= one.last


def _without(one: SliceRange, other: SliceRange) -> list[SliceRange]:
    if not _overlap(one, other):
        return [one]
    below, above = (one.first, other.first - 1), (other.last + 1, one.last)
    return [SliceRange(first, last) for first, last in (below, above) if first <= last]


def _parts(offset: RangeOffset) -> list[Ahead]:
    """The range in pieces that each have one position."""
    rest = missing_ranges((one.slices for one in offset.ahead), [offset.slices])
    return sorted([*offset.ahead, *(Ahead(slices, offset.position) for slices in rest)])


def _joined(parts: Iterable[Ahead]) -> tuple[Ahead, ...]:
    """Neighbours at one position as one: a map never grows beyond what differs."""
    joined: list[Ahead] = []
    for part in sorted(parts):
        last = joined[-1] if joined else None
        if last and last.position == part.position and last.slices.last + 1 == part.slices.first:
            joined[-1] = Ahead(SliceRange(last.slices.first, part.slices.last), part.position)
        else:
            joined.append(part)
    return tuple(joined)
