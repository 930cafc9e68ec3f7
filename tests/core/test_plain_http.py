"""A head that is taken for plain means to h11 what we take it for; and what a plain head must not have."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.core.plain_http import PLAIN_HEAD_MAX_BYTES, PlainHead, parse_plain_head

LINES = [b"host: localhost:7580", b"content-type: application/json", b"content-length: 5"]
USUAL = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nUser-Agent: x (y; z)\r\nContent-Length: 17\r\nAccept: */*\r\n\r\n"


def head_of(*lines: bytes, first: bytes = b"POST /v1/events HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def test_what_clients_send_is_plain() -> None:
    assert parse_plain_head(USUAL) == PlainHead(
        "/v1/events",
        {b"host": b"a", b"user-agent": b"x (y; z)", b"content-length": b"17", b"accept": b"*/*"},
        17,
    )
    for more in (b"Connection: Keep-Alive", b"connection: keep-alive", b"Idempotency-Key: a b", b"x-y: " + b"z" * 500):
        assert parse_plain_head(head_of(*LINES, more)) is not None, more


@pytest.mark.parametrize(
    "more",
    [
        b"transfer-encoding: chunked",
        b"Transfer-Encoding: identity",
        b"transfer_encoding: chunked",
        b"transfer-encoding : chunked",
        b"content-length: 5",
        b"Content-Length: 6",
        b"host: other",
        b"Accept: a\r\naccept: b",
        b"connection: close",
        b"connection: keep-alive, close",
        b"connection: upgrade",
        b"Expect: 100-continue",
        b"upgrade: h2c",
        b"te: trailers",
        b"trailer: x",
        b"keep-alive: timeout=5",
        b"proxy-connection: keep-alive",
        b"x: a\r\n b",
        b"x: a\r\n\tb",
        b"x:",
        b"x:y",
        b"x: ",
        b"x:  y",
        b"x: y ",
        b"x:\ty",
        b"x: a\tb",
        b"x: a  b",
        b"x : y",
        b" x: y",
        b"x: a\nb: c",
        b"x: a\rb: c",
        b"x: \x00",
        b"x: \xe9",
        b"x",
        b": y",
        b"x: " + b"y" * PLAIN_HEAD_MAX_BYTES,
    ],
)
def test_a_line_that_could_be_read_in_two_ways_is_not_plain(more: bytes) -> None:
    assert parse_plain_head(head_of(*LINES)) is not None
    assert parse_plain_head(head_of(*LINES, more)) is None
    assert parse_plain_head(head_of(more, *LINES)) is None


@pytest.mark.parametrize(
    "length",
    [b"0", b"05", b"+5", b"-5", b"5,5", b"5, 5", b"0x5", b"5.0", b"5_0", b"\xb2", b"99999999999", b"five", b""],
)
def test_only_a_length_in_digits_is_plain(length: bytes) -> None:
    assert parse_plain_head(head_of(LINES[0], b"content-length: " + length)) is None


@pytest.mark.parametrize(
    "first",
    [
        b"GET /v1/events HTTP/1.1",
        b"post /v1/events HTTP/1.1",
        b"POST /v1/events HTTP/1.0",
        b"POST /v1/events HTTP/2.0",
        b"POST /v1/events http/1.1",
        b"POST  /v1/events HTTP/1.1",
        b"POST\t/v1/events HTTP/1.1",
        b" POST /v1/events HTTP/1.1",
        b"POST /v1/events HTTP/1.1 ",
        b"POST /v1/events?x=1 HTTP/1.1",
        b"POST /v1/%65vents HTTP/1.1",
        b"POST http://localhost/v1/events HTTP/1.1",
        b"POST * HTTP/1.1",
        b"POST /v1/events",
        b"\r\nPOST /v1/events HTTP/1.1",
    ],
)
def test_another_request_line_is_not_plain(first: bytes) -> None:
    assert parse_plain_head(head_of(*LINES)) is not None
    assert parse_plain_head(head_of(*LINES, first=first)) is None


@pytest.mark.parametrize("lines", [[LINES[0]], LINES[1:], []])
def test_a_head_without_host_or_length_is_not_plain(lines: list[bytes]) -> None:
    assert parse_plain_head(head_of(*lines)) is None


def test_a_head_is_plain_up_to_its_empty_line_and_no_further() -> None:
    assert parse_plain_head(USUAL + USUAL) is None
    assert parse_plain_head(USUAL[:-2]) is None
    assert parse_plain_head(USUAL + b"{") is None
    assert parse_plain_head(USUAL.replace(b"\r\n", b"\n")) is None


_NAMES = st.sampled_from(
    [b"host", b"Content-Length", b"content-length", b"connection", b"transfer-encoding", b"expect", b"x", b"X-Y"]
)
_VALUES = st.one_of(
    st.sampled_from([b"5", b"keep-alive", b"close", b"chunked", b"100-continue", b"a, b", b"a b"]),
    st.text(st.characters(codec="latin-1"), max_size=8).map(lambda text: text.encode("latin-1")),
)
_JOINS = st.sampled_from([b": ", b":", b": ", b" : "])
_ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\n ", b"\r\n\r\n"])
_FIELDS = st.lists(st.tuples(_NAMES, _JOINS, _VALUES, _ENDS).map(b"".join), max_size=5)


@given(
    st.sampled_from([b"POST /v1/events HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"POST /a HTTP/1.0\r\n"]),
    st.booleans(),
    _FIELDS,
    st.binary(max_size=3),
)
@example(b"POST /v1/events HTTP/1.1\r\n", True, [b"X-Y: a b\r\n", b"connection: keep-alive\r\n"], b"")
@settings(max_examples=500)
def test_h11_reads_a_plain_head_as_we_do(first: bytes, is_whole: bool, fields: list[bytes], noise: bytes) -> None:
    usual = [b"host: a\r\n", b"content-length: 5\r\n"] if is_whole else []
    text = first + b"".join(usual + fields) + noise + b"\r\n"
    plain = parse_plain_head(text)
    if plain is None or plain.body_bytes > 1000:
        return
    server = h11.Connection(h11.SERVER)
    body = b"\r\n\r\n\x00" * plain.body_bytes  # longer than the body: what is behind it is none of the request
    server.receive_data(text + body)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, request.http_version) == (b"POST", plain.path.encode(), b"1.1")
    assert list(request.headers) == list(plain.headers.items())
    assert not server.they_are_waiting_for_100_continue
    data = b""
    while isinstance(event := server.next_event(), h11.Data):
        data += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert data == body[: plain.body_bytes]
    assert server.trailing_data == (body[plain.body_bytes :], False)
    server.send(h11.Response(status_code=201, headers=[(b"content-length", b"0")]))
    server.send(h11.EndOfMessage())
    server.start_next_cycle()  # it stays open
