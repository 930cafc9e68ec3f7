"""Which member runs which range, computed alike by every node from the same rows: no leader, no messages.

The unit is a group: the same slices of all projections that the same members run, so that one node reads them once. Each
member's quota is its share by weight, rounded up or down. A group stays where it is while its member is within the quota;
the others go to members with room, each to the one that rendezvous hashing ranks first. So a change of members moves as few
groups as the quotas allow, and nodes that see the same compute the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from typing import TypeAlias

from common.core.events.ids import SliceRange

RangeKey: TypeAlias = tuple[str, SliceRange]
"""A projection's name and one of its ranges."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live member, and the projections that it has handlers for."""

    instance: str
    weight: int
    runs: frozenset[str]


def assign(owners: Mapping[RangeKey, str], candidates: Collection[Candidate]) -> dict[RangeKey, str]:
    """The member that is to run each range; ranges of projections that none of them runs are left out.

    ``owners`` has all ranges with their present owners, '' for none; owners that are no candidates count as none.
    Without a candidate of any weight all weigh the same: one of them has to run the ranges.
    """
    assigned: dict[RangeKey, str] = {}
    runners: dict[frozenset[str], list[str]] = defaultdict(list)
    for name in sorted({name for name, _ in owners}):
        runners[frozenset(one.instance for one in candidates if name in one.runs)].append(name)
    for instances, names in runners.items():
        able = [one for one in candidates if one.instance in instances]
        able = [one for one in able if one.weight > 0] or [Candidate(one.instance, 1, one.runs) for one in able]
        if not able:
            continue
        keys = [key for key in owners if key[0] in names]
        groups = _spread({slices: _holder(slices, keys, owners, able) for _, slices in keys}, able)
        assigned.update({key: groups[key[1]] for key in keys})
    return assigned


def _holder(
    slices: SliceRange, keys: Iterable[RangeKey], owners: Mapping[RangeKey, str], able: Iterable[Candidate]
) -> str:
    """The candidate that has most of a group's ranges, '' when none has any."""
    names = {one.instance: one for one in able}
    held = Counter(owners[key] for key in keys if key[1] == slices and owners[key] in names)
    return max(held, key=lambda name: (held[name], _score(slices, names[name])), default="")


def _spread(holders: Mapping[SliceRange, str], able: Sequence[Candidate]) -> dict[SliceRange, str]:
    held: dict[str, list[SliceRange]] = defaultdict(list)
    for slices, holder in holders.items():
        held[holder].append(slices)
    quotas = _quotas(len(holders), able, {name: len(groups) for name, groups in held.items()})
    spread: dict[SliceRange, str] = {}
    room: dict[Candidate, int] = {}
    for one in able:
        kept = sorted(held[one.instance], key=lambda slices: (_score(slices, one), slices), reverse=True)
        spread.update(dict.fromkeys(kept[: quotas[one.instance]], one.instance))
        room[one] = quotas[one.instance] - min(len(kept), quotas[one.instance])
    for slices in sorted(holders.keys() - spread.keys()):
        chosen = max((one for one in able if room[one]), key=lambda one: (_score(slices, one), one.instance))
        spread[slices] = chosen.instance
        room[chosen] -= 1
    return spread


def _quotas(groups: int, able: Sequence[Candidate], held: Mapping[str, int]) -> dict[str, int]:
    """Groups for each: its share rounded down, and one more for some; first for those that have one more already."""
    weights = sum(one.weight for one in able)
    quotas = {one.instance: groups * one.weight // weights for one in able}
    fraction = {one.instance: groups * one.weight % weights for one in able}
    ranked = sorted(
        (one for one in able if fraction[one.instance]),
        key=lambda one: (
            held.get(one.instance, 0) > quotas[one.instance],
            fraction[one.instance],
            one.instance,
        ),
        reverse=True,
    )
    for one in ranked[: groups - sum(quotas.values())]:
        quotas[one.instance] += 1
    return quotas


def _score(slices: SliceRange, candidate: Candidate) -> float:
    """Weighted rendezvous hashing: the highest score has the group."""
    digest = blake2b(f"{candidate.instance} {slices}".encode(), digest_size=8).digest()
    return -candidate.weight / log((int.from_bytes(digest) + 1) / (2**64 + 1))
