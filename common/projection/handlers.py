"""What a projection does with events, as the application writes it: one function in one of five forms, and its tables.

``statements`` and ``each`` are pure: they return SQL, which is buffered and committed together with the projection's
offset, so each event takes effect exactly once and the function need not be idempotent. What depends on an earlier
value is written as SQL (``count = t.count + excluded.count``), or done by ``in_transaction``, a plain function that reads and
writes within that transaction, under a deadline. ``effect`` is an async function for effects elsewhere: the offset is
saved after it, so after a crash some events come again; ``act`` is one that is also given the running application, for
effects on its own entities and durable state.

One SQL text serves SQLite and PostgreSQL: parameters are ``$1``, ``$2`` …; columns are ``TEXT``, ``BIGINT``,
``DOUBLE PRECISION``, ``BOOLEAN`` and ``BYTEA``, by which SQLite stores a ``bytes`` value unchanged; an upsert names the
old row by the table and the new one by ``excluded``. Values are checked against text and columns on every storage alike
(``common.core.journal.statement.check_rows``); only a parameter inside an expression is not, on SQLite. An integer must
stay below 2**63.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

from common.core.errors import ConfigurationError
from common.core.events.batch import Envelope, EventBatch
from common.core.events.ids import text_problem
from common.core.events.stated_range import StatedRange
from common.core.journal.statement import Statement
from common.core.schedule import time_us
from common.journal.tables import Tables

_NAME_MAX_BYTES = 128
LOG: Final = "log"
SNAPSHOTS: Final = "snapshots"
NOW: Final = "now"


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a handler sees it: ``value`` is what its payload means, ``envelope`` all that goes with it.

    ``value`` is ``Unknown`` where the application has no type of this name, and bytes where it has no types at all. It
    is None in a leaving mark: the entity has left what may be seen here, and only its number is known.
    """

    value: Any
    envelope: Envelope
    leaving: bool = False
    """With it its entity leaves the filter: nothing more comes of it until it is back."""
    replaces: bool = False
    """It is a snapshot: it stands for all events of its entity up to its number, and some of them never came."""
    restarts: bool = False
    """It is no event but a mark (``value`` is None): the entity's events behind this number come again, in their order."""
    deleted: StatedRange | None = None
    """It is no event but a mark (``value`` is None): these numbers were deleted before they came."""

    @property
    def entity_id(self) -> str:
        """The id without the entity type."""
        return self.envelope.persistence_id.partition("|")[2]


class OnFailure(StrEnum):
    """What becomes of an event that the handler cannot digest, ``attempts`` times in a row."""

    RETRY = "retry"  # the range waits for it, for ever, with backoff
    PARK = "park"  # it is set aside, and later events of its entity queue behind it; the rest flows on
    SKIP = "skip"  # it is left out for good, stated in the log and counted; the rest flows on
    STOP = "stop"  # the projection is paused until an operator resumes it


Returned = Statement | Sequence[Statement] | None
FORMS = ("statements", "each", "in_transaction", "effect", "act")
_ASYNC_FORMS = (["effect"], ["act"])


