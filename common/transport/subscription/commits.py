"""What a subscription brings takes effect: judge, have the sink say what is stored, store it with the place.

Known numbers are read for the entities at hand and remembered while the stream lasts: only the holder of the lease
changes them. Entities that wait for a replay are all kept in memory, up to a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.restart import restart_marks
from common.core.events.stated_range import StatedRange
from common.core.subscription.consumer import admit_received, effect_of
from common.core.subscription.messages import Deliver
from common.core.subscription.place import ResumePoint, Subscription
from common.core.subscription.restarts import begins_again
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import ReceivedCommit
from common.transport.subscription.sinks import Effect, Sink, Taken, merged
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState

_log = structlog.get_logger()

_KNOWN_MAX = 50_000
_AWAITING_MAX = 100_000
_FULL_PAUSE_S = 0.5
_FULL = frozenset({"inbox.full", "journal.full", "journal.disk_full"})


class ReceiveCommitter:
    """The store's side of one conversation. ``stored`` is the subscription as it was when that began."""

    def __init__(
        self,
        journal: Journal,
        lease: Lease,
        sink: Sink,
        settings: SubscriptionSettings,
        state: SubscriptionState,
        stored: Subscription,
    ) -> None:
        self._journal = journal
        self._lease = lease
        self._sink = sink
        self._settings = settings
        self._state = state
        self._stored = stored
        self._place = stored.place
        self._revision = stored.revision
        self._kept_s = trio.current_time()
        self._known: dict[str, int] = {}
        self._awaiting: dict[str, None] = {}
        self._missed: dict[str, int] = {}
        self._parked: set[str] = set()

    async def begin(self, place: ResumePoint) -> None:
        """Read who waits, and store the place that the source goes on from if that is another one."""
        waiting = await self._journal.subscriptions.awaiting(self._settings.name, _AWAITING_MAX)
        self._awaiting = {name: None for name, _ in waiting}
        self._known = dict(waiting)
        self._state.received = self._stored.received
        self._place = place
        if place != self._stored.place:
            await self.keep_place(always=True)
        self._tell()

    @property
    def is_place_kept(self) -> bool:
        """Whether the present place is the stored one."""
        return self._place == self._stored.place

    @property
    def place_kept_s(self) -> float:
        """When a place was stored last."""
        return self._kept_s

    def moved(self, place: ResumePoint) -> None:
        """The place has gone on and nothing else: it is stored with the next effect, or alone after a while."""
        self._place = place
        self._tell()

    async def keep_place(self, *, always: bool = False) -> None:
        """Store the place alone, if it is not."""
        if always or not self.is_place_kept:
            await self._commit(ReceivedCommit(self._place))

    def to_replay(self, most: int, but: set[str]) -> list[tuple[str, int]]:
        """Entities to ask for again, with the number to begin from; not those ``but``."""
        found: list[tuple[str, int]] = []
        for name in self._awaiting:
            if len(found) >= most:
                break
            if name not in but and name not in self._parked:
                found.append((name, self._known.get(name, 0) + 1))
        return found

    async def take(self, deliveries: Sequence[Deliver], place: ResumePoint) -> list[str]:
        """Let deliveries take effect, all in one commit; the entities whose replay has ended."""
        await self._learn(deliveries)
        waiting = _Waiting(self._awaiting)
        known: dict[str, int] = {}
        awaiting: dict[str, bool] = {}
        parts: list[Taken] = []
        for message in deliveries:
            received = admit_received(message, self._known, waiting, self._missed)
            known |= received.known
            awaiting |= received.awaiting
            self._state.repeated += received.repeated
            for name in received.parked:
                self._park(name)
            self._parked.difference_update(name for name, waits in received.awaiting.items() if not waits)
            if received.accepted or received.passed:
                parts.append(Taken(*effect_of(message, received), tuple(received.passed), place))
        if len(self._awaiting) > _AWAITING_MAX:
            raise BackhaulError(
                "subscription.too_many_gaps",
                f"more than {_AWAITING_MAX} entities wait for a replay",
                "nothing to do: the stream begins anew and replays them; report it if it comes again",
                kind=ErrorKind.FULL,
                retry_after_s=5.0,
            )
        taken = merged(parts) if parts else None
        effect = await self._sink.prepare(taken) if taken else Effect()
        commit = ReceivedCommit(
            place,
            known,
            awaiting,
            effect.inbox,
            effect.leaving,
            effect.replaces,
            effect.append,
            effect.statements,
            received=len(taken.events) if taken else 0,
            deleted=taken.deleted if taken else (),
        )
        await self._commit(commit)
        self._place = place  # not before: what a sink fails with has not brought anybody further
        if taken:
            self._state.received += len(taken.events)
            self._tell_deleted(taken.deleted)
        self._tell_gaps(awaiting)
        self._tell()
        return [message.replay_of for message in deliveries if message.replay_done]

    async def begin_again(self, starts: Mapping[str, int], place: ResumePoint) -> bool:
        """A filter that took effect at ``place`` asks for entities from lower numbers than it has stated before.

        What is known of them is set back and the sink is given restart marks, in one commit with the place. False when
        nothing is known that is asked for again, or the sink does not take it: then only the place has moved.
        """
        known = await self._journal.subscriptions.known(self._settings.name, list(starts))
        first = begins_again(starts, known)
        if first and not self._sink.takes_restarts:
            _log.warning("subscription.restart_refused", entities=len(first), persistence_id=next(iter(first)))
            first = {}
        if not first:
            self.moved(place)
            return False
        self._place = place
        effect = await self._sink.prepare(Taken(restart_marks(first), frozenset(), frozenset(), (), place))
        reset, awaiting = {name: number - 1 for name, number in first.items()}, dict.fromkeys(first, True)
        await self._commit(ReceivedCommit(place, reset, awaiting, inbox=effect.inbox, statements=effect.statements))
        name, number = next(iter(first.items()))
        _log.info("subscription.entity_restarted", entities=len(first), persistence_id=name, from_seq_nr=number)
        return True

    def leave(self) -> None:
        """The conversation is over."""
        self._tell()

    async def _learn(self, deliveries: Sequence[Deliver]) -> None:
        """Read the known numbers of entities that are new here."""
        names = {name for message in deliveries for name in message.events.persistence_id}
        names.update(stated.persistence_id for message in deliveries for stated in message.ranges)
        missing = sorted(names.difference(self._known))
        if not missing:
            return
        if len(self._known) + len(missing) > _KNOWN_MAX:
            self._known = {name: self._known[name] for name in self._awaiting if name in self._known}
            missing = sorted(names.difference(self._known))
        self._known |= await self._journal.subscriptions.known(self._settings.name, missing)

    async def _commit(self, commit: ReceivedCommit) -> None:
        """Store it. What is full for a moment is tried again for a while: an acknowledgement may be about to make room."""
        settings, until_s = self._settings, trio.current_time() + self._settings.progress_timeout_s / 2
        while True:
            try:
                self._revision = await self._journal.subscriptions.commit(
                    settings.name,
                    self._lease,
                    self._revision,
                    commit,
                    settings.lease_s,
                    inbox_max_bytes=settings.inbox_max_bytes,
                )
                break
            except BackhaulError as error:
                if error.code not in _FULL or trio.current_time() >= until_s:
                    raise
                _log.warning("subscription.full", code=error.code, reason=error.message, repeat_key=error.code)
                await trio.sleep(_FULL_PAUSE_S)
        self._kept_s = trio.current_time()
        self._stored = replace(self._stored, place=commit.place, revision=self._revision)
        self._state.committed.raise_to(self._revision)

    def _park(self, name: str) -> None:
        if name not in self._parked:
            self._parked.add(name)
            _log.error(
                "subscription.entity_parked",
                persistence_id=name,
                known=self._known.get(name, 0),
                repeat_key=name,
            )

    def _tell_deleted(self, ranges: Sequence[StatedRange]) -> None:
        if not ranges:
            return
        count = sum(stated.to_seq_nr - stated.from_seq_nr + 1 for stated in ranges)
        self._state.deleted += count
        first = ranges[0]
        _log.warning(
            "subscription.deleted",
            events=count,
            entities=len({stated.persistence_id for stated in ranges}),
            persistence_id=first.persistence_id,
            from_seq_nr=first.from_seq_nr,
            to_seq_nr=first.to_seq_nr,
            reason=first.reason,
            repeat_key=first.reason,
        )

    def _tell_gaps(self, awaiting: dict[str, bool]) -> None:
        begun = sum(awaiting.values())
        if begun:
            _log.info("subscription.gap", entities=begun, awaiting=len(self._awaiting), repeat_key="gap")

    def _tell(self) -> None:
        place, state = self._place, self._state
        state.position = place.live.position
        state.backfill_position = place.backfill.position if place.backfill else -1
        state.applied_version = place.applied.version
        state.timestamp_us = place.live.timestamp_us or state.timestamp_us
        state.awaiting = len(self._awaiting)


class _Waiting:
    """The entities that wait, as a set that keeps the order in which they came."""

    def __init__(self, names: dict[str, None]) -> None:
        self._names = names

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        self._names[name] = None

    def discard(self, name: str) -> None:
        self._names.pop(name, None)
