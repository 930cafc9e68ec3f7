"""The read buffer of our TLS connections, and that of everybody else's."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
import ssl

import pytest
import trio

from common import border
from common.private.asyncio import TLS_RECORD_BYTES


async def test_our_tls_connections_have_a_buffer_of_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    scope = trio.CancelScope()
    context = ssl.create_default_context()
    begin = asyncio.sslproto.SSLProtocol.__init__

    def noted(self: asyncio.sslproto.SSLProtocol, *args: object, **kwargs: object) -> None:
        begin(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(len(self._ssl_buffer))  # type: ignore[attr-defined]
        scope.cancel()

    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "__init__", noted)
    here, there = socket.socketpair()
    here.setblocking(False)
    with there:
        async with border.open_loop():
            with trio.fail_after(10), scope:
                await border.adopt_socket(
                    asyncio.Protocol,
                    here,
                    tls=context,
                    server_hostname="example",
                    handshake_timeout_s=5,
                )
    assert made == [TLS_RECORD_BYTES]
    assert asyncio.sslproto.SSLProtocol.max_size > TLS_RECORD_BYTES