@dataclass(frozen=True, slots=True)
class Handler:
    """A projection: its name, its tables, and a function in exactly one of the five forms.

    ``migrations`` holds the steps that bring the tables up, each a list of SQL statements; steps are only ever added.
    A function gets events in log order and only those of one range of slices: rows it writes must belong to an entity,
    since another node may write those of other slices at the same time.
    """

    name: str
    migrations: Sequence[Sequence[str]] = ()
    statements: Callable[[EventBatch], Sequence[Statement]] | None = None
    """Columns of at least one event → statements."""
    _: KW_ONLY
    each: Callable[[Event], Returned] | None = None
    """One event → its statements; None for an event that means nothing here."""
    in_transaction: Callable[[Tables, Event], None] | None = None
    """Runs inside the transaction, in a thread of the storage: reads and writes with ``tables``, waits for nothing else."""
    effect: Callable[[Event], Awaitable[None]] | None = None
    """At least once: sends, calls, publishes."""
    act: Callable[[Any, Event], Awaitable[None]] | None = None
    """At least once, with the running application (``Running``) first: asks entities, changes durable state."""
    entity_types: frozenset[str] = frozenset()
    """Only events of these; empty for all."""
    group_events: int | None = None
    """Most events in one commit (else a page of the log; for ``in_transaction`` and ``effect`` 100)."""
    group_wait_s: float = 0.0
    """At the end of the log, how long to wait for a group to fill; 0 commits what there is."""
    deadline_s: float = 5.0
    """A group's time in ``statements``, ``each`` and ``in_transaction``, an event's in ``effect`` and ``act``."""
    on_failure: OnFailure = OnFailure.RETRY
    attempts: int = 3
    parked_max: int = 10_000
    """Most events of each range set aside; when so many are, the next one is retried instead."""
    reset: Sequence[str] = ()
    """SQL that empties the tables, for ``projections reset``; without it a reset is refused."""
    snapshots: bool = False
    """Takes an entity's snapshot (``Event.replaces``) in the place of events that are deleted. Without it a projection over
    the own log that needs such events stops, and a stream is not taken where it brings a snapshot. Of ``statements``, whose
    columns do not say what a snapshot is, it means that the last event of an entity is all that is kept."""
    start_from: str = "log"
    """Where a new projection over the own log begins, and one that is reset: ``log``, its beginning; ``snapshots``, the latest
    of each entity and what came after them; ``now``, its end; or behind an order time, RFC 3339 with a zone."""
    sees_deleted: bool = False
    """Called also with ``Event.deleted`` for what retention removed before it came and no snapshot stands for."""
    restarts: bool = False
    """Over a stream: an entity may begin again (a filter includes it from a lower number): then it is called with
    ``Event.restarts`` first. Without it such a filter is refused."""
    start: Callable[[], Awaitable[None]] | None = None
    """Async; before this process gives the handler its first event, and again after a failure: opens what it needs."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Async, within 2 s; behind the last event, also after a failure: closes what ``start`` opened."""
    is_quick: bool = False
    """Never long and never waiting: called where the service's own code runs, and not in a thread."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ConfigurationError(
                "projection.invalid_handler",
                f"projection {self.name!r} {problem}",
                "give a name, and one function as statements=, each=, in_transaction=, effect= or act=",
            )

    @property
    def function(self) -> Callable[..., Any]:
        """The one function, whatever its form."""
        given: list[Callable[..., Any]] = [getattr(self, form) for form in FORMS if getattr(self, form) is not None]
        return given[0]

    def bound(self, running: object) -> Handler:
        """As it runs in a service: what acts has the running application."""
        return self if self.act is None else replace(self, act=None, effect=partial(self.act, running))


def steps_problem(migrations: Sequence[Sequence[str]]) -> str:
    """What is wrong with a definition's migrations, or ''."""
    if _is_list(migrations) and all(_is_list(step) for step in migrations):
        return ""
    return 'has migrations that are no list of steps, each a list of SQL: [["CREATE TABLE …"]]'


def _is_list(given: object) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _problem(handler: Handler) -> str:
    name_problem = text_problem(handler.name, _NAME_MAX_BYTES) if handler.name else "is empty"
    if name_problem or "/" in handler.name or ":" in handler.name:
        return f"has a name that {name_problem or 'contains a slash or a colon'}"
    given = [form for form in FORMS if getattr(handler, form) is not None]
    if len(given) != 1:
        return f"has {len(given)} functions ({', '.join(given) or 'none'})"
    if handler.start_from == SNAPSHOTS and not handler.snapshots:
        return "is to start from snapshots, which it does not take: snapshots=True"
    if handler.start_from not in (LOG, SNAPSHOTS, NOW) and time_us(handler.start_from) is None:
        return (
            f"starts from {handler.start_from!r}: log, snapshots, now, or RFC 3339 with a zone (2026-05-04T03:02:01Z)"
        )
    if handler.sees_deleted and handler.statements is not None:
        return "sees_deleted, but the columns of statements= have no marks"
    if handler.restarts and handler.statements is not None:
        return "takes restarts, but the columns of statements= have no marks"
    if steps_problem(handler.migrations):
        return steps_problem(handler.migrations)
    if not _is_list(handler.reset):
        return 'has a reset that is no list of SQL: ["DELETE FROM …"]'
    is_async = inspect.iscoroutinefunction(handler.function)
    if is_async and given not in _ASYNC_FORMS:
        return f"has an async function as {given[0]}=, which must be a plain one"
    if not is_async and given in _ASYNC_FORMS and inspect.isfunction(handler.function):
        return f"has a plain function as {given[0]}=, which must be async"
    for hook in ("start", "stop"):
        function = getattr(handler, hook)
        if function is not None and not inspect.iscoroutinefunction(function):
            return f"has a plain function as {hook}=, which must be async"
    if min(handler.attempts, handler.deadline_s, handler.group_events or 1) <= 0 or handler.group_wait_s < 0:
        return "has a bound that is not above 0"
    return ""
