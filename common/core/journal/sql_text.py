"""What a statement's text says of its parameters, on every database alike; an application's SQL is read, never changed.

PostgreSQL knows each parameter's type and asyncpg checks most values against it; SQLite takes any value anywhere. So the
columns that parameters stand for are found in the text, as far as it names them plainly: values of an INSERT, assignments,
comparisons, limits. A parameter within an expression has no type here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<dollars>\$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?P=tag)?\$)
    |\$(?P<number>\d+)
    |(?P<word>[^\W\d]\w*)
    |(?P<other>\d[\w.]*|<>|<=|>=|!=|\|\||::|.)""",
    re.VERBOSE | re.DOTALL,
)
_COMPARISONS: Final = frozenset({"=", "<>", "!=", "<", ">", "<=", ">="})
# What may stand before a column or behind a parameter without making an expression of it.
_AROUND: Final = frozenset({"", ",", "(", ")", ";", "set", "where", "and", "or", "on", "not", "when", "then", "else", "end",
                            "returning", "order", "group", "limit", "offset", "having", "union", "from", "do"})  # fmt: skip
_TABLE_AFTER: Final = frozenset({"into", "update", "from", "join"})
PARAMETERS_MAX: Final = 32_766
"""As many as SQLite takes."""

_WHOLE: Final = "BIGINT"


@dataclass(frozen=True, slots=True)
class SqlText:
    """A text that was looked through: its parameters are ``$1`` to ``$n``, each once or more."""

    parameters: int
    problem: str
    """Why the text is none that every database takes, or ''."""
    tables: tuple[str, ...]
    columns: tuple[tuple[int, str], ...]
    """Parameter and the column that it is compared with or assigned to."""
    placed: tuple[tuple[int, str, int], ...]
    """Parameter, table and index of the column it is inserted into, where the INSERT names no columns."""
    limits: tuple[int, ...]
    """Parameters that are a LIMIT or OFFSET."""
    is_in_order: bool = False
    """Whether it is one statement whose parameters first appear as $1, $2 …: a row's values are in SQLite's order."""


@lru_cache(2048)
def read_sql(sql: str) -> SqlText:
    """What is known of a text, whatever its tables are."""
    tokens = list(_tokens(sql))
    numbers = sorted({int(token[1:]) for token in tokens if token[0] == "$"})
    problem = ""
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > PARAMETERS_MAX:
        found = ", ".join(f"${number}" for number in numbers[:20])
        problem = f"has the parameters {found}: they are $1, $2 … without a hole"
    elif "?" in tokens:
        problem = "has a parameter written as ?: write $1, $2 …"
    if problem:
        return SqlText(len(numbers), problem, (), (), (), ())
    tables = [after for token, after in pairwise(tokens) if token in _TABLE_AFTER]
    columns, placed = [], []
    for number, table, name, index in _inserted(tokens):
        if name:
            columns.append((number, name))
        else:
            placed.append((number, table, index))
    columns += _compared(tokens)
    limits = [int(after[1:]) for token, after in pairwise(tokens)
              if token in {"limit", "offset"} and after[0] == "$"]  # fmt: skip
    is_in_order = ";" not in tokens and list(dict.fromkeys(token for token in tokens if token[0] == "$")) == [
        f"${number}" for number in numbers
    ]
    return SqlText(
        len(numbers), problem, tuple(dict.fromkeys(tables)), tuple(columns), tuple(placed), tuple(limits), is_in_order
    )


def _tokens(sql: str) -> Iterator[str]:
    """Words in lower case, quoted names bare, parameters as ``$n``, texts as ``'``, punctuation as it is."""
    for found in _TOKEN.finditer(sql):
        match found.lastgroup:
            case "word":
                yield found[0].lower()
            case "quoted":
                yield found[0][1:-1].replace('""', '"')
            case "number":
                yield found[0]
            case "text" | "dollars":
                yield "'"
            case "other":
                yield found[0]


def _inserted(tokens: Sequence[str]) -> Iterator[tuple[int, str, str, int]]:
    """Parameters that are whole values of an INSERT: number, table, column's name or '', index."""
    for start, token in enumerate(tokens):
        if token != "into" or start + 2 >= len(tokens):
            continue
        table, position = tokens[start + 1], start + 2
        if tokens[position : position + 1] == ["as"]:
            position += 2
        names: list[str] = []
        if tokens[position : position + 1] == ["("]:
            end = tokens.index(")", position) if ")" in tokens[position:] else len(tokens)
            names = [name for name in tokens[position + 1 : end] if name != ","]
            position = end + 1
        if tokens[position : position + 1] != ["values"]:
            continue
        for index, value in _values(tokens, position + 1):
            if len(value) == 1 and value[0][0] == "$" and (not names or index < len(names)):
                yield int(value[0][1:]), table, names[index] if names else "", index


