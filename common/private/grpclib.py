"""grpclib's protocol layer, which it does not document: the classes we build on, and what we must stay in step with.

Touched: `grpclib.protocol` as a whole; attributes that `Stream.closable` and `EventsProcessor` use, set without `Stream`'s
own `__init__`, which makes three asyncio events and a queue that nobody here would wait for; `Configuration._keepalive_time`;
`EventsProcessor.processors`. Guard tests: tests/contract/transport, tests/component/private/test_surface.py.
"""

from __future__ import annotations

from typing import Any

from common.private import trio_asyncio as trio_asyncio  # before grpclib: trio-asyncio patches asyncio

# isort: split

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from grpclib.utils import Wrapper
from h2.connection import H2Connection
from h2.events import Event

from common.private.surface import require, require_used

__all__ = ["AbstractHandler", "Connection", "EventsProcessor", "H2Protocol", "Stream", "Wrapper"]

require("grpclib", Configuration(_keepalive_time=None), "_keepalive_time")
require("grpclib", Connection, "feed", "ack", "flush", "create_stream", "pause_writing", "resume_writing", "is_closing")
require_used("grpclib", Connection.pause_writing, "write_ready")
require_used("grpclib", Stream.closable.fget, "_transport", "_h2_connection", "id")  # type: ignore[attr-defined]
require("grpclib", H2Protocol, "data_received", "connection_lost", "eof_received")
require_used("grpclib", EventsProcessor.__init__, "processors", "streams", "handler", "connection")
for _step, _names in {
    "register": ("stream_close_waiter", "unacked_size", "ack", "is_closing"),
    "process": ("processors",),
    "process_request_received": ("create_stream", "register", "accept"),
    "process_response_received": ("headers", "headers_received"),
    "process_data_received": ("buffer", "add", "ack"),
    "process_window_updated": ("window_updated",),
    "process_trailers_received": ("trailers", "trailers_received"),
    "process_stream_ended": ("__ended__",),
    "process_stream_reset": ("__terminated__", "cancel"),
    "close": ("__terminated__",),
}.items():
    require("grpclib", EventsProcessor, _step)
    require_used("grpclib", getattr(EventsProcessor, _step), *_names)

CONFIG = Configuration(_keepalive_time=None)
"""grpclib's own pings are off: what we watch is progress."""


def prepare_stream(stream: Stream, connection: Connection, http2: H2Connection, transport: Any) -> None:  # noqa: ANN401
    """What `Stream.__init__` sets and `closable` reads, without the rest of it."""
    stream.connection = connection
    stream._h2_connection = http2
    stream._transport = transport
    stream.wrapper = None
    stream.headers = None
    stream.trailers = None


def knows(processor: EventsProcessor, event: Event) -> bool:
    """Whether grpclib dispatches such events; it forgets all of them once the connection is closed."""
    return hasattr(processor, "processors") and type(event) in processor.processors
