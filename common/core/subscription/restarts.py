"""When entities begin again for a follower: an include by id states a lower number than the filter before it.

What a consumer knows is otherwise never sent again. A filter that newly includes an entity from a stated number, or from a
lower one than before, asks for it again from there: in one transaction the known number is set back, the program is given a
restart mark (``core.events.restart``), and the entity waits for its replay; from then on its numbers only rise again.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.core.events.ids import SEPARATOR
from common.core.filters.predicates import Filter


def lower_starts(before: Filter, after: Filter) -> dict[str, int]:
    """Ids (with entity type or without) that ``after`` includes from a stated number, with that number, if it is news.

    A number is news where ``before`` stated none for this id, or a higher one.
    """
    stated = before.starts
    return {one: first for one, first in after.starts.items() if first < stated.get(one, first + 1)}


def begins_again(starts: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """Entities of which ``starts`` asks for something that is known already, with the number to begin from.

    ``known`` are last known numbers by persistence id. An id with its type counts before one without.
    """
    found: dict[str, int] = {}
    for name, last in sorted(known.items()):
        first = starts.get(name, starts.get(name.partition(SEPARATOR)[2], 0))
        if 0 < first <= last:
            found[name] = first
    return found
