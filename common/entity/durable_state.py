"""Entities kept as one value: read it, replace it if its revision is still the one that was read, ask by tag or column.

Every change is an event in the log under the entity's id (the value's type, or ``StateDeleted``), and its number is the
revision; the value's row is written in the same transaction. So the log is the change feed, the journal arbitrates between
writers as it does for events, and a deleted value's revisions go on. The tables are made for each definition and may be
read by anybody with ``Journal.query``.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeGuard, TypeVar, get_args, get_origin

from common.core.errors import FOREIGN, BackhaulError, ErrorKind
from common.core.events.batch import split_tags
from common.core.events.ids import check_name
from common.core.events.types import EventTypes, check_unique, is_message, named, place_of
from common.core.journal.statement import Statement
from common.entity.definition import is_frozen, listed, made

V = TypeVar("V")

ColumnValue = str | int | float | bool | None
COLUMN_TYPES: Final = frozenset({"TEXT", "BIGINT", "DOUBLE PRECISION", "BOOLEAN"})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_OWN: Final = ("persistence_id", "revision", "updated_us", "value_type", "codec", "payload", "metadata", "tags")
_OPERATORS: Final = frozenset({"=", "<", "<=", ">", ">=", "<>"})


@named("StateDeleted")
@dataclass(frozen=True)
class StateDeleted:
    """What the change feed has for a value that was deleted."""


Changes = Statement | Sequence[Statement] | None


class DurableState(ABC, Generic[V]):
    """The definition of one type of values; the type argument is the value's class."""

    entity_type: str
    columns: ClassVar[Mapping[str, str]] = {}
    """Columns to ask by, and their SQL types: TEXT, BIGINT, DOUBLE PRECISION or BOOLEAN."""
    columns_added: ClassVar[Sequence[Mapping[str, str]]] = ()
    """Columns of later versions, a step each; rows of before have NULL there until they are written again."""
    table: str = ""
    """The table's name; made of the entity type when not given."""
    migrations: ClassVar[Sequence[Sequence[str]]] = ()
    """Steps, each a list of SQL, that make the tables which ``changed`` writes; steps are only ever added."""

    value_type: type

    def __init_subclass__(cls) -> None:
        for base in vars(cls).get("__orig_bases__", ()):
            if get_origin(base) is DurableState:
                [cls.value_type] = get_args(base)

    def tags(self, value: V) -> Iterable[str]:
        """Tags of the value: it can be asked for by them, and its change carries them in the log."""
        return ()

    def column_values(self, value: V) -> Mapping[str, ColumnValue]:
        """What the declared columns hold for a value."""
        return {}

    def changed(self, now: Versioned[V]) -> Changes:
        """Statements for tables of the application, committed in the transaction of the change; pure.

        ``now`` is the value as it will stand, without one when it is deleted. Rows must belong to the entity: changes of
        several entities share a transaction, in no order between them. A statement that fails refuses this change alone.
        """
        return None


AnyState = DurableState[Any]


