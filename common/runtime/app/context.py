"""What an application's own routes and acting handlers may use of the service that runs it.

The application names this protocol and the running service implements it, so that neither module imports the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from common.entity.definition import AnyEntity, EventSourced
from common.entity.durable_state import AnyState, DurableState
from common.entity.runtime import Entities
from common.entity.states import States
from common.entity.typed import EntitiesOf, StatesOf
from common.journal.stores.journal import Journal
from common.journal.tables import SqlValue
from common.projection.progress import ProjectionProgress
from common.runtime.intake import Intake

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
V = TypeVar("V")


class Running(Protocol):
    """A running application, as its own code sees it."""

    @property
    def journal(self) -> Journal:
        """The service's own journal."""

    @property
    def intake(self) -> Intake:
        """Where events of programs are appended, with the edge's prefix."""

    @property
    def entities(self) -> Entities:
        """Commands to entities by the names of their types."""

    @property
    def states(self) -> States:
        """Durable states by the names of their types."""

    @property
    def now_us(self) -> Callable[[], int]:
        """The service's clock, in UTC microseconds."""

    @property
    def progress(self) -> list[ProjectionProgress]:
        """The ranges of projections as this node runs them."""

    async def query(self, sql: str, *args: SqlValue) -> list[tuple[Any, ...]]:
        """Rows of the application's tables. Raises ``projection.statement_failed`` and what the journal raises."""

    @overload
    def of(self, what: type[EventSourced[S, C, E]]) -> EntitiesOf[S, C]: ...

    @overload
    def of(self, what: type[DurableState[V]]) -> StatesOf[V]: ...

    def of(self, what: type[AnyEntity] | type[AnyState]) -> EntitiesOf[Any, Any] | StatesOf[Any]:
        """Entities or durable state of one type, typed. Raises on use when the application has no such type."""
