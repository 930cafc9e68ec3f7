"""The bound on calls of one connection counts those that have no task and no stream."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset

from common.core.errors import BackhaulError
from common.core.policy.identity import IdentityRule
from common.transport.grpc.calls import CallService, ConnectionCalls
from common.transport.grpc.inbound import PREFIX
from common.transport.grpc.prompt_methods import PromptMethods
from common.transport.grpc.protocol import WireProtocol
from common.transport.grpc.wire import WireLimits
from common.transport.stream import Answer, Caller, UnaryMethod

STREAMS_MAX = 3
PATH = "/test/Prompt"
GARBAGE = bytes(9)  # an empty frame of DATA, of no stream
HEADERS = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x"), ("te", "trailers")]


class Line:
    """An asyncio transport that keeps what is written, in pieces."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_aborted = False
        self._socket, self._other = socket.socketpair()

    def get_extra_info(self, name: str, _: object = None) -> object:
        return {"socket": self._socket, "peername": ("127.0.0.1", 1)}.get(name)

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def take(self) -> list[bytes]:
        written, self.written = self.written, []
        return written

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_: int) -> None:
        pass

    def close(self) -> None:
        self._socket.close()
        self._other.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


async def by_task(request: bytes, _: Caller) -> bytes:
    return request


class Served:
    """One connection of a server that takes calls and leaves their answers to the test, and a stock client's end of it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.answers: list[Answer] = []
        methods = {PATH: UnaryMethod(by_task, self._take)}
        self.service = CallService(methods, PromptMethods(methods, 1_000), STREAMS_MAX, self._start)
        self.started = 0
        self.calls = ConnectionCalls(self.service)
        self.protocol = WireProtocol(
            self.calls,
            WireLimits(1_000, 65_535, 100, user_timeout_s=0),
            is_client=False,
            identity=IdentityRule(),
            whole=self.calls,
            on_read=self.calls.begin,
        )
        self.protocol.connection_made(line)  # type: ignore[arg-type]  # what is used of a transport
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.exchange()
        self.exchange()

    def _take(self, _: bytes, __: Caller, answer: Answer) -> bool:
        self.answers.append(answer)
        return True

    def _start(self, *_: object) -> None:
        self.started += 1

    def send_call(self) -> int:
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, [*HEADERS, ("content-type", "application/grpc")])
        self.client.send_data(stream_id, PREFIX.pack(0, 1) + b"x", end_stream=True)
        return stream_id

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def exchange(self) -> list[object]:
        if data := self.client.data_to_send():
            self.receive(data)
        return [event for piece in self.line.take() for event in self.client.receive_data(piece)]


def test_calls_beyond_the_bound_are_refused_and_an_answer_makes_room(line: Line) -> None:
    served = Served(line)
    for _ in range(STREAMS_MAX):
        served.send_call()
    refused = served.send_call()
    [reset] = [event for event in served.exchange() if isinstance(event, StreamReset)]
    assert (reset.stream_id, reset.error_code) == (refused, ErrorCodes.REFUSED_STREAM)
    assert len(served.answers) == STREAMS_MAX
    served.answers.pop()(b"done")()
    served.exchange()
    served.send_call()
    assert not [event for event in served.exchange() if isinstance(event, StreamReset)]
    assert (len(served.answers), served.started) == (STREAMS_MAX, 0)


def test_a_stopping_server_takes_no_call(line: Line) -> None:
    served = Served(line)
    served.service.is_closing = True
    served.send_call()
    assert [type(event) for event in served.exchange() if isinstance(event, StreamReset)] == [StreamReset]
    assert not served.answers


def test_what_is_answered_together_leaves_in_one_write(line: Line) -> None:
    served = Served(line)
    for _ in range(STREAMS_MAX):
        served.send_call()
    served.exchange()
    first, second, third = served.answers
    after = {first(b"one"), second(BackhaulError("append.foreign_owner", "not yours", "")), third(b"three")}
    assert line.written == []
    [flush] = after
    flush()
    flush()
    assert len(line.written) == 1
    events = served.exchange()
    assert [event.data[PREFIX.size :] for event in events if isinstance(event, DataReceived)] == [b"one", b"three"]
    assert sum(isinstance(event, StreamEnded) for event in events) == STREAMS_MAX


def test_a_ping_is_answered_at_once(line: Line) -> None:
    served = Served(line)
    served.send_call()
    served.client.ping(b"12345678")
    served.client.increment_flow_control_window(10)
    assert "PingAckReceived" in [type(event).__name__ for event in served.exchange()]
    assert len(served.answers) == 1


def test_a_call_that_is_given_up_in_the_read_it_came_with_is_not_begun_and_the_connection_goes_on(line: Line) -> None:
    served = Served(line)
    served.client.reset_stream(served.send_call())
    for _ in range(STREAMS_MAX):
        served.send_call()
    served.client.reset_stream(served.send_call())
    assert not [event for event in served.exchange() if isinstance(event, StreamReset)]
    assert len(served.answers) == STREAMS_MAX
    served.answers[0](b"done")()
    assert [event.data[PREFIX.size :] for event in served.exchange() if isinstance(event, DataReceived)] == [b"done"]


def test_a_caller_that_gives_up_and_breaks_the_connection_in_one_read_harms_nobody(line: Line) -> None:
    """What the connection had to tell of the call is lost with it, and who has the answer does not know."""
    served = Served(line)
    for _ in range(2):
        served.send_call()
    served.exchange()
    served.client.reset_stream(1)
    served.receive(served.client.data_to_send() + GARBAGE)
    served.answers[0](b"to nobody")()
    served.protocol.connection_lost(None)
    served.answers[1](b"to nobody")()
    assert (served.started, served.calls.ended.is_set()) == (0, False)
