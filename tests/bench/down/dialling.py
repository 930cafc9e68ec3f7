"""How a measuring program with many connections dials each of them: on loopback, plain or as the owner of a certificate."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from common.core.addresses import Address
from common.transport.grpc import TlsFiles, open_channel
from common.transport.stream import Channel

_PATIENCE_S = 120.0


async def dialled(stack: AsyncExitStack, port: int, certificates: str, name: str, message_max_bytes: int) -> Channel:
    """A connection for as long as ``stack``; by TLS when there is a folder of certificates, one for each name."""
    files = None
    if certificates:
        folder = Path(certificates)
        files = TlsFiles(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", ca=folder / "ca.pem")
    return await stack.enter_async_context(
        open_channel(
            Address("127.0.0.1", port),
            tls=files,
            connect_timeout_s=_PATIENCE_S,
            message_max_bytes=message_max_bytes,
            user_timeout_s=_PATIENCE_S,
        )
    )
