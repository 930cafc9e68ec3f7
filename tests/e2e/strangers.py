"""What knocks at a port or waits behind one, and is not Backhaul: raw bytes, HTTP/2 with a lie in it, silent servers."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import h2.connection
import h2.events
import trio

from common import border
from common.core.addresses import Address
from common.core.errors import BackhaulError
from common.transport.grpc import GrpcChannel, open_channel

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Frame header: length (3 bytes), type, flags, stream id (4 bytes).
EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_OF_16_MIB = bytes([0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]) + bytes(1000)
TIMEOUT_S = 10.0


def say(port: int, data: bytes) -> bytes:
    """Send bytes to a port and return everything that comes back until the other end hangs up."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as line:
        heard = b""
        try:
            line.sendall(data)
            while piece := line.recv(65536):
                heard += piece
        except ConnectionError:
            pass  # a reset is an answer too
        return heard


def call_with_prefix(port: int, path: str, prefix: bytes) -> dict[str, str]:
    """One gRPC call whose only message begins so; returns the headers and trailers that answer it."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "127.0.0.1"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ],
    )
    connection.send_data(1, prefix + bytes(1000))
    answer: dict[str, str] = {}
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as line:
        while True:
            line.sendall(connection.data_to_send())
            data = line.recv(65536)
            assert data, f"the port hung up; it had said {answer}"
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    answer |= {name.decode(): value.decode() for name, value in event.headers or ()}
                if isinstance(event, h2.events.StreamEnded):
                    return answer


def refusal_of(port: int, path: str, *messages: bytes) -> BackhaulError:
    """What a stream to a gRPC method is refused with that sends these messages."""

    async def call() -> BackhaulError:
        async with dialled(port) as channel, channel.open_stream(path) as stream:
            try:
                with trio.fail_after(TIMEOUT_S):
                    for message in messages:
                        await stream.send(message)
                    while True:
                        await stream.receive()
            except BackhaulError as error:
                return error

    return trio.run(call)


def answers_of(port: int, path: str, *requests: bytes) -> list[bytes]:
    """The answers to requests on one stream."""

    async def call() -> list[bytes]:
        async with dialled(port) as channel, channel.open_stream(path) as stream:
            with trio.fail_after(TIMEOUT_S):
                for request in requests:
                    await stream.send(request)
                return [await stream.receive() for _ in requests]

    return trio.run(call)


@asynccontextmanager
async def dialled(port: int) -> AsyncIterator[GrpcChannel]:
    """A channel to a port of this machine, with a loop for it."""
    async with (
        border.open_loop(),
        open_channel(
            Address("127.0.0.1", port), tls=None, connect_timeout_s=5, message_max_bytes=2**26, user_timeout_s=10
        ) as channel,
    ):
        yield channel


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def web_server() -> Iterator[str]:
    """The address of an HTTP/1.1 server."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Not to the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
