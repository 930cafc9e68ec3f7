"""The no-op that intake is compared with: the product's own gRPC server with a method that returns what it was sent."""

from __future__ import annotations

import trio

from common import border
from common.transport.grpc import serve_grpc
from common.transport.stream import Caller, UnaryMethod
from tests.bench.processes import answer

ECHO_PATH = "/backhaul.v1.Echo/Echo"


async def _echo(request: bytes, _caller: Caller) -> bytes:
    return request


async def _main() -> None:
    async with (
        border.open_loop(),
        serve_grpc(
            {ECHO_PATH: UnaryMethod(_echo)},
            host="127.0.0.1",
            port=0,
            tls=None,
            message_max_bytes=2**20,
            connections_max=1_000,
        ) as port,
    ):
        answer("service.ready", grpc_port=port)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_main)
