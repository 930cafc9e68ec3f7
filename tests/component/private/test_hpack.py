"""Header blocks that are decoded before h2 asks: the same headers and the same errors as by hpack alone."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, InvalidTableSizeError, OversizedHeaderListError
from hypothesis import given
from hypothesis import strategies as st

from common.private import hpack
from common.private.hpack import AheadDecoder, silence

_FIELDS = st.sampled_from([(":method", "POST"), (":path", "/a"), ("te", "trailers"), ("x", "1"), ("x", "2"), ("", "")])
_HEADERS = st.lists(_FIELDS, max_size=8)
CALL = [(":method", "POST"), (":scheme", "http"), (":path", "/test/Whole"), (":authority", "x")]


def decoder() -> AheadDecoder:
    return silence(Encoder(), Decoder())


def outcome_of(one: Decoder, block: bytes) -> object:
    try:
        return list(one.decode(block, raw=True))
    except HPACKError as error:
        return type(error)


@given(
    st.lists(st.tuples(_HEADERS, st.sampled_from([None, 0, 60, 4096]), st.binary(max_size=3)), max_size=8),
    st.sampled_from([100, 300, 65_536]),
)
def test_what_is_decoded_ahead_is_what_hpack_decodes(
    blocks: list[tuple[list[tuple[str, str]], int | None, bytes]], size_max: int
) -> None:
    """Tables change their size in between, blocks have odd ends, and lists may be too large."""
    encoder, theirs, ours, asked_again = Encoder(), Decoder(), decoder(), decoder()
    for one in (theirs, ours, asked_again):
        one.max_header_list_size = size_max
    for headers, table_size, end in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode(headers) + end
        expected = outcome_of(theirs, block)
        found = ours.decode_ahead(block)
        assert (list(found) if found is not None else None) == (expected if isinstance(expected, list) else None)
        asked_again.decode_ahead(block)
        assert outcome_of(asked_again, block) == expected
        ours.forget_ahead()
        if not isinstance(expected, list):
            return  # h2 ends the connection


def test_a_block_of_known_fields_is_decoded_without_hpack(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, ours = Encoder(), decoder()
    assert ours.decode_ahead(encoder.encode(CALL))
    ours.forget_ahead()
    monkeypatch.setattr(hpack, "_decode", None)
    found = ours.decode_ahead(encoder.encode(CALL))
    assert found == [(name.encode(), value.encode()) for name, value in CALL]


@pytest.mark.parametrize(
    ("limit", "value", "refusal"),
    [("max_allowed_table_size", 50, InvalidTableSizeError), ("max_header_list_size", 150, OversizedHeaderListError)],
)
def test_known_fields_beyond_a_limit_are_refused_as_by_hpack(limit: str, value: int, refusal: type[Exception]) -> None:
    """A table that the peer should have shrunk, and fields that are too much together."""
    encoder, ours = Encoder(), decoder()
    ours.decode_ahead(encoder.encode(CALL))
    ours.forget_ahead()
    setattr(ours, limit, value)
    block = encoder.encode(CALL)
    assert ours.decode_ahead(block) is None
    with pytest.raises(refusal):
        ours.decode(block)


@pytest.mark.parametrize("block", [b"\x80", b"\x83\x80", b"\xff\x00", b"\x83\xff"])
def test_what_is_no_number_of_one_byte_is_left_to_hpack(block: bytes) -> None:
    encoder, stock, ours = Encoder(), Decoder(), decoder()
    filling = encoder.encode([(f"x-{number}", "y") for number in range(80)])
    for one in (stock, ours):
        assert len(list(one.decode(filling))) == 80
    expected = outcome_of(stock, block)
    found = ours.decode_ahead(block)
    assert (list(found) if found is not None else None) == (expected if isinstance(expected, list) else None)
