"""What a failure in the kit says: the error, and what the application's own code raised, which no log of a service quotes."""

from __future__ import annotations

from common.core.errors import BackhaulError


def why(error: BackhaulError) -> str:
    """The error in words, with the text of what it came from."""
    cause = error.__cause__
    while isinstance(cause, BackhaulError) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error.message} [{error.code}]"
    return f"{text}: {cause}" if cause is not None and str(cause) else text