@dataclass(frozen=True, slots=True)
class Versioned(Generic[V]):
    """A value as it stands. ``value`` is None when there is none; the next change then expects ``revision`` all the same."""

    entity_id: str
    value: V | None
    revision: int
    updated_us: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on a declared column: ``Where("battery", "<", 20)``."""

    column: str
    operator: str
    value: str | int | float | bool


class StateDefinition:
    """A checked definition, its codec and its SQL."""

    def __init__(self, given: AnyState | type[AnyState], registry: EventTypes) -> None:
        """Adds the value's type to ``registry``.

        Raises:
            BackhaulError: ``state.bad_definition``, ``entity.invalid_name``, ``types.registered_twice``, ``types.unfit``.
        """
        state = made(given, DurableState, _bad)
        self.state = state
        self.registry = registry
        self.entity_type: str = getattr(state, "entity_type", "")
        check_name("entity type", self.entity_type)
        self.columns: dict[str, str] = dict(state.columns)
        for step in state.columns_added:
            self.columns.update(step)
        self.table = state.table or f"state_{re.sub(r'[^a-z0-9]+', '_', _snake(self.entity_type)).strip('_')}"
        self._check()
        registry.add(state.value_type)
        registry.add(StateDeleted)
        self.migration_name = f"state {self.entity_type}"
        self.own_tables_name = f"state {self.entity_type} tables"

    def _check(self) -> None:
        cls = type(self.state)
        if not hasattr(cls, "value_type"):
            raise _bad(cls, "does not say its value's class", f"write class {cls.__name__}(DurableState[Value])")
        if not is_message(cls.value_type) and not is_frozen(cls.value_type):
            raise _bad(cls, f"has a value, {place_of(cls.value_type)}, that can be changed in place",
                       "make it a dataclass(frozen=True)")  # fmt: skip
        for name in (self.table, *self.columns):
            if not _NAME.fullmatch(name):
                raise _bad(cls, f"has a table or column {name[:60]!r}", "use up to 40 of a-z, 0-9 and _")
        for name, sql_type in self.columns.items():
            if name in _OWN or sql_type not in COLUMN_TYPES:
                raise _bad(cls, f"has a column {name} {sql_type}",
                           f"not {', '.join(_OWN)}; its type one of {', '.join(sorted(COLUMN_TYPES))}")  # fmt: skip
        if not _is_list(self.state.migrations) or not all(map(_is_list, self.state.migrations)):
            raise _bad(cls, "has migrations that are no list of steps, each a list of SQL",
                       'write [["CREATE TABLE …"]]')  # fmt: skip
        if inspect.iscoroutinefunction(self.state.changed):
            raise _bad(cls, "has an async function as changed", "write a plain one that returns statements")

    @property
    def migrations(self) -> list[list[str]]:
        """The steps that bring its tables up, for ``ProjectionStore.migrate``."""
        first = (
            "persistence_id TEXT PRIMARY KEY, revision BIGINT NOT NULL, updated_us BIGINT NOT NULL,"
            " value_type TEXT NOT NULL, codec TEXT NOT NULL, payload BYTEA NOT NULL, metadata TEXT NOT NULL,"
            " tags TEXT NOT NULL"
        )
        own = "".join(f", {name} {sql_type}" for name, sql_type in self.state.columns.items())
        steps = [
            [
                f"CREATE TABLE {self.table} ({first}{own})",
                f"CREATE TABLE {self.table}_tag (tag TEXT NOT NULL, persistence_id TEXT NOT NULL,"
                " PRIMARY KEY (tag, persistence_id))",
                f"CREATE INDEX {self.table}_tag_of ON {self.table}_tag (persistence_id)",
                *map(self._index, self.state.columns),
            ]
        ]
        for added in self.state.columns_added:
            adding = [f"ALTER TABLE {self.table} ADD COLUMN {name} {sql_type}" for name, sql_type in added.items()]
            steps.append([*adding, *map(self._index, added)])
        return steps

    def _index(self, column: str) -> str:
        return f"CREATE INDEX {self.table}_by_{column} ON {self.table} ({column}, persistence_id)"

    def upserted(
        self, persistence_id: str, revision: int, updated_us: int, encoded: tuple[str, str, bytes, str], value: object,
        tags: Sequence[str],
    ) -> tuple[Statement, ...]:  # fmt: skip
        """Statements that make this the stored value."""
        names = (*_OWN, *self.columns)
        given = self._column_values(value)
        value_type, codec, payload, metadata = encoded
        doubles = {name for name, sql_type in self.columns.items() if sql_type == "DOUBLE PRECISION"}
        given = {name: float(v) if name in doubles and v is not None else v for name, v in given.items()}
        row = (persistence_id, revision, updated_us, value_type, codec, payload, metadata, "\x1f".join(tags),
               *(given.get(name) for name in self.columns))  # fmt: skip
        upsert = (
            f"INSERT INTO {self.table} ({', '.join(names)})"
            f" VALUES ({', '.join(f'${number}' for number in range(1, len(names) + 1))})"
            f" ON CONFLICT (persistence_id) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in names[1:])}"
        )
        return (Statement(upsert, [row]), *self._retagged(persistence_id, tags))

    def deleted(self, persistence_id: str) -> tuple[Statement, ...]:
        """Statements that remove the value."""
        delete = f"DELETE FROM {self.table} WHERE persistence_id = $1"
        return (Statement(delete, [(persistence_id,)]), *self._retagged(persistence_id, ()))

    def _retagged(self, persistence_id: str, tags: Sequence[str]) -> list[Statement]:
        if type(self.state).tags is DurableState.tags:
            return []
        found = [Statement(f"DELETE FROM {self.table}_tag WHERE persistence_id = $1", [(persistence_id,)])]
        if tags:
            rows = [(tag, persistence_id) for tag in tags]
            found.append(Statement(f"INSERT INTO {self.table}_tag (tag, persistence_id) VALUES ($1, $2)", rows))
        return found

    def _column_values(self, value: object) -> Mapping[str, ColumnValue]:
        try:
            given = self.state.column_values(value)
        except FOREIGN as error:
            raise _function_failed(self.state, "column_values", error) from error
        for name, content in given.items():
            if name not in self.columns or not (content is None or _fits(content, self.columns[name])):
                raise BackhaulError(
                    "state.function_failed",
                    f"{place_of(type(self.state).column_values)} gives {name!r} a {type(content).__name__}",
                    f"declared are {', '.join(f'{one} {sql}' for one, sql in self.columns.items()) or 'none'}",
                    kind=ErrorKind.INTERNAL,
                )
        return given

    def changes(self, now: Versioned[Any]) -> tuple[Statement, ...]:
        """What the application has done to its own tables with this change; raises ``state.function_failed``."""
        try:
            returned: object = self.state.changed(now)
        except FOREIGN as error:
            raise _function_failed(self.state, "changed", error) from error
        if returned is None:
            return ()
        if isinstance(returned, Statement):
            return (returned,)
        if _is_list(returned) and all(isinstance(one, Statement) for one in returned):
            return tuple(returned)
        raise BackhaulError(
            "state.function_failed",
            f"{place_of(type(self.state).changed)} returned {type(returned).__name__} instead of statements",
            "return a Statement, a list of them, or None; nothing was changed",
            kind=ErrorKind.INTERNAL,
        )

    def change_failed(self, error: BackhaulError) -> BackhaulError:
        """The refusal of a change whose statements the database did not take."""
        return BackhaulError(
            "state.change_failed",
            f"{place_of(type(self.state).changed)}: {error.message}",
            "correct the statements that it returns, or its migrations; nothing was changed",
            kind=ErrorKind.INTERNAL,
        )

    def tags_of(self, value: object) -> list[str]:
        """The value's tags, each once."""
        try:
            return list(dict.fromkeys(listed(self.state.tags(value))))
        except FOREIGN as error:
            raise _function_failed(self.state, "tags", error) from error

    def query(self, tag: str, where: Sequence[Where], after: str, max_rows: int) -> tuple[str, list[Any]]:
        """A query for values, by persistence id, and its arguments."""
        args: list[Any] = [after, max_rows]
        conditions = ["s.persistence_id > $1"]
        source = f"{self.table} AS s"
        if tag:
            args.append(tag)
            source += f" JOIN {self.table}_tag AS t ON t.persistence_id = s.persistence_id"
            conditions.append(f"t.tag = ${len(args)}")
        for one in where:
            sql_type = self.columns.get(one.column)
            if sql_type is None or one.operator not in _OPERATORS or not _fits(one.value, sql_type):
                columns = ", ".join(f"{name} {sql}" for name, sql in self.columns.items())
                raise BackhaulError(
                    "state.bad_query",
                    f"cannot ask {self.entity_type} for {one.column[:40]} {one.operator[:4]} {type(one.value).__name__}",
                    f"columns are {columns or 'none'}, operators {', '.join(sorted(_OPERATORS))}",
                )
            args.append(one.value)
            conditions.append(f"s.{one.column} {one.operator} ${len(args)}")
        columns = ", ".join(f"s.{name}" for name in _OWN)
        return (
            f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY s.persistence_id LIMIT $2",
            args,
        )

    def one(self) -> str:
        """The query for one value."""
        return f"SELECT {', '.join(_OWN)} FROM {self.table} WHERE persistence_id = $1"

    def versioned(self, row: Sequence[Any], prefix: str) -> Versioned[Any]:
        """A row as a value; raises what decoding does."""
        persistence_id, revision, updated_us, value_type, codec, payload, metadata, tags = row
        value = self.registry.decode(value_type, codec, payload, metadata)
        if type(value) is not self.state.value_type:
            raise BackhaulError(
                "types.unreadable",
                f"{persistence_id} holds a {value_type!r}, which is not {place_of(self.state.value_type)}",
                "name its old type in `formerly` of the class, with an upcaster",
                kind=ErrorKind.INTERNAL,
            )
        entity_id = persistence_id.partition("|")[2].removeprefix(prefix)
        return Versioned(entity_id, value, revision, updated_us, split_tags(tags))


