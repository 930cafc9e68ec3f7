"""One entity in memory: its state, the commands that wait, and the append that is under way. No I/O; the runtime drives it.

    IDLE ── commands ──> COMMITTING ── stored ──> IDLE
    IDLE ── its state is not known, or other writers want a turn ──> ATTENDED ── read ──> IDLE
    COMMITTING ── another writer appended ─> IDLE (stale: its events are read, the same commands are decided again)
    COMMITTING ── the outcome is not known ──> ATTENDED ── the journal answers ──> IDLE

What waits while an append is under way is decided together when it is over and stored by one append: a hot entity is
not limited to one command a commit. Every command is answered by such an append, also one without events: it compares the
entity's number, so a rejection (or a read) is answered only when nobody had appended in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from typing import Any, Final

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import UNIT_SEPARATOR
from common.core.events.typed_json import write_json
from common.core.journal.append import LocalAppend
from common.entity.decisions import Answer, Decided, decide_all
from common.entity.definition import Definition

MARK_KEY: Final = "decision"


def marked(metadata: str, mark: str) -> str:
    """An event's metadata with the mark of the decision that made it."""
    own = f"{MARK_KEY}{UNIT_SEPARATOR}{mark}"
    return f"{metadata}{UNIT_SEPARATOR}{own}" if metadata else own


class Phase(Enum):
    """Who has an entity in hand."""

    IDLE = auto()
    COMMITTING = auto()
    ATTENDED = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Repeated:
    """The command's key was used before, by the append that gave these numbers; nothing was stored now."""

    seq_nrs: list[int]


class Asked:
    """One command and the task that waits for its answer. ``key`` is an idempotency key, or ''."""

    __slots__ = ("answer", "command", "deadline", "has_begun", "is_abandoned", "key", "name", "task")

    def __init__(self, name: str, command: object, key: str, deadline: float) -> None:
        self.name = name
        self.command = command
        self.key = key
        self.deadline = deadline
        self.answer: Answer | Repeated | BackhaulError | None = None
        self.task: trio.lowlevel.Task | None = None
        self.has_begun = False
        self.is_abandoned = False

    async def wait(self) -> Answer | Repeated:
        """The answer. Raises the error that was the answer."""
        if self.answer is None:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        else:
            await trio.lowlevel.checkpoint()
        assert self.answer is not None
        if isinstance(self.answer, BackhaulError):
            raise self.answer
        return self.answer

    def _abandon(self, _: Callable[[], Any]) -> trio.lowlevel.Abort:
        self.task = None
        self.is_abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED

    def give_up(self, error: BackhaulError) -> None:
        """Tell who waits that it took too long; what comes of the command is nobody's any more."""
        self.is_abandoned = True
        self.settle(error)

    def settle(self, answer: Answer | Repeated | BackhaulError) -> None:
        """Tell who waits, once."""
        if self.answer is None:
            self.answer = answer
            if self.task is not None:
                trio.lowlevel.reschedule(self.task)
                self.task = None

    def digest(self) -> bytes:
        """The digest by which a repeated key is known to come with the same command."""
        name = type(self.command).__qualname__.encode()
        content = (
            write_json(self.command) if hasattr(self.command, "__dataclass_fields__") else repr(self.command).encode()
        )
        return blake2b(name + b"\0" + content, digest_size=16).digest()


class CommandBatch:
    """Commands that were decided together, what they led to, and the append that makes it true."""

    __slots__ = ("asked", "decided", "mark", "request")

    def __init__(self, asked: list[Asked], decided: Decided, request: LocalAppend, mark: str) -> None:
        self.asked = asked
        self.decided = decided
        self.request = request
        self.mark = mark

    @property
    def is_awaited(self) -> bool:
        """Whether anybody still waits for an answer."""
        return not all(asked.is_abandoned for asked in self.asked)

    def settle(self) -> None:
        """What was decided is true: tell it."""
        for asked, answer in zip(self.asked, self.decided.answers, strict=True):
            asked.settle(answer)

    def fail(self, error: BackhaulError) -> None:
        """Tell everybody the same error."""
        for asked in self.asked:
            asked.settle(error)


