"""The error of every refusal.

An error names a stable code, what was wrong and what to do about it, so that the same thing can be
answered over HTTP, sent in a gRPC status, logged in one line and looked up in `docs/errors.md`. The code is a
literal at the place that raises it (a test compares those with the catalogue); it never changes its meaning.
Outcomes that a caller decides on (a verdict, a refused append) are returned values, not exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

Detail = str | int | float | bool | None

CODE_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")


class ErrorKind(StrEnum):
    """What the one who asked can do about it; HTTP and gRPC each map it to one status."""

    INVALID = "invalid"  # the same request will never be accepted
    FORBIDDEN = "forbidden"  # not for this identity
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # look at the present state, then decide again
    TOO_LARGE = "too_large"
    FULL = "full"  # no room now; others must take something away first
    UNAVAILABLE = "unavailable"  # the same request may succeed later
    INTERNAL = "internal"  # our fault


FOREIGN: Final = (Exception, SystemExit)
"""What an application's function may raise and that stays its own affair: ending the process is not for it to decide."""


class BackhaulError(Exception):
    """Something was refused or cannot go on; `code` says what, `hint` says what to do.

    `details` is small and fit for a log line: names, sizes, positions, never a payload or a secret.
    `retry_after_s` is set when the same request may succeed later without anybody changing anything; it makes
    the kind `UNAVAILABLE` unless one is named. Otherwise an error is bad input: `INVALID`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        kind: ErrorKind | None = None,
        details: Mapping[str, Detail] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        assert CODE_PATTERN.fullmatch(code), f"not a dotted lower-case code: {code!r}"
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.hint = hint
        self.kind = kind or (ErrorKind.INVALID if retry_after_s is None else ErrorKind.UNAVAILABLE)
        self.details: dict[str, Detail] = dict(details or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        document = f"{self.message} [{self.code}]"
        return f"{document}: {self.hint}" if self.hint else document

    def as_dict(self) -> dict[str, object]:
        """The shape of the `error` object in every JSON answer."""
        document: dict[str, object] = {"code": self.code, "message": self.message}
        if self.hint:
            document["hint"] = self.hint
        if self.details:
            document["details"] = self.details
        if self.retry_after_s is not None:
            document["retry_after_s"] = self.retry_after_s
        return document


class ConfigurationError(BackhaulError):
    """The operator must change something before the service can start: exit status 2."""


def reason_of(error: OSError) -> str:
    """The system's words for an error. Those that asyncio makes when a peer goes have none."""
    gone = "the peer ended the connection" if isinstance(error, ConnectionError) else type(error).__name__
    return error.strerror or str(error) or gone
