"""Which requests may be served without a task and without a stream, by their headers; everything unusual may not.

A client's calls of one method have the same headers but for the deadline, so what they mean is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from common.core.errors import BackhaulError
from common.private.h2 import RawHeaders, is_valid_request
from common.transport.grpc.inbound import PREFIX
from common.transport.metadata import metadata_of
from common.transport.stream import Answer, Caller, Methods, UnaryMethod

KNOWN_MAX: Final = 256
"""Header lists that are remembered; beyond, all are forgotten: metadata may differ with each call."""

_TIMEOUT: Final = b"grpc-timeout"
_TIMEOUT_VALUE: Final = re.compile(rb"[0-9]{1,8}[HMSmun]")


class PromptMethod(NamedTuple):
    """A method as one request asks for it."""

    path: str
    promptly: Callable[[bytes, Caller, Answer], bool]
    metadata: Mapping[str, str]


class PromptMethods:
    """The methods of a server that can do without a task, by the headers of their requests."""

    def __init__(self, methods: Methods, message_max_bytes: int) -> None:
        self._methods = methods
        self._message_max_bytes = message_max_bytes
        self._known: dict[tuple[tuple[bytes, bytes], ...], PromptMethod | None] = {}

    def find(self, headers: RawHeaders, body: bytes) -> PromptMethod | None:
        """The method that this request asks for; None when it is to be served by a task.

        ``headers`` as they came, ``body`` is all of the request's DATA. Only what is valid in every regard is found.
        """
        if len(body) < PREFIX.size:
            return None
        compressed, length = PREFIX.unpack_from(body)
        if compressed or not length == len(body) - PREFIX.size <= self._message_max_bytes:
            return None
        lasting = tuple([header for header in headers if header[0] != _TIMEOUT])
        if len(lasting) != len(headers) and not _is_one_timeout(headers):
            return None
        try:
            return self._known[lasting]
        except KeyError:
            pass
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        found = self._known[lasting] = self._look_up(lasting)
        return found

    def _look_up(self, raw: RawHeaders) -> PromptMethod | None:
        try:
            headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in raw]
            metadata = metadata_of(headers)
        except (UnicodeDecodeError, BackhaulError):
            return None
        fields = dict(headers)
        method = self._methods.get(fields.get(":path", ""))
        is_usual = (
            isinstance(method, UnaryMethod)
            and fields.get(":method") == "POST"
            and fields.get("content-type", "").startswith("application/grpc")
            and "content-length" not in fields
            and is_valid_request(raw)
        )
        if not is_usual or not isinstance(method, UnaryMethod) or method.promptly is None:
            return None
        return PromptMethod(fields[":path"], method.promptly, metadata)


def _is_one_timeout(headers: RawHeaders) -> bool:
    timeouts = [value for name, value in headers if name == _TIMEOUT]
    return len(timeouts) == 1 and _TIMEOUT_VALUE.fullmatch(timeouts[0]) is not None