class LiveEntity:
    """``state`` is that after event ``seq_nr``; what ``batch`` decided is not in it before it is stored."""

    __slots__ = (
        "batch",
        "contended_until",
        "definition",
        "is_alone",
        "is_new",
        "is_stale",
        "persistence_id",
        "phase",
        "seen_seq_nr",
        "seq_nr",
        "snapshot_seq_nr",
        "state",
        "used_at",
        "waiting",
    )

    def __init__(self, definition: Definition, persistence_id: str) -> None:
        self.definition = definition
        self.persistence_id = persistence_id
        self.state: Any = definition.entity.empty
        self.seq_nr = 0
        self.snapshot_seq_nr = 0
        self.seen_seq_nr = 0
        """A number that the journal said the entity has: a state from before it is not the present one."""
        self.is_new = True
        """Nothing was read yet, not even a snapshot."""
        self.is_stale = True
        """There may be events that are not in the state."""
        self.is_alone = False
        """It is not to be read together with others: it has more events, or a fault."""
        self.contended_until = 0.0
        """Until when another writer is to get its turns, in trio's time."""
        self.phase = Phase.IDLE
        self.waiting: deque[Asked] = deque()
        self.batch: CommandBatch | None = None
        self.used_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a caller waits for it, so that it must stay in memory."""
        return bool(self.waiting) or self.batch is not None

    def decide(self, mark: str, commands_max: int, event_max_bytes: int) -> CommandBatch | None:
        """Decide what waits (at most ``commands_max``) and begin to commit; None when nobody waits any more.

        A command with an idempotency key is stored by an append of its own.
        """
        asked = self._next(commands_max)
        if not asked:
            return None
        decided = decide_all(self.definition, self.state, self.seq_nr, [one.command for one in asked], event_max_bytes)
        events = decided.events
        if events:
            events.metadata[0] = marked(events.metadata[0], mark)
        key = asked[0].key if events else ""
        request = LocalAppend(
            events.batch(self.persistence_id),
            {self.persistence_id: self.seq_nr},
            key,
            asked[0].digest() if key else b"",
        )
        self.batch = CommandBatch(asked, decided, request, mark)
        self.phase = Phase.COMMITTING
        return self.batch

    def _next(self, commands_max: int) -> list[Asked]:
        asked: list[Asked] = []
        waiting = self.waiting
        while waiting and len(asked) < commands_max:
            if waiting[0].key and asked:
                break
            one = waiting.popleft()
            if one.is_abandoned:
                continue
            one.has_begun = True
            asked.append(one)
            if one.key:
                break
        return asked

    def stored(self) -> bool:
        """The append succeeded: its events are part of the state. Whether it is a moment for a snapshot."""
        batch = self._over()
        self.state, self.seq_nr = batch.decided.state, batch.decided.seq_nr
        batch.settle()
        every = self.definition.entity.snapshot_every
        due = batch.decided.wants_snapshot or (every > 0 and self.seq_nr - self.snapshot_seq_nr >= every)
        return due and self.seq_nr > self.snapshot_seq_nr

    def repeats(self, seq_nrs: list[int]) -> None:
        """The command's key was used before: nothing was stored, the state is as it was."""
        for asked in self._over().asked:
            asked.settle(Repeated(seq_nrs))

    def refused(self, error: BackhaulError) -> None:
        """Nothing of the append counts, and repeating it does not help; what came of it is read again."""
        self.is_stale = True
        self._over().fail(error)

    def overtaken(self, actual_seq_nr: int) -> None:
        """Another writer appended: what was decided is void, and decided again before all that waits."""
        self.waiting.extendleft(reversed(self._over().asked))
        self.is_stale = True
        self.seen_seq_nr = max(self.seen_seq_nr, actual_seq_nr)

    def _over(self) -> CommandBatch:
        batch, self.batch, self.phase = self.batch, None, Phase.IDLE
        assert batch is not None
        return batch

    def fail(self, error: BackhaulError) -> None:
        """Tell everybody who waits the same error; the entity is not used again."""
        if self.batch is not None:
            self._over().fail(error)
        self.phase = Phase.GONE
        self.stop(error)

    def stop(self, error: BackhaulError) -> None:
        """Begin nothing more. Callers of an append that is under way are answered by the commit."""
        while self.waiting:
            self.waiting.popleft().settle(error)
