"""Heads of HTTP/1.1 requests in their plainest form: a POST of one stated length, and nothing about the connection.

A head is plain or it is not; what is wrong with one that is not, if anything, is for a whole parser to say. Everything by
which two readers of one connection have ever disagreed about where a request ends is left to it: chunks, two lengths, a
header twice, folded lines, a bare line feed, space around a name or behind a value, odd characters, other versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HEAD_END: Final = b"\r\n\r\n"
PLAIN_HEAD_MAX_BYTES: Final = 4096

_FIELD: Final = rb"([-A-Za-z0-9]++): ([!-~]++(?: [!-~]++)*+)\r\n"
_FIELDS: Final = re.compile(_FIELD)
# A path of letters that stand for themselves: nothing to decode, no query.
_HEAD: Final = re.compile(rb"POST (/[-./_A-Za-z0-9]*+) HTTP/1\.1\r\n((?:" + _FIELD + rb")++)\r\n")
_LENGTH: Final = re.compile(rb"[1-9][0-9]{0,9}+")
_OF_THE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_STAYS_OPEN: Final = b"keep-alive"


@dataclass(frozen=True, slots=True)
class PlainHead:
    """A POST; ``headers`` by lower-case name, ``body_bytes`` what its one Content-Length says, at least 1."""

    path: str
    headers: Mapping[bytes, bytes]
    body_bytes: int


def parse_plain_head(text: bytes) -> PlainHead | None:
    """The head that is all of ``text`` up to its empty line, or None: it is not a plain one (RFC 9112, 2 to 6)."""
    found = _HEAD.fullmatch(text) if len(text) <= PLAIN_HEAD_MAX_BYTES else None
    if found is None:
        return None
    fields = [(name.lower(), value) for name, value in _FIELDS.findall(found[2])]
    headers = dict(fields)
    length = headers.get(b"content-length", b"")
    if len(headers) != len(fields) or b"host" not in headers or not _LENGTH.fullmatch(length):
        return None
    if headers.get(b"connection", _STAYS_OPEN).lower() != _STAYS_OPEN:
        return None
    if not _OF_THE_CONNECTION.isdisjoint(headers.keys() - {b"connection"}):
        return None
    return PlainHead(found[1].decode("ascii"), headers, int(length))