def _is_list(given: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _fits(content: object, sql_type: str) -> bool:
    """Whether every database takes this value in such a column."""
    match sql_type:
        case "TEXT":
            return isinstance(content, str) and "\0" not in content
        case "BIGINT":
            return type(content) is int and -(2**63) <= content < 2**63
        case "BOOLEAN":
            return type(content) is bool
        case _:
            return type(content) in {int, float}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _bad(cls: type, what: str, hint: str) -> BackhaulError:
    return BackhaulError("state.bad_definition", f"{place_of(cls)} {what}", hint)


def _function_failed(state: AnyState, function: str, error: BaseException) -> BackhaulError:
    return BackhaulError(
        "state.function_failed",
        f"{place_of(getattr(type(state), function))} raised {type(error).__name__}: {error}",
        "correct the function; nothing was changed",
        kind=ErrorKind.INTERNAL,
    )


def define_states(states: Iterable[AnyState | type[AnyState]], registry: EventTypes) -> dict[str, StateDefinition]:
    """Definitions by entity type.

    Raises:
        BackhaulError: as ``StateDefinition``; ``application.name_taken`` when two have one entity type or one table.
    """
    found = [StateDefinition(given, registry) for given in states]
    check_unique("entity type", [(one.entity_type, type(one.state)) for one in found])
    check_unique("table", [(one.table, type(one.state)) for one in found])
    return {one.entity_type: one for one in found}
