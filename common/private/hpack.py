"""hpack without its log, which it asks fifty times a call; header blocks decoded before h2 asks, and encoded for any connection.

Touched: the global `log` of the functions of `hpack.hpack`, in copies of them; the class of one connection's encoder and
decoder; `HeaderTable.resized`. Guard tests: tests/component/private/test_h2.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any, cast

import hpack.hpack
import outcome
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple

from common.private.surface import require, require_used, with_globals

require("hpack", hpack.hpack, "log", "encode_integer", "decode_integer")
require_used("hpack", hpack.hpack.encode_integer, "log")
require_used("hpack", hpack.hpack.decode_integer, "log")
require_used("hpack", Decoder.decode, "log")
require_used("hpack", Encoder.encode, "header_table", "resized")


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
_decode = with_globals(Decoder.decode, **_GLOBALS)


class AheadDecoder(Decoder):
    """A silent decoder that may be asked for a block before h2 comes with the same block: decoding changes its table, once."""

    _ahead: outcome.Maybe[list[HeaderTuple]] | None

    def decode_ahead(self, block: bytes) -> list[HeaderTuple] | None:
        """The headers of a block, names and values in bytes; None when h2 is to find out what is wrong with it.

        The next call of `decode` is taken to be about the same block, unless `forget_ahead` comes before it.
        """
        self._ahead = outcome.capture(lambda: list(_decode(self, block, raw=True)))
        return self._ahead.value if isinstance(self._ahead, outcome.Value) else None

    def forget_ahead(self) -> None:
        """What was decoded ahead has been taken: h2 will not ask for it."""
        self._ahead = None

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead.unwrap()
        return _decode(self, data, raw)


for _name, _method in _without_log(Decoder).items():
    if _name not in vars(AheadDecoder):
        setattr(AheadDecoder, _name, _method)


def silence(encoder: Encoder, decoder: Decoder) -> AheadDecoder:
    """Have these two say nothing to the log from now on; they keep their tables and limits. Returns the decoder."""
    encoder.__class__ = _SilentEncoder
    decoder.__class__ = AheadDecoder
    silent = cast(AheadDecoder, decoder)
    silent.forget_ahead()
    return silent


def constant_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block that means the same on every connection at any time: it reads and writes no dynamic table."""
    return Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in headers])


def table_update(encoder: Encoder) -> bytes:
    """What the next block must begin with: the table's new size if the peer has changed it, mostly nothing."""
    return encoder.encode([]) if encoder.header_table.resized else b""
