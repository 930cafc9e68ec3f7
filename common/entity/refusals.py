"""Refusals of commands; faults of the application's own functions are in ``decisions``."""

from __future__ import annotations

from collections.abc import Iterable

from common.core.errors import BackhaulError, ErrorKind
from common.core.journal.append import AppendRefused
from common.entity.decisions import Rejected


def leaves_doubt(error: BackhaulError) -> bool:
    """Whether what failed may have been stored all the same."""
    return error.kind is ErrorKind.UNAVAILABLE and error.code != "journal.closing"


def rejected(answer: Rejected) -> BackhaulError:
    """An entity's decision against a command, where it is an error."""
    return BackhaulError(
        "entity.rejected",
        answer.reason,
        "look at the state, then decide again",
        kind=ErrorKind.CONFLICT,
        details={"seq_nr": answer.seq_nr},
    )


def unknown_type(entity_type: str, known: Iterable[str]) -> BackhaulError:
    """No such definition."""
    return BackhaulError(
        "entity.unknown_type",
        f"there are no entities of type {entity_type[:80]!r} here",
        f"known are {', '.join(sorted(known)) or 'none'}",
        kind=ErrorKind.NOT_FOUND,
    )


def unknown_command(command: str, entity_type: str, known: Iterable[str]) -> BackhaulError:
    """The entity has no such command."""
    return BackhaulError(
        "entity.unknown_command",
        f"{command[:80]} is not a command of {entity_type}",
        f"its commands are {', '.join(known)}",
        kind=ErrorKind.NOT_FOUND,
    )


def busy(name: str) -> BackhaulError:
    """A bound on what may wait is reached."""
    return BackhaulError(
        "entity.busy",
        f"too many commands wait, for {name} or in all",
        "send fewer at a time; the same command may be accepted later",
        retry_after_s=0.5,
    )


def refused(refusal: AppendRefused) -> BackhaulError:
    """The journal refused the append for a reason that another decision does not mend."""
    return BackhaulError(
        refusal.code,
        refusal.message,
        "see docs/errors.md",
        kind=ErrorKind.CONFLICT,
        details={"entity": refusal.persistence_id},
    )


def stopping() -> BackhaulError:
    """The service ends."""
    return BackhaulError(
        "entity.stopping", "the service is stopping", "repeat the command when it is back", retry_after_s=1.0
    )


def too_late(name: str, *, has_begun: bool) -> BackhaulError:
    """The deadline passed, before the command's turn came or while it was being stored."""
    if has_begun:
        return BackhaulError(
            "entity.outcome_unknown",
            f"{name} did not answer in time; the command may still take effect",
            "repeat it with the same idempotency key, or look at the state",
            retry_after_s=1.0,
        )
    return BackhaulError(
        "entity.deadline",
        f"{name} did not come to the command in time; it has no effect",
        "the same command may be accepted later",
        retry_after_s=1.0,
    )
