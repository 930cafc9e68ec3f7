"""A TCP relay that breaks lines on command: what the demo and the tests put between an edge and the cloud.

    python -m examples.support.relay --listen 127.0.0.1:0 --upstream 127.0.0.1:7443 [--upstream ...]

prints `{"port": ...}` and then reads commands from standard input, one a line, answering each with the
relay's state as one JSON line: `pass`, `reset` (both sides of every connection get a reset now; new ones
pass), `black-hole` (connections are accepted and kept, nothing is forwarded; `pass` lets what was held go
on), `refuse` (nobody listens), `to HOST:PORT` (new connections go there), `rate BYTES_PER_S` and
`delay SECONDS` (0 is off). It ends with its input.
Several upstreams take turns, one connection each, as behind a load balancer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import trio

from common.transport.link.gate import Gate

Mode = Literal["pass", "black-hole", "refuse"]
Address = tuple[str, int]

_CHUNK_BYTES = 64 * 1024
# With a rate, kernel buffers must be small, or they would swallow what the slow line should feel.
_SLOW_CHUNK_BYTES = 1024
_SLOW_BUFFER_BYTES = 8 * 1024
# As on a real line. Loopback's segments of 64 KiB do not fit into small buffers, and a sender that waits for room for
# a whole one lets a slow line stand still.
_SEGMENT_BYTES = 1460
# Chunks on their way: room for a delayed line, and little enough that a reader who stops is felt.
_UNDER_WAY_MAX = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Relay:
    """Forwards TCP connections to `upstreams` in turn; `run` it in a nursery and play with its modes."""

    def __init__(self, upstreams: Sequence[Address]) -> None:
        self.mode: Mode = "pass"
        self.bytes_per_s = math.inf
        self.delay_s = 0.0
        self.accepted = 0
        self._upstreams = itertools.cycle(upstreams)
        self._lines: dict[trio.CancelScope, None] = {}
        self._forwarding = Gate(is_open=True)
        self._listening = Gate(is_open=True)
        self._accept_scope = trio.CancelScope()

    @property
    def connections(self) -> int:
        """Connections that are up."""
        return len(self._lines)

    def set_mode(self, mode: Mode) -> None:
        """`refuse` also resets the connections that are up."""
        self.mode = mode
        if mode == "black-hole":
            self._forwarding.clear()
        else:
            self._forwarding.set()
        if mode == "refuse":
            self._listening.clear()
            self._accept_scope.cancel()
            self.reset()
        else:
            self._listening.set()

    def lead_to(self, upstream: Address) -> None:
        """Forward new connections there; those that are up stay where they are."""
        self._upstreams = itertools.cycle([upstream])

    def reset(self) -> None:
        """Send a reset to both sides of every connection, now."""
        for scope in self._lines:
            scope.cancel()

    def set_rate(self, bytes_per_s: float) -> None:
        """Limit each direction of each connection; a true slow line needs it before `run`. 0 takes the limit away."""
        self.bytes_per_s = bytes_per_s or math.inf

    async def run(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Relay until cancelled; `started` with the port, which stays the same through every mode."""
        with trio.socket.socket() as kept:  # never listens: while the relay refuses, nobody else is given the port
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await kept.bind((host, port))
            await self._relay(host, kept.getsockname()[1], task_status)

    async def _relay(self, host: str, port: int, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._listening.wait()
                with trio.socket.socket() as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
                    if self.bytes_per_s < math.inf:  # before the window is announced
                        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
                    await listener.bind((host, port))
                    listener.listen(256)
                    task_status.started(port)
                    task_status = trio.TASK_STATUS_IGNORED
                    with trio.CancelScope() as self._accept_scope:
                        while True:
                            accepted, _ = await listener.accept()
                            self.accepted += 1
                            nursery.start_soon(self._carry, trio.SocketStream(accepted), next(self._upstreams))

    async def _carry(self, near: trio.SocketStream, upstream: Address) -> None:
        """One connection, from its accept to its end; ended by a cancel, both sides get a reset."""
        ends = [near]
        with trio.CancelScope() as scope:
            self._lines[scope] = None
            try:
                await self._forwarding.wait()
                try:
                    far = await trio.open_tcp_stream(*upstream)
                except OSError:
                    return  # reset below: a proxy without a back end
                ends.append(far)
                self._prepare(ends)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, near, far, scope)
                    nursery.start_soon(self._forward, far, near, scope)
                return
            finally:
                del self._lines[scope]
                for end in ends:
                    if scope.cancel_called or len(ends) == 1:
                        end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    end.socket.close()

    def _prepare(self, ends: list[trio.SocketStream]) -> None:
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.bytes_per_s < math.inf:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SLOW_BUFFER_BYTES)

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream, line: trio.CancelScope) -> None:
        """One direction. A broken end breaks the other; a proper end is passed on."""
        arriving, on_the_way = trio.open_memory_channel[tuple[float, bytes]](_UNDER_WAY_MAX)

        async def take_in() -> None:
            async with arriving:
                while True:
                    data = await source.receive_some(self._chunk_bytes())
                    await arriving.send((trio.current_time() + self.delay_s, data))
                    if not data:
                        return
                    await trio.sleep(len(data) / self.bytes_per_s)

        async def give_out() -> None:
            async for due, data in on_the_way:
                await trio.sleep_until(due)
                await self._forwarding.wait()
                if data:
                    await target.send_all(data)
                else:
                    await target.send_eof()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_in)
                nursery.start_soon(give_out)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            await self._forwarding.wait()  # a reset is not carried through a black hole either
            line.cancel()

    def _chunk_bytes(self) -> int:
        return _CHUNK_BYTES if self.bytes_per_s == math.inf else _SLOW_CHUNK_BYTES

    def obey(self, command: str) -> dict[str, object]:
        """Do what one line of control says, and tell the state. Raises ValueError for what is no command."""
        word, _, argument = command.strip().partition(" ")
        match word:
            case "pass" | "black-hole" | "refuse":
                self.set_mode(word)
            case "reset":
                self.set_mode("pass")
                self.reset()
            case "to":
                self.lead_to(_address(argument))
            case "rate":
                self.set_rate(float(argument))
            case "delay":
                self.delay_s = float(argument)
            case "state":
                pass
            case _:
                raise ValueError(f"not a command: {command.strip()!r}")
        return {
            "mode": self.mode,
            "bytes_per_s": None if self.bytes_per_s == math.inf else self.bytes_per_s,
            "delay_s": self.delay_s,
            "accepted": self.accepted,
            "connections": self.connections,
        }


async def serve_standard_input(listen: Address, upstreams: Sequence[Address]) -> None:
    """The relay as a process of its own."""
    relay = Relay(upstreams)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(relay.run, *listen)
        print(json.dumps({"port": port}), flush=True)
        async for command in _lines_of_standard_input():
            try:
                answer = relay.obey(command)
            except ValueError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


async def _lines_of_standard_input() -> AsyncIterator[str]:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"not host:port: {text!r}")
    return host, int(port)


def main() -> None:
    """Relay as the command line says, until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m examples.support.relay", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--upstream", type=_address, action="append", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    trio.run(serve_standard_input, arguments.listen, arguments.upstream)


if __name__ == "__main__":
    main()
