"""hpack without its log: it has fifty lines to say of each call, and asks the logging module about every one.

Touched: the global `log` of the functions of `hpack.hpack`, in copies of them; and the class of one connection's encoder
and decoder. Guard tests: tests/component/private/test_h2.py.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import hpack.hpack
from hpack import Decoder, Encoder

from common.private.surface import require, require_used, with_globals

require("hpack", hpack.hpack, "log", "encode_integer", "decode_integer")
require_used("hpack", hpack.hpack.encode_integer, "log")
require_used("hpack", hpack.hpack.decode_integer, "log")
require_used("hpack", Decoder.decode, "log")


class _Silence:
    def debug(self, *_: object) -> None:
        """As a log that is off, without finding out."""


_GLOBALS: dict[str, object] = {"log": _Silence()}
_GLOBALS |= {
    name: with_globals(getattr(hpack.hpack, name), **_GLOBALS) for name in ("encode_integer", "decode_integer")
}


def _without_log(kind: type) -> dict[str, Any]:
    """The methods of a class, as copies that say nothing."""
    return {
        name: with_globals(method, **_GLOBALS)
        for name, method in vars(kind).items()
        if isinstance(method, FunctionType)
    }


_SilentEncoder = type("_SilentEncoder", (Encoder,), _without_log(Encoder))
_SilentDecoder = type("_SilentDecoder", (Decoder,), _without_log(Decoder))


def silence(encoder: Encoder, decoder: Decoder) -> None:
    """Have these two say nothing to the log from now on; they keep their tables and limits."""
    encoder.__class__ = _SilentEncoder
    decoder.__class__ = _SilentDecoder
