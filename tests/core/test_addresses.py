"""Addresses: what is one, and what is wrong with a text that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.addresses import Address, PeerAddress, parse_address, parse_peer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1", (Address("a", 1),)),
        ("grpc://a.b:1", (Address("a.b", 1),)),
        ("cloud.example", (Address("cloud.example", 7443),)),
        ("localhost", (Address("localhost", 7443),)),
        ("[::1]", (Address("::1", 7443),)),
        ("a:1, b:1,[::1]:3", (Address("a", 1), Address("b", 1), Address("::1", 3))),
    ],
)
def test_a_peer_has_one_address_or_several(text: str, expected: tuple[Address, ...]) -> None:
    assert parse_peer(text, 7443) == PeerAddress(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "'nonsense' has no port and is no full name; write nonsense:7443"),
        ("https://cloud:1", "https:// is no carrier; write host:port"),
        ("cloud:1,", "it is empty"),
        ("cloud:1,cloud:1", "cloud:1 is in it twice"),
        ("cloud:0", "'0' is no port"),
        ("cloud:", "'' is no port"),
        ("cl oud:1", "it has ' ' in it"),
        ("cloud:1/path", "it has '/' in it"),
        ("[::1", "brackets"),
        ("[a]:1", "'a' is no IPv6 address"),
        (":1", "'' is no host name"),
        ("-x:1", "'-x' is no host name"),
        (",".join(f"h{number}:1" for number in range(17)), "17 addresses; at most 16"),
    ],
)
def test_what_is_no_peer_is_refused_by_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        parse_peer(text, 7443)


def test_an_address_without_a_port_needs_a_default() -> None:
    with pytest.raises(ValueError, match="the port is missing"):
        parse_address("cloud.example")


@given(st.text())
def test_any_text_is_a_peer_that_reads_back_or_a_value_error(text: str) -> None:
    try:
        peer = parse_peer(text, 7443)
    except ValueError:
        return
    assert parse_peer(str(peer)) == peer
