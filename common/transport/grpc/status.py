"""How a refusal travels in gRPC: one table each way between our errors and a status with trailing metadata.

Any gRPC client understands status and message; ours also reads `backhaul-code`, `backhaul-kind`,
`backhaul-hint` and `retry-after-s`. What is not a `BackhaulError` is answered as INTERNAL, and tells nothing
of our insides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grpclib.const import Status
from grpclib.metadata import decode_grpc_message, encode_grpc_message

from common.core.errors import CODE_PATTERN, BackhaulError, ErrorKind
from common.transport.link.call_status import status_of
from common.transport.stream import PeerClosed, PeerGone, PeerRefused

Headers = list[tuple[str, str]]

# What a status without our trailers most likely means.
KIND_OF_STATUS: Mapping[Status, ErrorKind] = {
    Status.NOT_FOUND: ErrorKind.NOT_FOUND,
    Status.ALREADY_EXISTS: ErrorKind.CONFLICT,
    Status.ABORTED: ErrorKind.CONFLICT,
    Status.FAILED_PRECONDITION: ErrorKind.CONFLICT,
    Status.PERMISSION_DENIED: ErrorKind.FORBIDDEN,
    Status.UNAUTHENTICATED: ErrorKind.FORBIDDEN,
    Status.RESOURCE_EXHAUSTED: ErrorKind.FULL,
    Status.UNAVAILABLE: ErrorKind.UNAVAILABLE,
    Status.DEADLINE_EXCEEDED: ErrorKind.UNAVAILABLE,
    Status.CANCELLED: ErrorKind.UNAVAILABLE,
    Status.INTERNAL: ErrorKind.INTERNAL,
    Status.UNKNOWN: ErrorKind.INTERNAL,
    Status.DATA_LOSS: ErrorKind.INTERNAL,
}
# Header lists are limited at the far end; a longer text is cut.
TEXT_MAX_CHARACTERS = 1000


def trailers_of(refusal: BackhaulError | None) -> Headers:
    """Trailing metadata that ends a call well (None) or with this refusal."""
    if refusal is None:
        return [("grpc-status", str(Status.OK.value))]
    status = Status[status_of(refusal)]
    trailers = [
        ("grpc-status", str(status.value)),
        ("grpc-message", encode_grpc_message(refusal.message[:TEXT_MAX_CHARACTERS])),
        ("backhaul-code", refusal.code),
        ("backhaul-kind", refusal.kind.value),
    ]
    if refusal.hint:
        trailers.append(("backhaul-hint", encode_grpc_message(refusal.hint[:TEXT_MAX_CHARACTERS])))
    if refusal.retry_after_s is not None:
        trailers.append(("retry-after-s", f"{refusal.retry_after_s:.3f}"))
    return trailers


def outcome_of_headers(headers: Iterable[tuple[str, str]]) -> BackhaulError | PeerClosed | None:
    """How a call has ended, if the response headers end it: they may be no gRPC, or headers and trailers in one."""
    fields = dict(headers)
    if fields.get(":status") != "200" or not fields.get("content-type", "").startswith("application/grpc"):
        return PeerGone(
            "link.not_backhaul",
            f"the peer answers HTTP, not gRPC: status {fields.get(':status')},"
            f" content type {fields.get('content-type')}",
            "is there a proxy in between, or another service on this port?",
        )
    return outcome_of_trailers(headers) if "grpc-status" in fields else None


def outcome_of_trailers(trailers: Iterable[tuple[str, str]]) -> BackhaulError | PeerClosed:
    """How the serving end has ended a call."""
    return refusal_from(trailers) or PeerClosed()


def refusal_from(trailers: Iterable[tuple[str, str]]) -> BackhaulError | None:
    """What the peer's trailing metadata says: None for a proper end, else the error to raise."""
    fields = dict(trailers)
    try:
        status = Status(int(fields["grpc-status"]))
    except (KeyError, ValueError):
        return PeerGone("link.not_backhaul", "the peer ended the call without a gRPC status", "is the address right?")
    if status is Status.OK:
        return None
    message = decode_grpc_message(fields.get("grpc-message", "")) or status.name
    code = fields.get("backhaul-code", "")
    if not CODE_PATTERN.fullmatch(code):
        if status is Status.UNIMPLEMENTED:
            return PeerGone("link.not_backhaul", f"the peer speaks gRPC but not this: {message}")
        code = "link.rejected"
        message = f"{status.name}: {message}"
    return PeerRefused(
        code,
        message,
        decode_grpc_message(fields.get("backhaul-hint", "")),
        status=status.name,
        kind=_kind_of(fields.get("backhaul-kind"), status),
        retry_after_s=_seconds(fields.get("retry-after-s")),
    )


def _kind_of(stated: str | None, status: Status) -> ErrorKind:
    try:
        return ErrorKind(stated or "")
    except ValueError:
        return KIND_OF_STATUS.get(status, ErrorKind.INVALID)


def _seconds(stated: str | None) -> float | None:
    try:
        seconds = float(stated or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
