"""Which requests may be served without a task and a stream: only those that are valid and usual in every regard."""

from __future__ import annotations

import pytest

from common.transport.grpc.inbound import PREFIX
from common.transport.grpc.prompt_methods import KNOWN_MAX, PromptMethods
from common.transport.stream import Answer, Caller, ServedStream, StreamMethod, UnaryMethod

MESSAGE_MAX = 100
USUAL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test/Prompt"),
    (b":authority", b"gateway:8080"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"user-agent", b"a client"),
]


async def by_task(request: bytes, _: Caller) -> bytes:
    return request


async def by_stream(_: ServedStream) -> None:
    pass


def promptly(_: bytes, __: Caller, ___: Answer) -> bool:
    return True


def message(size: int, *, length: int | None = None, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, size if length is None else length) + bytes(size)


@pytest.fixture
def methods() -> PromptMethods:
    return PromptMethods(
        {
            "/test/Prompt": UnaryMethod(by_task, promptly),
            "/test/Task": UnaryMethod(by_task),
            "/test/Stream": StreamMethod(by_stream),
        },
        MESSAGE_MAX,
    )


def test_a_usual_request_is_found_with_its_metadata(methods: PromptMethods) -> None:
    headers = [*USUAL, (b"authorization", b"Bearer x"), (b"grpc-timeout", b"5S")]
    for _ in range(2):
        found = methods.find(headers, message(3))
        assert found is not None
        assert (found.path, found.promptly, dict(found.metadata)) == (
            "/test/Prompt",
            promptly,
            {"authorization": "Bearer x"},
        )


def test_metadata_is_that_of_the_request(methods: PromptMethods) -> None:
    for token in (b"one", b"two", b"one"):
        found = methods.find([*USUAL, (b"authorization", token)], message(3))
        assert found is not None
        assert found.metadata["authorization"] == token.decode()


@pytest.mark.parametrize("deadline", [b"1H", b"99999999n", b"0u"])
def test_a_deadline_changes_nothing(methods: PromptMethods, deadline: bytes) -> None:
    assert methods.find([*USUAL[:5], (b"grpc-timeout", deadline), *USUAL[5:]], message(3)) is not None


@pytest.mark.parametrize(
    "body",
    [b"", bytes(4), message(3)[:-1], message(3) + b"x", message(3, compressed=1), message(MESSAGE_MAX + 1)],
    ids=["nothing", "half a prefix", "too short", "two", "compressed", "too large"],
)
def test_a_body_that_is_not_one_plain_message_is_left(methods: PromptMethods, body: bytes) -> None:
    assert methods.find(USUAL, body) is None
    assert methods.find(USUAL, message(MESSAGE_MAX)) is not None


def replaced(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(each, value if each == name else of_each) for each, of_each in USUAL]


@pytest.mark.parametrize(
    "headers",
    [
        replaced(b":path", b"/test/Task"),
        replaced(b":path", b"/test/Stream"),
        replaced(b":path", b"/test/Other"),
        replaced(b":path", b""),
        replaced(b":method", b"GET"),
        replaced(b"content-type", b"application/json"),
        replaced(b"user-agent", b"with\nbreak"),
        replaced(b"user-agent", "ä".encode()),
        replaced(b"te", b"gzip"),
        USUAL[1:],
        USUAL[:2] + USUAL[3:],
        [*USUAL, (b":path", b"/test/Prompt")],
        [*USUAL, (b":method", b"POST")],
        [*USUAL, (b"content-length", b"8")],
        [*USUAL, (b"connection", b"close")],
        [*USUAL, (b"Upper", b"x")],
        [*USUAL, (b"", b"x")],
        [*USUAL, (b"x-large", b"x" * 5_000)],
        [*USUAL, (b"grpc-timeout", b"soon")],
        [*USUAL, (b"grpc-timeout", b"1S\n")],
        [*USUAL, (b"grpc-timeout", b"1S"), (b"grpc-timeout", b"2S")],
    ],
)
def test_headers_that_are_not_those_of_a_usual_call_are_left(
    methods: PromptMethods, headers: list[tuple[bytes, bytes]]
) -> None:
    for _ in range(2):
        assert methods.find(headers, message(3)) is None


def test_a_caller_whose_metadata_always_differs_fills_no_memory(methods: PromptMethods) -> None:
    for number in range(3 * KNOWN_MAX):
        assert methods.find([*USUAL, (b"traceparent", b"%d" % number)], message(3)) is not None
    assert len(methods._known) <= KNOWN_MAX
