"""From bytes to a message's fields and back, whatever the message: what every codec here begins with.

A message of a few entries goes by hand (``small_messages``), a larger one through the generated class. What does not
decode is refused with a code.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import betterproto

from common.core.errors import BackhaulError
from common.transport.codec import fast_protobuf as small_messages

_Message = TypeVar("_Message", bound=betterproto.Message)
_FEW_ENTRIES = 128


def parse(kind: type[_Message], data: bytes) -> _Message:
    """A message, or for a small one something with its attributes."""
    try:
        if len(data) <= small_messages.SMALL_BYTES:
            return cast(_Message, small_messages.read(kind, data))
        return kind().parse(data)
    except Exception as error:  # the codec raises many kinds for malformed input
        raise malformed(f"{kind.__name__} does not decode: {type(error).__name__}") from error


def one_of(kind: type[_Message], data: bytes) -> tuple[str, Any]:
    """Which content a stream's message has, and the content."""
    message: Any = parse(kind, data)
    is_large = isinstance(message, betterproto.Message)
    return betterproto.which_one_of(message, "message") if is_large else message.one_of


def message_bytes(kind: type[betterproto.Message], entries: int, **values: small_messages.Value) -> bytes:
    """The bytes of a message whose columns have so many entries."""
    return small_messages.write(kind, **values) if entries <= _FEW_ENTRIES else bytes(kind(**values))


def malformed(what: str) -> BackhaulError:
    """The refusal of bytes that are not what they should be."""
    return BackhaulError("link.malformed", what, "speak protos/backhaul/v1; check that both sides are Backhaul")


def ragged(what: str) -> BackhaulError:
    """The refusal of columns that do not fit together."""
    return BackhaulError("events.ragged", what, "give every column exactly one entry an event")
