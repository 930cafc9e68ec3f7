"""Protections of the past upwards that can be removed; each must make a listed seed fail, by the checker it names.

Another seed is found with ``python -m tests.simulation.up --mutation NAME --seeds 200 --seed 0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import common.core.push.stand_ins
import common.core.subscription.replay
import common.journal.memory.append
import common.journal.memory.origins
import common.transport.push.stand_ins
from common.core.events.stated_range import StatedRange
from common.core.filters.permission import Walled
from common.core.filters.predicates import EntityPredicate
from common.core.journal.admission import Heads, PushAdmission, admit_pushed
from common.core.journal.append import PushedAppend, PushLane
from common.core.journal.snapshot import Snapshot
from common.core.push.filter_transition import Entry
from common.core.push.messages import PushBatch
from common.core.push.past import KnownEntities, OwedPasts, PastBatch, known_of
from common.core.push.stand_ins import NOTHING_REPLACED, Replaced, Standing, StatedReplaced
from common.core.subscription.replay import ReplayPart
from common.transport.push.past import PastLane
from common.transport.push.stand_ins import StandIns


@dataclass(frozen=True, slots=True)
class UpMutation:
    """``applied()`` removes the protection while its block runs; one of ``seeds`` must fail by ``checker`` then."""

    seeds: tuple[int, ...]
    checker: str
    applied: Callable[[], AbstractContextManager[Any]]


def _judged_as_live(
    request: PushedAppend,
    heads: Heads,
    parked_to: Mapping[str, int],
    ranges_of: Callable[[str], Sequence[StatedRange]],
) -> PushAdmission:
    lane = PushLane.LIVE if request.lane is PushLane.PAST else request.lane
    return admit_pushed(replace(request, lane=lane), heads, parked_to, ranges_of)


def _permits(self: Walled, persistence_id: str, tags: str) -> bool:
    return True


def _may_see_folded(predicate: EntityPredicate, persistence_id: str, tag_sets: frozenset[str] | None) -> bool:
    return True


def _one_more(origin_id: str, owner: str | None, origin_seq_nr: int | None, parked_to: int | None) -> int:
    return known_of(origin_id, owner, origin_seq_nr, parked_to) + 1


_bring = PastLane.bring


async def _bring_or_not(self: PastLane, entries: Sequence[Entry], page: PushBatch) -> int | None:
    passed = await _bring(self, entries, page)
    return page.through_position if passed is None else passed


async def _bring_ahead(self: PastLane, entries: Sequence[Entry], page: PushBatch) -> int | None:
    """Also what the live lane has not passed."""
    return await _bring(self, entries, replace(page, after_position=page.through_position))


def _number_after(self: KnownEntities, persistence_id: str) -> int | None:
    number = self._known.get(persistence_id)
    return None if number is None else number + 1


def _nothing_owed(self: OwedPasts, entries: Sequence[Entry], through: int) -> None:
    self.looked_through = through


_add = PastBatch.add


def _add_without_ranges(self: PastBatch, part: ReplayPart, covered: int) -> int:
    return _add(self, replace(part, ranges=()), covered)


def _add_from_one(self: PastBatch, part: ReplayPart, covered: int) -> int:
    through = _add(self, part, covered)
    self.ranges = [stated._replace(from_seq_nr=1) for stated in self.ranges]
    return through


def _nothing_is_news(self: StatedReplaced, standing: Standing, through: int) -> Replaced:
    return NOTHING_REPLACED


def _place_whatever_is_gone(seq_nr: int, position: int, deleted_to: int, deleted_position: int) -> int:
    return position or deleted_position


def _selected_only(snapshot: Snapshot, predicate: EntityPredicate, tag_sets: frozenset[str] | None) -> bool:
    return predicate.matches(snapshot.persistence_id, snapshot.tags)


def _nothing_stands_in(self: StandIns, after: int) -> bool:
    return False


def _patched(owner: object, name: str, instead: object) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, instead)


MUTATIONS: Final[Mapping[str, UpMutation]] = {
    "past_judged_as_live": UpMutation(
        (1, 17), "NothingParked", _patched(common.journal.memory.append, "admit_pushed", _judged_as_live)
    ),
    "past_through_a_wall": UpMutation((1, 3), "WallHolds", _patched(Walled, "permits", _permits)),
    "snapshot_through_a_wall": UpMutation(
        (1, 8), "WallHolds", _patched(common.core.subscription.replay, "may_see_folded", _may_see_folded)
    ),
    "known_beyond_what_is_known": UpMutation(
        (1, 2), "PastIsWhole", _patched(common.journal.memory.origins, "known_of", _one_more)
    ),
    "page_sent_though_its_past_was_not": UpMutation(
        (75, 77, 82), "PastIsWhole", _patched(PastLane, "bring", _bring_or_not)
    ),
    "past_ahead_of_the_live_lane": UpMutation((60, 68, 79), "NothingParked", _patched(PastLane, "bring", _bring_ahead)),
    "left_with_a_later_number": UpMutation((1, 2), "PastIsWhole", _patched(KnownEntities, "number_of", _number_after)),
    "retention_takes_what_is_owed": UpMutation((5, 11, 22), "OwedIsKept", _patched(OwedPasts, "add", _nothing_owed)),
    "gaps_in_a_past_not_stated": UpMutation((1, 5), "NothingParked", _patched(PastBatch, "add", _add_without_ranges)),
    "what_is_set_aside_is_not_stated": UpMutation(
        (1001, 1002),
        "NothingParked",
        _patched(StatedReplaced, "news", _nothing_is_news),
    ),
    "snapshots_below_what_is_gone": UpMutation(
        (1003, 1006), "NothingParked", _patched(common.core.push.stand_ins, "place_of", _place_whatever_is_gone)
    ),
    "stand_in_through_a_wall": UpMutation(
        (1007, 1015), "WallHolds", _patched(common.transport.push.stand_ins, "may_stand_in", _selected_only)
    ),
    "nothing_stands_in": UpMutation((1001,), "NotLost", _patched(StandIns, "are_active", _nothing_stands_in)),
    "ranges_of_a_past_from_the_first_number": UpMutation(
        (38, 56), "PastIsWhole", _patched(PastBatch, "add", _add_from_one)
    ),
}
