"""Which right a request of a local door needs: programs' or operators'; probes need none. And what one door gives.

Decided by the path alone, before a route is looked for, and closed by default: a path under ``/v1/`` that is not
named here is an operator's, so a new route is never open by being forgotten.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from common.core.errors import BackhaulError, ErrorKind
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

    Events, commands, states and snapshots are in the journal with their content; an ack of the inbox frees rows for good, and
    a snapshot that is deleted is gone.
    """
    if method in SAFE_METHODS:
        return False
    return (
        right_for(path) is Right.OPERATORS
        or path.startswith("/v1/inbox/")
        or (method == "DELETE" and path.startswith("/v1/snapshots/"))
    )


@dataclass(frozen=True, slots=True)
class Access:
    """What one door gives: the rights that are asked for here, and the token of each right that has one."""

    rights: frozenset[Right] = frozenset(Right)
    tokens: Mapping[Right, str] = field(default_factory=dict)

    def refusal(self, right: Right, authorization: str) -> BackhaulError | None:
        """Why a request that needs this right is refused, or None. `authorization` is the header's text.

        Codes: ``auth.other_door``, ``auth.token_refused``.
        """
        if right not in self.rights:
            return BackhaulError(
                "auth.other_door",
                f"what {right.value} may do is not asked for at this door",
                f"ask at the door of {right.value}: the setting {right.value}_door has its address",
                kind=ErrorKind.FORBIDDEN,
            )
        token = self.tokens.get(right)
        if token is None or hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            return None
        what = "is not the one" if authorization else "is missing"
        return BackhaulError(
            "auth.token_refused",
            f"the token of {right.value} {what}",
            f"send the header `authorization: Bearer …` with the text of the file in {right.value}_token",
            kind=ErrorKind.FORBIDDEN,
        )

    def token_name(self, right: Right) -> str:
        """What a request is called in the audit that this door let in by a token; empty without one."""
        return right.value if right in self.tokens else ""
