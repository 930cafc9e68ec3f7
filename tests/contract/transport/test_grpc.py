"""What only real sockets can show: frozen peers, strangers, clients of another make."""

from __future__ import annotations

from common import border  # before grpclib: trio-asyncio patches asyncio

# isort: split

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
from grpclib.client import Channel as GrpclibChannel
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from common.transport.metadata import METADATA_MAX_ENTRIES
from common.transport.stream import (
    PeerClosed,
    PeerGone,
    PeerRefused,
)
from tests.contract.transport.links import (
    ACCEPT,
    ECHO,
    MESSAGE_MAX,
    SINK,
    WHO,
    dial_failure,
    dialled,
    host_and_port,
    served,
)

# Peers that stand still.


async def test_a_frozen_peer_with_full_buffers_is_left_at_once(loop: None) -> None:
    program = (
        "import trio\n"
        "from common import border\n"
        "from tests.contract.transport.links import served\n"
        "async def main():\n"
        "    async with border.open_loop(), served() as address:\n"
        "        print(address, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  its start is not what is waited for
    try:
        assert process.stdout is not None
        address = (await trio.to_thread.run_sync(process.stdout.readline)).strip()
        async with dialled(address) as channel, channel.open_stream(ECHO) as stream:
            await stream.send(b"x")
            await stream.receive()
            os.kill(process.pid, signal.SIGSTOP)

            async def send_on() -> None:
                while True:
                    await stream.send(bytes(50_000))

            ended: list[str] = []

            async def watch_end(run: object) -> None:
                try:
                    await (send_on() if run == "send" else stream.receive())
                except PeerGone as gone:
                    ended.append(gone.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_end, "send")
                nursery.start_soon(watch_end, "receive")
                seen = -1
                while stream.unsent_bytes != seen or not seen:
                    seen = stream.unsent_bytes
                    await trio.sleep(0.2)
                assert stream.unsent_bytes > 50_000
                began = trio.current_time()
                stream.abort()
                assert trio.current_time() - began < 5
            assert trio.current_time() - began < 5
            assert ended == ["link.aborted", "link.aborted"]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def test_a_dial_that_nobody_answers_ends_in_time(loop: None) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        error = await dial_failure(address, timeout_s=0.2)
    assert error.code == "link.timeout"


# Addresses and strangers, at the dialling end.


async def test_a_dial_tells_what_is_wrong_with_the_address(loop: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert (await dial_failure(f"127.0.0.1:{unused.getsockname()[1]}")).code == "link.refused"
    assert (await dial_failure("no-such-host.invalid:7443", timeout_s=5)).code == "link.unreachable"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "link.not_backhaul"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "link.not_backhaul"),
        (b"", "link.lost"),
    ],
)
async def test_a_peer_that_is_no_grpc_server_is_named_so(loop: None, answer: bytes, code: str) -> None:
    async def say(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if answer:
            await stream.send_all(answer)
            try:
                await stream.receive_some(4096)
            except trio.BrokenResourceError:
                pass  # dropped, and rightly so

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            trio.serve_tcp,
            say,
            0,
        )
        port = listeners[0].socket.getsockname()[1]
        assert (await dial_failure(f"127.0.0.1:{port}")).code == code
        nursery.cancel_scope.cancel()


# Strangers at the serving end.


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def headers_frame(block: bytes) -> bytes:
    end_headers = 4
    return len(block).to_bytes(3) + struct.pack("!BBL", 1, end_headers, 1) + block


