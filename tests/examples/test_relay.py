"""The relay that breaks lines: each mode does to real sockets what it says."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from examples.support.relay import Relay


@dataclass
class Line:
    relay: Relay
    port: int

    async def dial(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def relayed(names: tuple[bytes, ...] = (b"",)) -> AsyncIterator[Line]:
    """A relay to echo servers, one for each name, which they put before what they echo."""

    async with trio.open_nursery() as nursery:
        upstreams = []
        for name in names:

            async def echo(stream: trio.SocketStream, name: bytes = name) -> None:
                try:
                    async for data in stream:
                        await stream.send_all(name + data)
                except trio.BrokenResourceError:
                    pass  # the relay was told to break it

            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            upstreams.append(("127.0.0.1", listeners[0].socket.getsockname()[1]))
        relay = Relay(upstreams)
        port = await nursery.start(relay.run)
        yield Line(relay, port)
        nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, question: bytes) -> bytes:
    await stream.send_all(question)
    return await stream.receive_some(100)


async def dial_until_it_listens(line: Line) -> trio.SocketStream:
    while True:
        try:
            return await line.dial()
        except OSError:
            await trio.lowlevel.checkpoint()


async def test_it_passes_bytes_and_their_end() -> None:
    async with relayed() as line, await line.dial() as stream:
        assert await ask(stream, b"hello") == b"hello"
        assert line.relay.connections == 1
        await stream.send_eof()
        assert await stream.receive_some(100) == b""


async def test_upstreams_take_turns() -> None:
    async with relayed((b"a:", b"b:")) as line:
        answers = []
        for _ in range(4):
            async with await line.dial() as stream:
                answers.append(await ask(stream, b"x"))
        assert answers == [b"a:x", b"b:x", b"a:x", b"b:x"]


async def test_a_reset_is_felt_at_once_and_new_connections_pass() -> None:
    async with relayed() as line:
        async with await line.dial() as stream:
            await ask(stream, b"x")
            line.relay.reset()
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(100)
        async with await line.dial() as stream:
            assert await ask(stream, b"y") == b"y"


async def test_a_black_hole_accepts_keeps_and_forwards_nothing_until_it_passes_again() -> None:
    async with relayed() as line, await line.dial() as old:
        await ask(old, b"x")
        line.relay.set_mode("black-hole")
        async with await line.dial() as new:
            for stream in (old, new):
                await stream.send_all(b"lost?")
                with trio.move_on_after(0.05) as scope:
                    await stream.receive_some(100)
                assert scope.cancelled_caught
            line.relay.set_mode("pass")
            assert await old.receive_some(100) == b"lost?"
            assert await new.receive_some(100) == b"lost?"


async def test_a_black_hole_carries_no_reset_until_it_passes_again() -> None:
    async with trio.open_nursery() as nursery:
        accepted, arriving = trio.open_memory_channel[trio.SocketStream](1)

        async def keep(stream: trio.SocketStream) -> None:
            await accepted.send(stream)
            await trio.sleep_forever()

        listeners = await nursery.start(trio.serve_tcp, keep, 0)
        relay = Relay([("127.0.0.1", listeners[0].socket.getsockname()[1])])
        async with await trio.open_tcp_stream("127.0.0.1", await nursery.start(relay.run)) as near:
            far = await arriving.receive()
            relay.set_mode("black-hole")
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await far.aclose()
            with trio.move_on_after(0.05) as scope:
                await near.receive_some(100)
            assert scope.cancelled_caught
            relay.set_mode("pass")
            with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
                await near.receive_some(100)
        nursery.cancel_scope.cancel()


async def test_refusing_it_does_not_listen_and_comes_back_on_its_port() -> None:
    async with relayed() as line, await line.dial() as stream:
        await ask(stream, b"x")
        line.relay.set_mode("refuse")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(100)
        with pytest.raises(OSError, match="all attempts"):
            await line.dial()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", line.port))
        line.relay.set_mode("pass")
        with trio.fail_after(2):
            again = await dial_until_it_listens(line)
        async with again:
            assert await ask(again, b"y") == b"y"


async def test_a_rate_is_kept_and_a_delay_is_added() -> None:
    async with relayed() as line:
        line.relay.set_rate(20_000)
        async with await line.dial() as slow:
            began = trio.current_time()
            await slow.send_all(bytes(4_000))
            received = 0
            while received < 4_000:
                received += len(await slow.receive_some(4_000))
            assert trio.current_time() - began > 0.15
        line.relay.set_rate(0)
        line.relay.delay_s = 0.1
        async with await line.dial() as late:
            began = trio.current_time()
            assert await ask(late, b"x") == b"x"
            assert trio.current_time() - began >= 0.2


def test_as_a_process_it_obeys_lines() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.support.relay", "--upstream", "127.0.0.1:1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        for command, field, value in [
            ("black-hole", "mode", "black-hole"),
            ("rate 1000", "bytes_per_s", 1000.0),
            ("rate 0", "bytes_per_s", None),
            ("reset", "mode", "pass"),
            ("dance", "error", "not a command: 'dance'"),
        ]:
            process.stdin.write(command + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())[field] == value
        process.stdin.close()
        assert process.wait(5) == 0
