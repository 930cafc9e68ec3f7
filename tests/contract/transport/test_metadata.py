"""Request metadata on every carrier: what a caller sends is what a handler sees, within bounds and read-only."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from common.core.errors import BackhaulError, ErrorKind
from common.transport.metadata import METADATA_MAX_BYTES, METADATA_MAX_ENTRIES, metadata_of
from common.transport.stream import Caller, Methods, ServedStream, StreamMethod, UnaryMethod
from tests.contract.transport.carriers import PATH, Carrier

CALL = "/test.Streams/Call"
SENT = {"traceparent": "00-4bf92f35-00f067aa-01", "x-site": "north", "token-bin": "AAEC", "empty": ""}


class Seen:
    """A stream and a unary method that keep the metadata of their calls."""

    def __init__(self) -> None:
        self.metadata: list[object] = []
        self.methods: Methods = {PATH: StreamMethod(self.serve), CALL: UnaryMethod(self.answer)}

    async def serve(self, stream: ServedStream) -> None:
        self.metadata.append(stream.metadata)
        await stream.send(await stream.receive())

    async def answer(self, request: bytes, caller: Caller) -> bytes:
        self.metadata.append(caller.metadata)
        return request


async def test_handlers_see_what_the_caller_sent_and_cannot_change_it(carrier: Carrier) -> None:
    seen, sent = Seen(), dict(SENT)
    with trio.fail_after(10):
        async with carrier.serve(seen.methods) as address, carrier.dial(address) as channel:
            async with channel.open_stream(PATH, sent) as stream:
                sent.clear()  # the caller's own affair
                await stream.send(b"")
                await stream.receive()
            assert await channel.unary(CALL, b"x", 5, SENT) == b"x"
            assert await channel.unary(CALL, b"x", 5) == b"x"
    assert seen.metadata == [SENT, SENT, {}]
    for metadata in seen.metadata:
        with pytest.raises(TypeError):
            cast(Any, metadata)["x-site"] = "south"


def too_many() -> dict[str, str]:
    return {f"key-{number}": "" for number in range(METADATA_MAX_ENTRIES + 1)}


TOO_LARGE = {"entries": too_many(), "bytes": {"x": "y" * METADATA_MAX_BYTES}}


@pytest.mark.parametrize("metadata", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_too_much_is_refused_before_it_is_sent(carrier: Carrier, metadata: dict[str, str]) -> None:
    await refused_before_it_is_sent(carrier, metadata, "link.metadata_too_large")


@pytest.mark.parametrize(
    "metadata",
    [{"X-Site": "n"}, {"": "n"}, {":path": "/x"}, {"grpc-timeout": "1S"}, {"te": "x"}, {"host": "x"}, {"a b": "x"}]
    + [{"x": value} for value in ("é", "a\nb", " a", "a ", "\0")],
    ids=repr,
)
async def test_what_is_no_metadata_is_refused_before_it_is_sent(carrier: Carrier, metadata: dict[str, str]) -> None:
    await refused_before_it_is_sent(carrier, metadata, "link.metadata_invalid")


async def refused_before_it_is_sent(carrier: Carrier, metadata: dict[str, str], code: str) -> None:
    seen = Seen()
    async with carrier.serve(seen.methods) as address, carrier.dial(address) as channel:
        with pytest.raises(BackhaulError) as refused:
            await channel.unary(CALL, b"x", 5, metadata)
        assert refused.value.code == code
        with pytest.raises(BackhaulError) as refused:
            async with channel.open_stream(PATH, metadata):
                pass
        assert refused.value.code == code
        assert await channel.unary(CALL, b"x", 5) == b"x"
    assert seen.metadata == [{}]


async def test_as_much_as_is_allowed_arrives(carrier: Carrier) -> None:
    seen = Seen()
    most = {f"key-{number:02}": "v" for number in range(METADATA_MAX_ENTRIES - 1)}
    most["x"] = "y" * (METADATA_MAX_BYTES - sum(len(name) + 1 for name in most) - 1)
    async with carrier.serve(seen.methods) as address, carrier.dial(address) as channel:
        assert await channel.unary(CALL, b"x", 5, most) == b"x"
    assert seen.metadata == [most]


def test_a_repeated_name_is_joined_and_the_carriers_own_headers_are_left_out() -> None:
    headers = [(":path", "/x"), ("te", "trailers"), ("grpc-encoding", "identity"), ("a", "1"), ("a", "2"), ("b", "")]
    assert metadata_of(headers) == {"a": "1,2", "b": ""}


@pytest.mark.parametrize(
    "headers",
    [[("a", "")] * (METADATA_MAX_ENTRIES + 1), [("a", "b" * METADATA_MAX_BYTES)], [("a", "b" * 1_000)] * 5],
    ids=["entries", "bytes", "bytes of one name"],
)
def test_a_stranger_that_sends_too_much_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BackhaulError) as refused:
        metadata_of(headers)
    assert (refused.value.code, refused.value.kind) == ("link.metadata_too_large", ErrorKind.TOO_LARGE)
