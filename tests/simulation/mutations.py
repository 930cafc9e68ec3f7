"""Protections that can be removed: each mutation must make a listed seed fail, by the checker it names.

So the checkers are shown to see what they are there for. A mutation changes the product by patching, never by a switch
in it. When a change of the simulation moves what a seed does, ``test_seeds`` says so; another seed is found with
``python -m tests.simulation --mutation NAME --seeds 200 --seed 0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import trio

import common.core.journal.admission
import common.core.journal.history
import common.core.subscription.source
import common.firehose.catch_ups
import common.journal.memory.log
import common.journal.memory.origins
import common.journal.memory.subscriptions
import common.projection.pages
import common.projection.range_task
import common.transport.push.source
import common.transport.subscription.commits
import common.transport.subscription.endpoint
import common.transport.subscription.replays
import common.transport.subscription.sinks
import edge_service.retention
from common.core.events.batch import EventBatch
from common.core.events.stated_range import StatedRange
from common.core.filters.index import FilterIndex
from common.core.filters.permission import Matched, Walled
from common.core.firehose.fetch_builder import FetchBuilder
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.core.flow.window import AdaptiveWindow
from common.core.journal.ages import AGE_LEASE
from common.core.journal.append import Appended, AppendOutcome, AppendRefused, LocalAppend, PushedAppend
from common.core.journal.history import Generation, History, Offset, OriginState, Resume, ResumeDecision, decide_resume
from common.core.journal.statement import Statement
from common.core.push.deletions import StatedDeletions
from common.core.push.messages import Ack
from common.core.push.producer import StartVerdict
from common.core.subscription.replay import _PageWriter
from common.core.subscription.replay_queue import ReplayQueue
from common.journal.head_signal import HeadSignal
from common.journal.memory import append
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.log import MemoryLog
from common.journal.memory.projections import MemoryProjections
from common.journal.memory.state import DraftHeads, MemoryState
from common.journal.memory.subscriptions import MemorySubscriptions
from common.journal.stores.projections import ProjectionLease
from common.projection.beginning.covered import Covered
from common.projection.handler_invoker import NO_MARKS
from common.runtime.age_keeper import AgeKeeper
from common.transport.codec.push import encode_from_cloud
from common.transport.push.endpoint_stream import EndpointStream
from common.transport.push.producer import _PushStream
from common.transport.push.source import PushSource
from common.transport.subscription.source_stream import SourceStream
from tests.simulation.disks import State
from tests.simulation.down import mutations as down

Applied = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """``applied()`` removes the protection while its block runs; one of ``seeds`` at least must fail by ``checker`` then.

    More than one is listed where it takes luck: another order of the same tasks may hide what one seed showed. With
    ``plan_seed`` the plan is that seed's, and chance decides the rest by ``seeds``: for what few plans can show.
    """

    seeds: tuple[int, ...]
    checker: str
    applied: Callable[[], Applied]
    plan_seed: int = 0


def _patched(owner: object, name: str, instead: object) -> Callable[[], Applied]:
    return lambda: patch.object(owner, name, instead)


def _all_patched(*patches: Callable[[], Applied]) -> Callable[[], Applied]:
    def applied() -> Applied:
        with ExitStack() as stack:
            for patched in patches:
                stack.enter_context(patched())
            return stack.pop_all()

    return applied


_hand_over = EndpointStream._hand_over


def _acknowledge_and_hand_over(self: EndpointStream) -> bool:
    is_handed_over = _hand_over(self)
    if is_handed_over:
        self._stream.send_nowait(encode_from_cloud(Ack(self._under_way[-1].request.through.position)))
    return is_handed_over


def _leave_the_ack(_stream: EndpointStream, _taken: object) -> bool:
    return False


async def _settle_without_ack(self: EndpointStream, stored: AppendOutcome) -> None:
    self._endpoint.settle(stored, self._under_way.popleft().request.through.position)
    await trio.lowlevel.checkpoint()


def _resume_from_the_start(
    known: OriginState | None, origin_id: str, instance: str, history: History, now_us: int
) -> ResumeDecision:
    decision = decide_resume(known, origin_id, instance, history, now_us)
    if decision.resume is not Resume.RESUME:
        return decision
    state = decision.state
    nowhere = Offset(state.stored.journal_id, state.generations[0].id, 0)
    return replace(decision, resume=Resume.REWOUND, state=replace(state, branch=state.branch + 1, stored=nowhere))


def _fits(*_numbers: object) -> str:
    return ""


_append_pushed = append.append_pushed


def _append_of_any_session(connections: MemoryConnections, draft: State, request: PushedAppend) -> AppendOutcome:
    origin = draft.origins.get(request.origin_id)
    return _append_pushed(connections, draft, replace(request, session=origin.session) if origin else request)


def _not_fenced(_stream: EndpointStream, _session: int) -> None: ...


_commit = MemoryProjections.commit


async def _commit_offset_first(
    self: MemoryProjections, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
) -> ProjectionLease:
    lease = await _commit(self, lease, position, (), lease_s)
    return await _commit(self, lease, position, statements, lease_s)


async def _commit_of_any_owner(
    self: MemoryProjections, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
) -> ProjectionLease:
    row = self._connections.database.state.projections[lease.name, lease.slices]
    present = replace(lease, epoch=row.epoch, position=row.position)
    return replace(await _commit(self, present, position, statements, lease_s), epoch=lease.epoch)


def _everything_deletable(*_known: object) -> int:
    return 2**62


def _same_history(_ours: object, our_position: int, _theirs: object, their_head: int) -> int:
    return min(our_position, their_head)


def _leave_nothing_behind(*_histories: object) -> list[Generation]:
    return []


def _go_on(*_histories: object) -> StartVerdict:
    return StartVerdict.GO_ON


_append_local = append.append_local


def _append_without_id(connections: MemoryConnections, draft: State, request: LocalAppend) -> Appended | AppendRefused:
    return _append_local(connections, draft, replace(request, append_id=""))


async def _watch_nothing(_stream: object) -> None:
    await trio.sleep_forever()


_store = append.store


def _store_by_the_clock(connections: MemoryConnections, draft: State, heads: DraftHeads, events: EventBatch) -> None:
    if len(events):
        draft.head_timestamp_us = 0
    _store(connections, draft, heads, events)


def _state_nothing(*_deleted: object) -> tuple[()]:
    return ()


def _unstated_so_far(self: PushSource, events: EventBatch) -> tuple[list[StatedRange], bool]:
    """Each range only with the page that comes to the last of it."""
    log, here = self._journal.log, set(events.persistence_id)
    assert isinstance(log, MemoryLog)
    heads = log._connections.database.state.heads
    through = events.position[-1] if events else log.history.head_position
    gone, _ = self._stated.unstated(events, 1 << 30)
    return [
        one for one in gone if one.persistence_id in here or heads[one.persistence_id].deleted_position <= through
    ], True


_wait_news = HeadSignal.wait_news


async def _wait_for_the_prompt(self: HeadSignal, known: Callable[[], int], _at_most_s: float) -> None:
    await _wait_news(self, known, float("inf"))


# Slow pages of one event, and changes that end early, bring a change between two pages of a replay often enough.
_REPLAYS_GO_ON = _all_patched(
    _patched(ReplayQueue, "filter_changes", down.go_on_after_a_change),
    _patched(common.transport.subscription.replays, "entity_page", down.page_of_one),
    _patched(common.core.subscription.source, "MEET_WITHIN", 2),
)


async def _advance_by_the_wall(self: AgeKeeper) -> None:
    """As much as the wall clock says has passed."""
    lease = await self._journal.leases.acquire(AGE_LEASE, self._owner, self._lease_s)
    if lease is not None:
        head = (await self._journal.log.stats()).head_position
        last_s, self._counted_at = self._counted_at, self._now_us() / 1e6
        elapsed_us = round((self._counted_at - (last_s or self._counted_at)) * 1e6)
        await self._journal.ages.advance(lease, elapsed_us, head, self._lease_s)


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "ack_before_commit": Mutation(
        (9,),
        "AckIsDurable",
        _all_patched(
            _patched(EndpointStream, "_hand_over", _acknowledge_and_hand_over),
            _patched(EndpointStream, "_acknowledge_at_once", _leave_the_ack),
            _patched(EndpointStream, "_settle", _settle_without_ack),
        ),
    ),
    "no_deduplication": Mutation(
        (9, 1), "NothingTwice", _patched(common.journal.memory.origins, "decide_resume", _resume_from_the_start)
    ),
    "no_gap_check": Mutation((228, 258, 30), "NoSilentGap", _patched(common.core.journal.admission, "_misfit", _fits)),
    "no_fencing": Mutation(
        (164, 279, 30),
        "FencedAreSilent",
        _all_patched(
            _patched(common.journal.memory.log, "append_pushed", _append_of_any_session),
            _patched(common.journal.memory.subscriptions, "append_pushed", _append_of_any_session),
            _patched(EndpointStream, "fence", _not_fenced),
        ),
    ),
    "offset_before_effect": Mutation(
        (3, 12, 5, 2, 23), "TallyIsFold", _patched(MemoryProjections, "commit", _commit_offset_first)
    ),
    "no_epoch": Mutation(
        (2449, 3638, 2970, 3150), "TallyIsFold", _patched(MemoryProjections, "commit", _commit_of_any_owner)
    ),
    "delete_before_ack": Mutation(
        (8, 9), "TrimmedIsStored", _patched(edge_service.retention, "deletable_through", _everything_deletable)
    ),
    "no_generations": Mutation(
        (279, 1043),
        "AckIsDurable",
        _all_patched(
            _patched(common.core.journal.history, "common_prefix", _same_history),
            _patched(common.transport.push.producer, "check_start", _go_on),
        ),
    ),
    "nothing_left_behind": Mutation(
        (171, 32), "NothingTwice", _patched(common.core.journal.history, "_left_behind", _leave_nothing_behind)
    ),
    "no_append_ids": Mutation(
        (592, 30, 79), "NothingTwice", _patched(common.journal.memory.log, "append_local", _append_without_id)
    ),
    "no_progress_watch": Mutation((21, 83, 122), "Converges", _patched(_PushStream, "_watch_progress", _watch_nothing)),
    "clock_gives_age": Mutation((45, 496, 647), "AgesAreElapsed", _patched(AgeKeeper, "advance", _advance_by_the_wall)),
    "clock_gives_order": Mutation((35, 17, 9), "TimeMovesOn", _patched(append, "store", _store_by_the_clock)),
    "no_stated_ranges": Mutation((83, 8, 82), "NothingParked", _patched(StatedDeletions, "news", _state_nothing)),
    "drops_are_stated_late": Mutation(
        (600779803, 600779814, 600779865), "NothingParked", _patched(PushSource, "_unstated", _unstated_so_far)
    ),
    "gone_is_gone_for_ever": Mutation(
        (5, 25, 61),
        "NothingParked",
        _patched(common.core.journal.admission, "_are_gone", lambda *_arguments: False),
        plan_seed=910000108,
    ),
    "no_window": Mutation(
        (1, 9), "BoundsHeld", _patched(AdaptiveWindow, "room_bytes", property(lambda _window: 2**20))
    ),
    "no_continuity_of_backfill": Mutation(
        (12,),
        "SkippedIsStated",
        _patched(common.transport.subscription.commits, "admit_received", down.admit_backfill_without_continuity),
    ),
    "replay_goes_on_after_a_change": Mutation((140, 64, 96), "PlaceBehindEffect", _REPLAYS_GO_ON),
    # Only a replay with a gap shows it, so its source is one of those that leave gaps.
    "replay_forgets_its_gaps": Mutation(
        (140, 64, 96),
        "PlaceBehindEffect",
        _all_patched(
            _REPLAYS_GO_ON,
            _patched(common.transport.subscription.commits, "admit_received", down.admit_each_message_alone),
        ),
    ),
    "ring_past_the_head": Mutation(
        (7, 12), "NothingPastTheHead", _patched(MemoryConnections, "transaction", down.transaction_told_early)
    ),
    "index_forgets_who_leaves": Mutation(
        (1,), "PlaceBehindEffect", _patched(FilterIndex, "match", down.match_by_own_tags)
    ),
    "entering_brings_nothing": Mutation(
        (1, 4, 12), "SkippedIsStated", _patched(SourceStream, "_states_past", property(lambda _stream: True))
    ),
    "past_is_not_gone_back_to": Mutation(
        (4,),
        "Converges",
        _all_patched(
            _patched(_PageWriter, "must_go_back", lambda *_arguments: False),
            _patched(common.transport.subscription.replays, "entity_page", down.page_of_one),
        ),
    ),
    "snapshot_stands_for_what_it_is_not": Mutation(
        (16, 38, 51), "SnapshotsFitTheFilter", _patched(_PageWriter, "_may_stand", down.any_snapshot_may_stand)
    ),
    "beginning_is_forgotten": Mutation(
        (19, 20, 72),
        "NothingBeforeTheBeginning",
        _patched(common.transport.subscription.replays, "first_after", down.first_of_all),
    ),
    "order_time_is_now": Mutation(
        (135, 202),
        "NothingBeforeTheBeginning",
        _patched(common.transport.subscription.endpoint, "position_at", down.position_of_now),
    ),
    "wall_shows_what_leaves": Mutation((1,), "TenantsApart", _patched(Walled, "permits", down.permit_everything)),
    "wall_leaves_no_mark": Mutation((1,), "PlaceBehindEffect", _patched(Matched, "add", down.add_without_marks)),
    "waiting_is_not_kept": Mutation(
        (12,), "PlaceBehindEffect", _patched(MemorySubscriptions, "commit", down.commit_without_waiting)
    ),
    "place_before_effect": Mutation(
        (7, 4), "PlaceBehindEffect", _patched(MemorySubscriptions, "commit", down.commit_place_first)
    ),
    "progress_before_hand_over": Mutation(
        (28, 153), "PlaceBehindEffect", _patched(SubscriberCursor, "seen", down.seen_whatever_waits)
    ),
    "no_snapshots_of_deleted": Mutation(
        (108,), "DeletedIsStated", _patched(common.firehose.catch_ups, "find_deleted", down.find_nothing_deleted)
    ),
    "ranges_before_their_events": Mutation(
        (146, 16), "PassedIsBehind", _patched(FetchBuilder, "take", down.state_what_does_not_fit)
    ),
    "deleted_is_not_told": Mutation(
        (7,), "DeletedIsStated", _patched(common.transport.subscription.sinks, "with_deleted", down.inform_of_nothing)
    ),
    "covered_comes_again": Mutation((12, 18), "FoldIsWhole", _patched(Covered, "without", down.leave_out_nothing)),
    "snapshot_is_an_event": Mutation(
        (12, 18), "FoldIsWhole", _patched(common.projection.pages, "_flags_of", lambda *_arguments: NO_MARKS)
    ),
    "returned_stays_gone": Mutation(
        (5, 25, 61),
        "GoneIsGone",
        _patched(MemoryState, "cut_ranges", lambda *_arguments: None),
        plan_seed=910000108,
    ),
    "passed_is_passed": Mutation(
        (161, 53, 79),
        "EverythingSelected",
        _patched(common.transport.subscription.endpoint, "gone_back", lambda place, _history: place),
        plan_seed=1130000000,
    ),
    "no_poll": Mutation((16, 8, 30), "Converges", _patched(HeadSignal, "wait_news", _wait_for_the_prompt)),
}
