"""`edge-service append`: batches, keys, answers checked, and which line was wrong."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from common.core.errors import BackhaulError
from common.runtime.cli.append import read_batches
from edge_service.cli import main as edge_main
from tests.support.answering import AnsweringService

Body = dict[str, Any]


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"n": %d}\n' % number for number in numbers)


@pytest.fixture
def append(service: AnsweringService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run_append(content: bytes, *words: str) -> int:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        return edge_main(["append", "--http-port", service.port, *words])

    return run_append


def store(body: Body) -> tuple[int, object]:
    return 201, {"events": body["events"], "repeated": False}


def test_append_sends_batches_with_keys_that_a_repeat_has_too(
    service: AnsweringService, append: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.judge = store
    assert append(b"\n" + lines(1, 2) + b" \n" + b'{"n": 3}', "--batch", "2", "--idempotency-prefix", "p") == 0
    assert [body for _, _, body in service.requests] == [
        {"events": [{"n": 1}, {"n": 2}], "idempotency_key": "p:2"},
        {"events": [{"n": 3}], "idempotency_key": "p:5"},
    ]
    assert capsys.readouterr().out == "3 events acknowledged\n"
    assert service.connections == 1

    service.judge = lambda body: (200, {"events": body["events"], "repeated": True})
    assert append(lines(1), "--idempotency-prefix", "p") == 0
    assert capsys.readouterr().out == "1 events acknowledged, 1 of them were stored before\n"


@pytest.mark.parametrize("details", [{"index": 1}, {"field": "events[1].payload"}])
def test_append_names_the_refused_line(
    details: dict[str, object],
    service: AnsweringService,
    append: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def judge(body: Body) -> tuple[int, object]:
        if {"n": 4} in body["events"]:
            return 400, {"error": {"code": "events.invalid", "message": "no", "hint": "mend", "details": details}}
        return store(body)

    service.judge = judge
    assert append(lines(1, 2, 3, 4), "--batch", "2") == 1
    answer = capsys.readouterr()
    assert answer.out == "2 events acknowledged\n"
    assert answer.err == "events.invalid: line 4: no\n  hint: mend\n"


@pytest.mark.parametrize("bad", [b"{bad", b"[1]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_append_names_a_line_that_is_no_event(
    bad: bytes, service: AnsweringService, append: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.judge = store
    assert append(lines(1, 2, 3) + bad + b"\n" + lines(5), "--batch", "2") == 1
    answer = capsys.readouterr()
    assert answer.out == "2 events acknowledged\n"
    assert answer.err.startswith("cli.bad_line: line 4 is n")
    assert "line 3 before it" in answer.err
    assert "line 1" not in answer.err
    assert len(service.requests) == 1


def test_append_says_that_nothing_was_stored_where_it_could_not_connect(
    append: Callable[..., int], closed_port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert append(lines(1, 2), "--http-port", closed_port) == 1
    answer = capsys.readouterr()
    assert answer.out == "0 events acknowledged\n"
    assert answer.err.startswith("cli.service_unreachable: lines 1 to 2: no service answers")
    assert "nothing of these was sent or stored" in answer.err


def test_append_says_that_it_does_not_know(
    service: AnsweringService, append: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.unanswered = 2
    for words, again in ([], "look with `tail`"), (["--idempotency-prefix", "p"], "again with the same prefix"):
        assert append(lines(1, 2), *words) == 1
        answer = capsys.readouterr()
        assert answer.out == "0 events acknowledged\n"
        assert answer.err.startswith("cli.no_answer: lines 1 to 2: ")
        assert "whether these were stored is not known" in answer.err
        assert again in answer.err


def test_retry_repeats_by_key_what_was_not_answered_or_could_not_be_taken(
    service: AnsweringService,
    append: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    full = {"error": {"code": "journal.full", "message": "the journal is full", "retry_after_s": 3.0}}
    answers = iter([(507, full), (503, full | {"error": {"code": "service.draining", "message": "stops"}})])
    service.judge = lambda body: next(answers, None) or store(body)
    service.unanswered = 1

    assert append(lines(1, 2), "--retry") == 0
    answer = capsys.readouterr()
    assert answer.out == "2 events acknowledged\n"
    [first, second, third, last] = answer.err.splitlines()
    assert first.startswith("cli.no_answer: lines 1 to 2: ")
    assert "whether these are stored is not known" in first
    assert (
        second
        == "journal.full: lines 1 to 2: the journal is full; none of these is stored; trying again until they are"
    )
    assert third.startswith("service.draining: ")
    assert last.startswith("lines 1 to 2: acknowledged, after ")
    bodies = [body for _, _, body in service.requests]
    assert len({body["idempotency_key"] for body in bodies}) == 1
    assert len(bodies) == 4
    assert slept[1] == 3.0


def test_retry_ends_where_the_service_refuses_for_good(
    service: AnsweringService, append: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.judge = lambda _: (400, {"error": {"code": "events.invalid", "message": "no"}})
    assert append(lines(1), "--retry") == 1
    assert capsys.readouterr().err == "events.invalid: line 1: no\n"


def test_append_checks_that_all_events_were_answered(
    service: AnsweringService, append: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.judge = lambda _: (200, {"events": []})
    assert append(lines(1)) == 1
    assert capsys.readouterr().err.startswith("cli.unexpected_answer: line 1: ")


class Trickle:
    """An input that gives what it is told, piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.given = 0

    def read1(self, _size: int, /) -> bytes:
        self.given += 1
        return self._pieces.pop(0) if self._pieces else b""


def cut(source: Trickle, **bounds: int) -> list[list[int]]:
    settings = {"events_max": 100, "bytes_max": 10_000, "line_max": 1000, **bounds}
    return [batch.numbers for batch in read_batches(source, **settings, is_eager=False)]


def test_batches_are_cut_alike_however_the_input_arrives() -> None:
    content = lines(*range(1, 8))
    whole = cut(Trickle(content), events_max=3)
    assert whole == [[1, 2, 3], [4, 5, 6], [7]]
    assert cut(Trickle(*(content[i : i + 1] for i in range(len(content)))), events_max=3) == whole


def test_an_eager_batch_does_not_wait_for_more() -> None:
    source = Trickle(lines(1, 2), lines(3))
    batches = read_batches(source, events_max=100, bytes_max=10_000, line_max=1000, is_eager=True)
    assert next(batches).numbers == [1, 2]
    assert source.given == 1


def test_a_batch_is_bounded_in_bytes_and_a_line_too() -> None:
    assert cut(Trickle(lines(1, 2, 3)), bytes_max=2 * (120 + 8)) == [[1, 2], [3]]
    endless = Trickle(*[b"x" * 100] * 50)
    with pytest.raises(BackhaulError, match="line 1 is longer than 1000 bytes"):
        cut(endless)
    assert endless.given == 11
