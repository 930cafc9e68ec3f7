"""asyncio's TLS connections with a read buffer of one record; its own of 256 KiB would cost 340 kB a connection.

Touched: `SSLProtocol.max_size`, in a subclass, and the selector loop's `_make_ssl_transport`, in a copy that makes that
subclass. Guard tests: tests/component/private/test_tls_buffers.py.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
from types import SimpleNamespace
from typing import Final

from common.private.surface import require, require_used, with_globals

TLS_RECORD_BYTES: Final = 16_384
"""The largest TLS record: a larger buffer would hold no more of one."""

require("asyncio", asyncio.SelectorEventLoop, "_make_ssl_transport")
require_used("asyncio", asyncio.SelectorEventLoop._make_ssl_transport, "sslproto", "SSLProtocol")  # type: ignore[attr-defined]
require("asyncio", asyncio.sslproto.SSLProtocol, "max_size")
require_used("asyncio", asyncio.sslproto.SSLProtocol.__init__, "max_size", "_ssl_buffer")
require("asyncio", asyncio.Handle, "_run", "_context")


class _SmallProtocol(asyncio.sslproto.SSLProtocol):
    max_size = TLS_RECORD_BYTES


make_ssl_transport = with_globals(
    asyncio.SelectorEventLoop._make_ssl_transport,  # type: ignore[attr-defined]
    sslproto=SimpleNamespace(SSLProtocol=_SmallProtocol),
)
"""The method of a selector loop, for a loop of our own."""