def _values(tokens: Sequence[str], position: int) -> Iterator[tuple[int, list[str]]]:
    """Each value of ``(…), (…)`` with its index in its row."""
    depth, index = 0, 0
    value: list[str] = []
    for token in tokens[position:]:
        if token == "(":
            depth += 1
            if depth == 1:
                index, value = 0, []
                continue
        elif token == ")":
            depth -= 1
            if depth == 0:
                yield index, value
                continue
        elif depth == 0 and token != ",":
            return
        elif depth == 1 and token == ",":
            yield index, value
            index, value = index + 1, []
            continue
        value.append(token)


def _compared(tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Parameters in ``column = $1`` and the like, where nothing around makes an expression of it."""
    padded = ["", "", "", *tokens, ""]
    for at in range(3, len(padded) - 1):
        if padded[at][:1] != "$" or padded[at - 1] not in _COMPARISONS or padded[at + 1] not in _AROUND:
            continue
        name = padded[at - 2]
        before = padded[at - 5] if padded[at - 3] == "." and at >= 5 else padded[at - 3]
        if before in _AROUND and name.isidentifier():
            yield int(padded[at][1:]), name


def parameter_types(text: SqlText, tables: dict[str, dict[str, str]]) -> list[str]:
    """The declared type of each parameter's column in upper case, '' where it is not known; ``tables``: column → type."""
    found: list[set[str]] = [set() for _ in range(text.parameters)]
    for number, name in text.columns:
        types = {columns[name] for table in text.tables if name in (columns := tables.get(table, {}))}
        found[number - 1] |= types if types else {""}
    for number, table, index in text.placed:
        declared = list(tables.get(table, {}).values())
        found[number - 1].add(declared[index] if index < len(declared) else "")
    for number in text.limits:
        found[number - 1].add(_WHOLE)
    return [types.pop() if len(types) == 1 else "" for types in found]


# -- definitions ---------------------------------------------------------------------------------------------------
_NOT_PORTABLE: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    *(((word,), f"SQLite has no {word.upper()}: write BIGINT, and give the number yourself")
       for word in ("serial", "bigserial", "smallserial")),
    *(((word,), f"SQLite has no {word.upper()}: store microseconds as BIGINT") for word in ("timestamptz", "interval")),
    *(((word,), f"it is not the same on every database: store {word.upper()} as TEXT, or microseconds as BIGINT")
      for word in ("timestamp", "datetime", "date", "time")),
    *(((word,), f"SQLite has no {word.upper()}: store it as TEXT") for word in ("jsonb", "json", "uuid", "inet", "hstore")),
    *(((word,), f"{word.upper()} loses digits on SQLite: store it as TEXT, or whole numbers as BIGINT")
      for word in ("numeric", "decimal", "money")),
    (("blob",), "PostgreSQL has no BLOB: write BYTEA"),
    (("autoincrement",), "PostgreSQL has no AUTOINCREMENT: give the number yourself"),
    (("integer", "primary", "key"), "only SQLite numbers rows of an INTEGER PRIMARY KEY: write BIGINT, and give the number"),
    (("generated", "always", "as", "identity"), "SQLite has no identity columns: give the number yourself"),
    (("generated", "by", "default"), "SQLite has no identity columns: give the number yourself"),
    (("without", "rowid"), "PostgreSQL has no WITHOUT ROWID: leave it out"),
    (("[",), "SQLite has no arrays: store them as rows, or as TEXT"),
    (("::",), "SQLite has no casts with ::, write CAST(… AS …)"),
    (("using", "gin"), "SQLite has no such index"),
    (("using", "gist"), "SQLite has no such index"),
    (("create", "extension"), "SQLite has no extensions of PostgreSQL"),
    (("create", "sequence"), "SQLite has no sequences: give the number yourself"),
    (("create", "type"), "SQLite has no types of one's own: store it as TEXT"),
    (("create", "virtual"), "PostgreSQL has no virtual tables"),
    (("pragma",), "PostgreSQL has no PRAGMA"),
    (("insert", "or"), "PostgreSQL has no INSERT OR …: write ON CONFLICT"),
    (("now", "("), "SQLite has no now(): give the time as a value"),
)  # fmt: skip


def portability_problem(sql: str) -> str:
    """What one of the databases would not take, or take otherwise, in a definition; '' when nothing is known of it."""
    tokens = list(_tokens(sql))
    for words, what in _NOT_PORTABLE:
        for start in range(len(tokens) - len(words) + 1):
            is_name = words[0].isidentifier() and start and tokens[start - 1] in {"(", ",", "column", "table", "exists"}
            if tuple(tokens[start : start + len(words)]) == words and not is_name:
                return what
    return ""
