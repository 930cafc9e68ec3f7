"""Which right a request to the HTTP port needs: programs' or operators'; probes need none.

Decided by the path alone, before a route is looked for, and closed by default: a path under ``/v1/`` that is not
named here is an operator's, so a new route is never open by being forgotten.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from common.core.policy.doors import PROBE_PATHS

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_PROGRAMS: Final = frozenset({"events", "where", "inbox", "entities", "states", "snapshots", "latest", "tally"})


class Right(StrEnum):
    """Whose door a path belongs to."""

    PROBES = "probes"
    PROGRAMS = "programs"
    OPERATORS = "operators"


def right_for(path: str) -> Right:
    """The right that a request of this path needs. Paths outside ``/v1/`` and ``/status`` are an application's own."""
    if path in PROBE_PATHS:
        return Right.PROBES
    _, _, rest = path.partition("/")
    version, _, rest = rest.partition("/")
    if version not in ("v1", "status"):
        return Right.PROGRAMS
    return Right.PROGRAMS if version == "v1" and rest.partition("/")[0] in _OF_PROGRAMS else Right.OPERATORS


def is_audited(method: str, path: str) -> bool:
    """Whether the request gets an audit line: it can change something, and the journal does not record it by itself.

    Events, commands, states and snapshots are in the journal with their content; an ack of the inbox frees rows for good.
    """
    if method in SAFE_METHODS:
        return False
    return right_for(path) is Right.OPERATORS or path.startswith("/v1/inbox/")
