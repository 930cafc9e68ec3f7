"""hpack without its log, which it asks fifty times a call; header blocks decoded before h2 asks, and encoded for any connection.

Touched: the global `log` of the functions of `hpack.hpack`, in copies of them; the class of one connection's encoder and
decoder; `HeaderTable.resized`, `dynamic_entries`, `maxsize`. Guard tests: tests/component/private/test_h2.py, test_hpack.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from types import FunctionType
from typing import Any, Final, cast

import hpack.hpack
import outcome
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

from common.private.surface import require, require_used, with_globals

require("hpack", hpack.hpack, "log", "encode_integer", "decode_integer")
require_used("hpack", hpack.hpack.encode_integer, "log")
require_used("hpack", hpack.hpack.decode_integer, "log")
require_used("hpack", Decoder.decode, "log")
require_used("hpack", Encoder.encode, "header_table", "resized")
require_used("hpack", Decoder._assert_valid_table_size, "header_table_size", "max_allowed_table_size")
require_used("hpack", HeaderTable.get_by_index, "STATIC_TABLE", "dynamic_entries")

# A field that the tables have is a number with the high bit set, in one byte up to 126 (RFC 7541, 6.1 and 5.1).
_INDEXED: Final = 0x80
_IN_ONE_BYTE: Final = bytes(range(_INDEXED + 1, 0xFF))
_STATIC: Final = ((b"", b""), *HeaderTable.STATIC_TABLE)
_FIRST_DYNAMIC: Final = _INDEXED + len(_STATIC)
_FIELD_OVERHEAD_BYTES: Final = 32


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

    def decode_ahead(self, block: bytes) -> Sequence[tuple[bytes, bytes]] | None:
        """The headers of a block, names and values in bytes; None when h2 is to find out what is wrong with it.

        The next call of `decode` is taken to be about the same block, unless `forget_ahead` comes before it.
        """
        known = self._all_known(block)
        if known is not None:  # nothing changes by decoding it again
            return known
        self._ahead = outcome.capture(lambda: list(_decode(self, block, raw=True)))
        return self._ahead.value if isinstance(self._ahead, outcome.Value) else None

    def _all_known(self, block: bytes) -> list[tuple[bytes, bytes]] | None:
        """The headers of a block all of whose fields the tables have, which most calls of a client are; else None."""
        if block.translate(None, _IN_ONE_BYTE):
            return None
        table, static = self.header_table, _STATIC
        dynamic = table.dynamic_entries
        try:
            found = [
                dynamic[byte - _FIRST_DYNAMIC] if byte >= _FIRST_DYNAMIC else static[byte - _INDEXED] for byte in block
            ]
        except IndexError:
            return None
        size = sum(map(len, chain.from_iterable(found))) + _FIELD_OVERHEAD_BYTES * len(found)
        is_valid = size <= self.max_header_list_size and table.maxsize <= self.max_allowed_table_size
        return found if is_valid else None

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
