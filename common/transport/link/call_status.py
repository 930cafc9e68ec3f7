"""What a handler's end means for its caller, the same on every carrier: a proper end, a refusal, or our failure.

Groups are taken apart; a `BackhaulError` is a refusal and reaches the caller with its code; anything else is
answered as `link.handler_failed`, which reveals no internals, and is logged once with its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import structlog
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.transport.stream import PeerClosed, PeerGone

log = structlog.get_logger()

_STATUS_OF_KIND: Mapping[ErrorKind, str] = {
    ErrorKind.INVALID: "INVALID_ARGUMENT",
    ErrorKind.FORBIDDEN: "PERMISSION_DENIED",
    ErrorKind.NOT_FOUND: "NOT_FOUND",
    ErrorKind.CONFLICT: "ABORTED",
    ErrorKind.TOO_LARGE: "RESOURCE_EXHAUSTED",
    ErrorKind.FULL: "RESOURCE_EXHAUSTED",
    ErrorKind.UNAVAILABLE: "UNAVAILABLE",
    ErrorKind.INTERNAL: "INTERNAL",
}
# Where gRPC has a word of its own for one of our codes.
_STATUS_OF_CODE: Mapping[str, str] = {
    "link.message_compressed": "UNIMPLEMENTED",
    "link.unknown_method": "UNIMPLEMENTED",
    "link.deadline_exceeded": "DEADLINE_EXCEEDED",
}


def status_of(refusal: BackhaulError) -> str:
    """The gRPC status that a refusal is answered with."""
    return _STATUS_OF_CODE.get(refusal.code) or _STATUS_OF_KIND[refusal.kind]


def stopping() -> BackhaulError:
    """The status of a call that still runs when its server stops."""
    return PeerGone("link.stopping", "the service is stopping", "dial again")


def outcome_of(error: BaseException, *, peer: str, path: str) -> BackhaulError | None:
    """What to tell the caller about what came out of a handler: None for a proper end. Logs one line.

    Raises a cancellation on, also out of a group that holds other errors too: it belongs to an outer scope.
    """
    leaves = [leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)]
    if not leaves:
        raise error
    if leaves and all(isinstance(leaf, PeerClosed) for leaf in leaves):
        return None
    if leaves and all(isinstance(leaf, BackhaulError) for leaf in leaves):
        refusal = first_refusal(error)
        log.warning(
            "call.refused",
            peer=peer,
            path=path,
            code=refusal.code,
            reason=refusal.message,
            repeat_key=f"{path} {refusal.code}",
        )
        return refusal
    log.error("call.failed", peer=peer, path=path, exc_info=error, repeat_key=path)
    if isinstance(error, BaseExceptionGroup):
        cancelled, _ = error.split(trio.Cancelled)
        if cancelled is not None:
            raise cancelled
    return BackhaulError("link.handler_failed", "the service failed", "see its log", kind=ErrorKind.INTERNAL)


def first_refusal(error: BaseException) -> BackhaulError:
    """The one to tell of several refusals that came together; there must be one.

    A broken link is what the other errors of a group come from, or come with: a refusal says more.
    """
    refusals = [leaf for leaf in _leaves(error) if isinstance(leaf, BackhaulError)]
    return min(refusals, key=lambda leaf: isinstance(leaf, PeerGone))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
