"""betterproto's description of a generated message's fields, which it keeps to itself.

Touched: `_betterproto` of a message class: `meta_by_field_name`, `default_gen`, `cls_by_field`. Guard tests:
tests/component/transport/codec/test_fast_protobuf.py, tests/component/private/test_surface.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import betterproto

from common.private.surface import require


@dataclass(eq=False, repr=False)
class _Probe(betterproto.Message):
    number: int = betterproto.int64_field(1)


require("betterproto", _Probe, "_betterproto")
_about: Any = cast(Any, _Probe)._betterproto
require("betterproto", _about, "meta_by_field_name", "default_gen", "cls_by_field")
require("betterproto", _about.meta_by_field_name["number"], "number", "proto_type", "group")
del _about


@dataclass(frozen=True, slots=True)
class MessageField:
    """One field of a generated message. `kind` is a ``betterproto.TYPE_…``; `message` the class of an embedded one."""

    name: str
    number: int
    kind: str
    repeated: bool
    group: str | None
    message: type[betterproto.Message] | None


def fields_of(message: type[betterproto.Message]) -> list[MessageField]:
    """The fields, in the order of the proto file."""
    about: Any = cast(Any, message)._betterproto
    return [
        MessageField(
            name,
            meta.number,
            meta.proto_type,
            about.default_gen[name] is list,
            meta.group,
            about.cls_by_field.get(name) if meta.proto_type == betterproto.TYPE_MESSAGE else None,
        )
        for name, meta in about.meta_by_field_name.items()
    ]
