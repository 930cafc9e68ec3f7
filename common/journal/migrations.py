"""Numbered schema steps of a journal's database, which of them are still to be run, and its server functions.

A step is a file ``sql/<database>/NNNN_name.sql`` of this package. Numbers begin at 1 and have no holes; a step that was
ever released is never edited. Every database keeps the numbers it has run in its table ``schema_version``; the storage
runs the pending ones under its own lock, each in one transaction with its row there.

A function that grows with the schema stands once, as it is now, in ``sql/<database>/functions``; it is made anew after any
step, in the same transaction. So a change of such a function comes with a step, be it one that changes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from common.core.errors import ConfigurationError

_FILE_NAME = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One schema step: ``sql`` may hold many statements."""

    version: int
    name: str
    sql: str


@cache
def load_migrations(database: str) -> tuple[Migration, ...]:
    """The steps shipped for ``database`` (``"sqlite"`` or ``"postgres"``), in order."""
    folder = files("common.journal") / "sql" / database
    return ordered({entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.is_file()})


def load_functions(database: str) -> tuple[str, ...]:
    """The server functions as they are with all steps run; each replaces what it finds."""
    folder = files("common.journal") / "sql" / database / "functions"
    return tuple(entry.read_text("utf-8") for entry in sorted(folder.iterdir(), key=lambda entry: entry.name))


def ordered(texts: Mapping[str, str]) -> tuple[Migration, ...]:
    """Steps from file names and their texts; a wrong name or a hole is a mistake of ours, so it is asserted."""
    steps = []
    for file_name in sorted(texts):
        match = _FILE_NAME.fullmatch(file_name)
        assert match, f"not a migration's file name: {file_name!r}"
        steps.append(Migration(int(match[1]), match[2], texts[file_name]))
    versions = [step.version for step in steps]
    assert versions == list(range(1, len(steps) + 1)), f"migrations are not numbered 1, 2, 3 …: {versions}"
    return tuple(steps)


def pending(known: Sequence[Migration], applied: Iterable[int]) -> Sequence[Migration]:
    """The steps still to be run on a database that has run ``applied``.

    Raises:
        ConfigurationError: ``journal.schema_newer`` when the database has seen a later version of this program.
    """
    done = max(applied, default=0)
    check_not_newer("the journal", done, len(known))
    return known[done:]


def check_not_older(what: str, stored: int, known: int) -> None:
    """Refuse tables that are still to be migrated, where this process may not do it.

    Raises:
        ConfigurationError: ``journal.schema_older``.
    """
    if stored < known:
        raise ConfigurationError(
            "journal.schema_older",
            f"{what} has schema version {stored}, this program needs {known}, and migrations = check",
            hint="run `cloud-service migrate` of this version, with its application, as the role that owns the tables",
            details={"stored": stored, "known": known},
        )


def check_not_newer(what: str, stored: int, known: int) -> None:
    """Refuse tables that a later version has changed: this one cannot know what they mean.

    Raises:
        ConfigurationError: ``journal.schema_newer``.
    """
    if stored > known:
        raise ConfigurationError(
            "journal.schema_newer",
            f"{what} has schema version {stored}, this program knows up to {known}",
            hint="start the version that wrote it, or a later one",
            details={"stored": stored, "known": known},
        )