GARBAGE = {
    "http1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes": bytes(range(256)) * 10,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "frame-of-16-mib": PREFACE + b"\xff" * 100,
    "headers-not-hpack": PREFACE + SETTINGS + headers_frame(b"\xff\xff\xff\xff\xff"),
    "headers-not-text": PREFACE + SETTINGS + headers_frame(b"\x83\x86\x84\x00\x01x\x01\xff"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_drops_its_connection_with_one_line_and_nothing_else(loop: None, garbage: bytes) -> None:
    with structlog.testing.capture_logs() as lines:
        async with served() as address, dialled(address) as channel, channel.open_stream(ECHO) as stream:
            for _ in range(5):
                async with await trio.open_tcp_stream(*host_and_port(address)) as stranger:
                    await stranger.send_all(garbage)
                    with trio.fail_after(2):
                        try:
                            while await stranger.receive_some():
                                pass
                        except trio.BrokenResourceError:
                            pass
            await stream.send(b"still here")
            assert await stream.receive() == b"still here"
    reported = [line for line in lines if line["event"] == "grpc.garbage"]
    assert len(reported) == 5
    assert reported[0]["peer"].startswith("127.0.0.1:")
    assert {line["repeat_key"] for line in reported} == {"127.0.0.1"}  # by which only one of them is written
    assert [line["event"] for line in lines if line["log_level"] == "error"] == []


async def test_a_connection_that_says_nothing_is_dropped(loop: None) -> None:
    async with served(settle_timeout_s=0.1) as address:
        async with await trio.open_tcp_stream(*host_and_port(address)) as stranger:
            with trio.fail_after(2):
                try:
                    while await stranger.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass


# Messages that are not as agreed, from a client of another make.


class BytesCodec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


@asynccontextmanager
async def grpclib_channel(address: str) -> AsyncIterator[GrpclibChannel]:
    host, port = host_and_port(address)
    channel = GrpclibChannel(host, port, codec=BytesCodec())
    try:
        yield channel
    finally:
        channel.close()


async def test_an_ordinary_grpc_client_can_call(loop: None) -> None:
    async def call(channel: GrpclibChannel) -> list[bytes | None]:
        async with channel.request(ECHO, Cardinality.STREAM_STREAM, bytes, bytes) as stream:
            answers = []
            for message in (b"one", b"", bytes(90_000)):
                await stream.send_message(message)
                answers.append(await stream.recv_message())
            await stream.end()
            answers.append(await stream.recv_message())
            return answers

    async with served() as address, grpclib_channel(address) as channel:
        assert await border.call_asyncio(call, channel) == [b"one", b"", bytes(90_000), None]


async def test_an_ordinary_client_sees_the_headers_before_the_first_message_and_is_held_to_the_bounds(
    loop: None,
) -> None:
    async def call(channel: GrpclibChannel) -> None:
        async with channel.request(ACCEPT, Cardinality.STREAM_STREAM, bytes, bytes) as stream:
            await stream.send_request()
            await stream.recv_initial_metadata()
            await stream.end()
            assert await stream.recv_message() is None
        too_much = {f"key-{number}": "v" for number in range(METADATA_MAX_ENTRIES + 1)}
        async with channel.request(ACCEPT, Cardinality.STREAM_STREAM, bytes, bytes, metadata=too_much) as stream:
            await stream.send_request(end=True)
            await stream.recv_message()

    async with served() as address, grpclib_channel(address) as channel:
        with trio.fail_after(5), pytest.raises(GRPCError) as refused:
            await border.call_asyncio(call, channel)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED
    assert "metadata" in (refused.value.message or "")


async def raw_prefix_outcome(address: str, prefix: bytes) -> GRPCError:
    """What an ordinary client is told when it sends this length prefix."""

    async def call(channel: GrpclibChannel) -> None:
        async with channel.request(ECHO, Cardinality.STREAM_STREAM, bytes, bytes) as stream:
            await stream.send_request()
            await stream._stream.send_data(prefix + b"abc")
            await stream.recv_message()
            await stream.end()
            await stream.recv_trailing_metadata()

    async with grpclib_channel(address) as channel:
        with pytest.raises(GRPCError) as raised:
            await border.call_asyncio(call, channel)
    return raised.value


async def test_a_length_prefix_of_4_gib_is_refused_before_room_is_made(loop: None) -> None:
    async with served() as address:
        error = await raw_prefix_outcome(address, b"\x00\xff\xff\xff\xff")
        assert error.status is Status.RESOURCE_EXHAUSTED
        assert "4294967295" in (error.message or "")


async def test_a_compressed_message_is_refused_clearly(loop: None) -> None:
    async with served() as address:
        error = await raw_prefix_outcome(address, b"\x01\x00\x00\x00\x03")
        assert error.status is Status.UNIMPLEMENTED
        assert "compress" in (error.message or "")


async def test_a_message_over_the_receivers_limit_is_refused_with_its_code(loop: None) -> None:
    async with served() as address, dialled(address) as channel, channel.open_stream(ECHO) as stream:
        await stream.send(bytes(MESSAGE_MAX + 1))
        with pytest.raises(PeerRefused) as raised:
            await stream.receive()
        assert raised.value.code == "link.message_too_large"


async def test_no_socket_is_left_behind(loop: None) -> None:
    def sockets() -> int:
        return sum("socket" in os.readlink(entry) for entry in entries())

    def entries() -> list[str]:
        return [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]

    before = sockets()
    for _ in range(3):
        async with served() as address, dialled(address) as channel:
            async with channel.open_stream(SINK) as stream:
                is_cut = False
                while not is_cut:  # until a message waits for room in its middle
                    with trio.move_on_after(0.5) as scope:
                        await stream.send(bytes(50_000))
                    is_cut = scope.cancelled_caught
            with pytest.raises((PeerGone, PeerClosed)):
                await channel.unary(WHO, b"", 1)
    assert sockets() == before
