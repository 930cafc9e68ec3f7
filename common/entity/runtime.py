"""Runs a service's event-sourced entities: commands in, events through the journal's one writer, answers out.

The usual way has no task of its own: who asks decides at once when the entity is in memory and idle, takes a place in
the group commit, and is woken by the commit. Only what needs the journal first (recovery, a conflict, an append in doubt)
goes through ``_attend``, a few tasks that take such entities one after the other. Commands to one entity are decided in
the order in which they were asked; entities do not wait for each other. Any number of nodes may run the same entities.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Final, NoReturn

import outcome
import structlog
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import new_persistence_id, persistence_id
from common.core.flow.measures import LatencyHistogram
from common.core.journal.append import Appended, AppendOutcome, AppendRefused, LocalAppend
from common.entity import refusals
from common.entity.decisions import READ_STATE, Accepted, Answer, Current, Rejected, decide_all
from common.entity.definition import Definition
from common.entity.live import Asked, LiveEntity, Phase, Repeated
from common.entity.recovery import bring_up, bring_up_together, state_at, take_together, was_stored
from common.entity.settings import EntitySettings
from common.entity.snapshots import SnapshotWriter
from common.journal.group_commit import GroupCommit
from common.journal.stores.journal import Journal
from common.watchdog import Watchdog

_log = structlog.get_logger()

# An append with this expectation is never stored: it only asks whether its id was used.
_NEVER: Final = 2**62


@asynccontextmanager
async def open_entities(
    journal: Journal,
    commit: GroupCommit,
    definitions: Mapping[str, Definition],
    settings: EntitySettings,
    *,
    node: str,
    chance: Random,
    watchdog: Watchdog | None = None,
    id_prefix: str = "",
) -> AsyncIterator[Entities]:
    """The entities of ``definitions`` while the block runs. ``node`` is unique among all that write to the journal.

    ``id_prefix`` is put before every entity id (an edge's own). A caller that still waits at the end gets ``entity.stopping``.
    """
    entities = Entities(
        journal, commit, definitions, settings, node=node, chance=chance, watchdog=watchdog, id_prefix=id_prefix
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(entities.run)
        try:
            yield entities
        finally:
            nursery.cancel_scope.cancel()


class Entities:
    """See ``open_entities``. ``run`` is started by its owner; ``ask`` and ``look`` are for everybody."""

    def __init__(
        self,
        journal: Journal,
        commit: GroupCommit,
        definitions: Mapping[str, Definition],
        settings: EntitySettings,
        *,
        node: str,
        chance: Random,
        watchdog: Watchdog | None = None,
        id_prefix: str = "",
    ) -> None:
        self.definitions = definitions
        self.conflicts = 0
        """Decisions that were made again because another writer was first."""
        self.latency = LatencyHistogram()
        """Of commands that were answered, also with a rejection."""
        self._journal = journal
        self._commit = commit
        self._settings = settings
        self._node = node
        self._chance = chance
        self._watchdog = watchdog or Watchdog()
        self._id_prefix = id_prefix
        self._live: OrderedDict[str, LiveEntity] = OrderedDict()
        self._asked: set[Asked] = set()
        self._asking = trio.lowlevel.ParkingLot()
        self._marks = 0
        self._is_closed = False
        self._to_attend: deque[LiveEntity] = deque()
        self._attention = trio.lowlevel.ParkingLot()
        self._again: deque[LiveEntity] = deque()
        self._more = trio.lowlevel.ParkingLot()
        self._snapshots = SnapshotWriter(
            journal, settings.snapshots_waiting_max, settings.retry_s, settings.snapshots_kept
        )

    @property
    def cached(self) -> int:
        """Entities in memory."""
        return len(self._live)

    # -- asking ----------------------------------------------------------------------------------------------------
    async def ask(
        self, entity_type: str, entity_id: str, command: object, *, key: str = "", deadline_s: float | None = None
    ) -> Accepted | Rejected:
        """Have the entity decide on a command; answered when what it decided is on disk.

        With ``key`` a repeat is answered as the first time, without deciding again. Cancelled, the command may still
        take effect, unless it has not begun.

        Raises:
            BackhaulError: ``entity.invalid_name``, ``entity.unknown_type``, ``entity.unknown_command``,
                ``entity.busy``, ``entity.deadline`` (nothing was begun), ``entity.outcome_unknown``,
                ``entity.stopping``, the application's faults, and what the journal raises.
        """
        definition = self._definition(entity_type)
        if type(command) not in definition.commands:
            raise refusals.unknown_command(type(command).__qualname__, entity_type, definition.commands.names)
        name = new_persistence_id(entity_type, entity_id, self._id_prefix)
        # A key belongs to its entity: it is used as an append id, which all of the journal shares.
        asked = Asked(name, command, f"{name} {key}" if key else "", self._deadline(deadline_s))
        began_s = trio.current_time()
        answer = await self._answer(definition, asked)
        self.latency.add(trio.current_time() - began_s)
        if key and isinstance(answer, Accepted | Rejected) and not (isinstance(answer, Accepted) and answer.events):
            # Nothing was stored with the key now, so it may be the state after the first time that says no.
            answer = await self._used_before(asked) or answer
        if isinstance(answer, Repeated):
            return await self._repeat_of(definition, name, command, answer.seq_nrs)
        assert isinstance(answer, Accepted | Rejected)
        return answer

    async def look(self, entity_type: str, entity_id: str, *, deadline_s: float | None = None) -> Current:
        """The present state, as of a moment within this call; raises as ``ask``."""
        definition = self._definition(entity_type)
        name = persistence_id(entity_type, entity_id, self._id_prefix)
        answer = await self._answer(definition, Asked(name, READ_STATE, "", self._deadline(deadline_s)))
        assert isinstance(answer, Current)
        return answer

    def _definition(self, entity_type: str) -> Definition:
        definition = self.definitions.get(entity_type)
        if definition is None:
            raise refusals.unknown_type(entity_type, self.definitions)
        return definition

    def _deadline(self, deadline_s: float | None) -> float:
        return trio.current_time() + (self._settings.deadline_s if deadline_s is None else deadline_s)

    async def _answer(self, definition: Definition, asked: Asked) -> Answer | Repeated:
        if self._is_closed:
            raise refusals.stopping()
        entity = self._entity(definition, asked.name)
        if len(self._asked) >= self._settings.waiting_max or len(entity.waiting) >= self._settings.entity_waiting_max:
            raise refusals.busy(asked.name)
        if not self._asked:
            self._asking.unpark()
        self._asked.add(asked)
        try:
            entity.waiting.append(asked)
            self._step(entity)
            return await asked.wait()
        finally:
            self._asked.discard(asked)

    async def _used_before(self, asked: Asked) -> Repeated | None:
        probe = LocalAppend(EventBatch(), {asked.name: _NEVER}, asked.key, asked.digest())
        outcome = await self._commit.append(probe)
        if isinstance(outcome, Appended):
            return Repeated(outcome.seq_nr)
        assert isinstance(outcome, AppendRefused)
        if outcome.code == "append.id_reused":
            raise refusals.refused(outcome)
        return None

    async def _repeat_of(self, definition: Definition, name: str, command: object, seq_nrs: list[int]) -> Accepted:
        """The answer to the first use of a key: deciding is pure, so it is what the state of then leads to."""
        reply: object = None
        try:
            state = await state_at(self._journal, definition, name, seq_nrs[0] - 1, self._watchdog)
            again = decide_all(definition, state, seq_nrs[0] - 1, [command], self._settings.event_max_bytes)
            [first] = again.answers
            reply = first.reply if isinstance(first, Accepted) else None
        except BackhaulError as error:
            # The past is gone (a snapshot covers it); that the command was accepted is known all the same.
            _log.info("entity.reply_lost", entity=name, seq_nr=seq_nrs[0], code=error.code, reason=error.message)
        return Accepted(reply, seq_nrs[-1], len(seq_nrs), repeated=True)

    # -- one entity's turn -------------------------------------------------------------------------------------------
    def _entity(self, definition: Definition, name: str) -> LiveEntity:
        entity = self._live.get(name)
        if entity is None:
            entity = self._live[name] = LiveEntity(definition, name)
            if len(self._live) > self._settings.cached_max:
                self._passivate()
        else:
            self._live.move_to_end(name)
        entity.used_at = trio.current_time()
        return entity

    def _passivate(self) -> None:
        """Let the one that was used longest ago go; busy ones stay, there are no more of them than commands wait."""
        for _ in range(len(self._live)):
            name, entity = self._live.popitem(last=False)
            if not entity.is_busy and entity.phase is Phase.IDLE:
                return
            self._live[name] = entity

    def _step(self, entity: LiveEntity) -> None:
        """Go on with an entity that commands wait for; what needs the journal first is left to the attendants."""
        if entity.phase is not Phase.IDLE or not entity.waiting:
            return
        if entity.is_stale or self._commit.is_full or entity.contended_until > trio.current_time():
            self._attend_to(entity)
        else:
            self._decide(entity)

    def _attend_to(self, entity: LiveEntity) -> None:
        entity.phase = Phase.ATTENDED
        self._to_attend.append(entity)
        self._attention.unpark()

    def _decide(self, entity: LiveEntity) -> None:
        settings = self._settings
        self._marks += 1
        self._watchdog.begin(entity.definition.decide_place)
        try:
            batch = entity.decide(f"{self._node}.{self._marks}", settings.append_commands_max, settings.event_max_bytes)
        finally:
            self._watchdog.end()
        if batch is None:
            return
        try:
            is_taken = self._commit.submit_nowait(batch.request, partial(self._settled, entity))
        except BackhaulError as error:
            self._drop(entity, error)
        else:
            assert is_taken, "there is room: nothing was awaited since that was seen"

    def _settled(self, entity: LiveEntity, result: outcome.Outcome[AppendOutcome]) -> None:
        """What became of an entity's append; called by the task that committed."""
        if isinstance(result, outcome.Error):
            error = result.error
            assert isinstance(error, BackhaulError), error
            if refusals.leaves_doubt(error):
                self._attend_to(entity)
                return
            entity.refused(error)
        else:
            self._settle(entity, result.unwrap())
        if entity.waiting:
            # Not at once: callers that were just answered may have more for it.
            self._again.append(entity)
            self._more.unpark()

    def _settle(self, entity: LiveEntity, outcome: AppendOutcome) -> None:
        if isinstance(outcome, Appended):
            if outcome.repeated:
                entity.repeats(outcome.seq_nr)
            elif entity.stored():
                self._snapshots.add(entity)
            return
        assert isinstance(outcome, AppendRefused), outcome
        if outcome.code != "append.wrong_expected_seq_nr":
            entity.refused(refusals.refused(outcome))
            return
        self.conflicts += 1
        entity.overtaken(outcome.actual)
        entity.contended_until = trio.current_time() + self._settings.contended_s

    # -- tasks -----------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Attend to entities until cancelled; a caller that waits then gets ``entity.stopping``."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._step_again)
                nursery.start_soon(self._keep_deadlines)
                nursery.start_soon(self._forget_idle)
                nursery.start_soon(self._snapshots.run)
                for _ in range(self._settings.recoveries):
                    nursery.start_soon(self._attend)
        finally:
            self._is_closed = True
            stopping = refusals.stopping()
            for entity in self._live.values():
                entity.stop(stopping)

    async def _keep_deadlines(self) -> NoReturn:
        """One task for all: a cancel scope a command would cost as much as deciding it."""
        while True:
            while not self._asked:
                await self._asking.park()
            await trio.sleep(self._settings.deadline_look_s)
            now = trio.current_time()
            for asked in [asked for asked in self._asked if asked.deadline <= now]:
                asked.give_up(refusals.too_late(asked.name, has_begun=asked.has_begun))

    async def _step_again(self) -> NoReturn:
        while True:
            while not self._again:
                await self._more.park()
            self._step(self._again.popleft())

    async def _forget_idle(self) -> NoReturn:
        while True:
            await trio.sleep(self._settings.idle_s / 4)
            self._forget_unused(trio.current_time() - self._settings.idle_s)

    def _forget_unused(self, since: float) -> None:
        while self._live:
            name, entity = next(iter(self._live.items()))
            if entity.used_at > since or entity.is_busy or entity.phase is not Phase.IDLE:
                break
            del self._live[name]

    async def _attend(self) -> NoReturn:
        while True:
            while not self._to_attend:
                await self._attention.park()
            # A function of its own: what it had in hand is not kept in memory until there is more to do.
            await self._attend_some(take_together(self._to_attend))

    async def _attend_some(self, entities: list[LiveEntity]) -> None:
        if len(entities) > 1:
            await bring_up_together(self._journal, entities, self._watchdog)
            for entity in filter(lambda entity: entity.is_stale, entities):
                self._attend_to(entity)
            entities = [entity for entity in entities if not entity.is_stale]
        for entity in entities:
            await self._attend_one(entity)

    async def _attend_one(self, entity: LiveEntity) -> None:
        try:
            await self._make_ready(entity)
        except BackhaulError as error:
            self._drop(entity, error)
        else:
            entity.phase = Phase.IDLE
            if entity.waiting:
                self._decide(entity)

    async def _make_ready(self, entity: LiveEntity) -> None:
        """All that an entity may have to wait for before it decides."""
        if entity.batch is not None:
            await self._resolve(entity)
            entity.phase = Phase.ATTENDED
        elif not entity.is_stale and entity.contended_until > trio.current_time():
            await trio.sleep(self._chance.uniform(0, self._settings.contended_pause_s))
            entity.is_stale = True
        if entity.is_stale:
            await bring_up(self._journal, entity, self._watchdog)
        await self._commit.wait_room()

    async def _resolve(self, entity: LiveEntity) -> None:
        """Find out what became of an append that went unanswered: it is repeated until the journal says.

        The entity's number lets it be stored once only; if that was the first time, its mark is on the event.
        """
        batch = entity.batch
        assert batch is not None
        while batch.is_awaited:
            await trio.sleep(self._settings.retry_s)
            try:
                outcome = await self._commit.append(batch.request)
                is_new = isinstance(outcome, Appended) and not outcome.repeated
                if not is_new and await was_stored(self._journal, entity.persistence_id, entity.seq_nr, batch.mark):
                    entity.stored()
                    entity.is_stale = True
                    return
            except BackhaulError as error:
                if refusals.leaves_doubt(error):
                    continue
                entity.refused(error)
                return
            self._settle(entity, outcome)
            return
        entity.overtaken(entity.seq_nr)  # nobody waits for it: it is enough to read what there is

    def _drop(self, entity: LiveEntity, error: BackhaulError) -> None:
        """Answer everybody with the error and forget the entity: the next command starts it from the journal."""
        if error.kind is ErrorKind.INTERNAL:
            _log.error(
                "entity.failed",
                entity=entity.persistence_id,
                code=error.code,
                reason=error.message,
                hint=error.hint,
                details=error.details,
                repeat_key=f"{entity.definition.entity_type} {error.code}",
            )
        if self._live.get(entity.persistence_id) is entity:
            del self._live[entity.persistence_id]
        entity.fail(error)
