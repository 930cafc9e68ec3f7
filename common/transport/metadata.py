"""Request metadata: the names and values that a caller sends with a call, the same on every carrier.

Bounded in entries and bytes at both ends, read-only for handlers. Values are printable ASCII; a name that ends in
``-bin`` keeps its value in the base64 that gRPC sends it in. Names that the carrier itself uses are not metadata.
Source: github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from common.core.errors import BackhaulError, ErrorKind

METADATA_MAX_ENTRIES: Final = 32
METADATA_MAX_BYTES: Final = 4 * 1024

NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})

_NAME: Final = re.compile(r"[a-z0-9_.-]+")
_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
# What every call has; looked up first.
_OF_CALLS: Final = frozenset((":method", ":scheme", ":path", ":authority", "te", "content-type", "user-agent"))
# What HTTP/2 forbids or gives a meaning of its own: a peer drops the whole connection for some of them.
_OF_HTTP: Final = frozenset(
    ("connection", "content-length", "host", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)


def check_metadata(metadata: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """The entries to send. Raises BackhaulError `link.metadata_invalid`, `link.metadata_too_large`."""
    for name, value in metadata.items():
        if not _NAME.fullmatch(name) or _is_reserved(name) or not _VALUE.fullmatch(value):
            raise BackhaulError(
                "link.metadata_invalid",
                f"{name[:80]!r} is not request metadata: {'a reserved name' if _is_reserved(name) else 'not plain text'}",
                "names are lower-case letters, digits, '_', '.' and '-', values printable ASCII",
            )
    _check_bounds(metadata)
    return metadata.items()


def metadata_of(headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The metadata among the headers of a request, read-only; values of a repeated name are joined by a comma.

    Raises BackhaulError `link.metadata_too_large`.
    """
    found = [(name, value) for name, value in headers if name not in _OF_CALLS and not _is_reserved(name)]
    if not found:
        return NO_METADATA
    metadata: dict[str, str] = {}
    if len(found) <= METADATA_MAX_ENTRIES:
        for name, value in found:
            metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
    _check_bounds(metadata, entries=len(found))
    return MappingProxyType(metadata)


def _is_reserved(name: str) -> bool:
    return name in _OF_CALLS or name in _OF_HTTP or name.startswith((":", "grpc-"))


def _check_bounds(metadata: Mapping[str, str], entries: int | None = None) -> None:
    count = len(metadata) if entries is None else entries
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if count > METADATA_MAX_ENTRIES or size > METADATA_MAX_BYTES:
        raise BackhaulError(
            "link.metadata_too_large",
            f"{count} entries of request metadata with {size} bytes; at most {METADATA_MAX_ENTRIES} and"
            f" {METADATA_MAX_BYTES} are taken",
            "send less with the call, and the rest as messages",
            kind=ErrorKind.TOO_LARGE,
        )
