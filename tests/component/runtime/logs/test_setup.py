"""Log lines: complete, bounded, without secrets, and never the reason a service fails."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from common.core.errors import BackhaulError
from common.runtime.logs.fields import cleaned, described
from common.runtime.logs.rate_limit import RepeatLimiter, Suppressed
from common.runtime.logs.setup import LAST_LINES, configure_logging, get_logger, log_level, set_log_level


class Lines:
    """A stream that keeps what was written, and fails or takes little when told to."""

    def __init__(self) -> None:
        self.data = b""
        self.error: OSError | None = None
        self.takes = 10**9

    def write(self, data: bytes, /) -> int | None:
        if self.error is not None:
            raise self.error
        taken = data[: self.takes]
        self.data += taken
        return len(taken)

    def parsed(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.data.splitlines()]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_123_456

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Iterator[Lines]:
    before = structlog.get_config()
    stream = Lines()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(
        service="edge", version="1.2", instance="e1", now_us=clock, level="info", log_format="json", stream=stream
    )
    # Loggers of modules are cached once used; a test's own must not outlive it.
    structlog.configure(cache_logger_on_first_use=False)
    yield stream
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level


def test_a_line_has_the_fixed_fields_first_then_its_own(lines: Lines) -> None:
    get_logger().info("link.connected", peer="x:1", position=7)
    assert lines.data == (
        b'{"timestamp":"2023-11-14T22:13:20.123456Z","level":"info","event":"link.connected","service":"edge",'
        b'"version":"1.2","instance":"e1","peer":"x:1","position":7}\n'
    )


def test_bound_context_is_on_the_line_and_may_name_the_instance(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(origin_id="e9", instance="node-2"):
        get_logger().info("a.b")
    assert lines.parsed()[0] | {"origin_id": "e9", "instance": "node-2"} == lines.parsed()[0]


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    get_logger().debug("a.b")
    assert lines.data == b""


def test_secrets_and_payloads_are_not_written(lines: Lines) -> None:
    get_logger().info(
        "a.b",
        password="hunter2",
        db_password="hunter2",
        payload=b"hunter2",
        details={"token": "hunter2", "url": "postgresql://me:hunter2@host/db"},
        raw=b"hunter2",
    )
    assert b"hunter2" not in lines.data
    assert lines.parsed()[0]["raw"] == "<7 bytes>"
    assert lines.parsed()[0]["details"] == {"token": "***", "url": "postgresql://me:***@host/db"}


def test_values_json_has_no_word_for_still_make_a_line(lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError

    get_logger().info("a.b", a=float("nan"), b="\ud800", c=2**70, d={1: {2}}, e=Broken(), f=b"x")
    line = json.loads(lines.data)
    assert (line["a"], line["b"], line["c"], line["d"], line["e"]) == ("nan", "?", 2**70, {"1": [2]}, "<Broken>")


def test_long_values_are_cut(lines: Lines) -> None:
    get_logger().info("a.b", text="x" * 10_000, items=list(range(10_000)))
    assert len(lines.data) < 3000


def test_an_exception_is_data_with_causes_members_and_codes(lines: Lines) -> None:
    try:
        try:
            raise ExceptionGroup("several", [BackhaulError("journal.full", "no room", "make some"), OSError(5, "x")])
        except ExceptionGroup as group:
            raise RuntimeError("the outer one") from group
    except RuntimeError:
        get_logger().exception("http.failed")
    line = lines.parsed()[0]
    assert line["level"] == "error"
    answer = line["exceptions"]
    assert isinstance(answer, list)
    assert [(entry["type"], entry.get("relation"), entry.get("code")) for entry in answer] == [
        ("RuntimeError", None, None),
        ("ExceptionGroup", "cause", None),
        ("BackhaulError", "member", "journal.full"),
        ("OSError", "member", None),
    ]
    assert "test_setup.py" in answer[0]["frames"][0]


def test_deep_tracebacks_and_long_chains_are_bounded() -> None:
    def fall(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 10_000)
        try:
            fall(depth - 1)
        except ValueError as error:
            raise ValueError(str(error)) from error

    with pytest.raises(ValueError, match="x") as caught:
        fall(50)
    assert len(orjson.dumps(described(caught.value))) < 20_000


def test_repeats_are_written_once_with_a_count(lines: Lines, clock: Clock) -> None:
    for _ in range(5):
        get_logger().warning("http.refused", code="x", repeat_key="x")
    get_logger().warning("http.refused", code="y", repeat_key="y")
    clock.now += 10_000_000
    get_logger().warning("http.refused", code="x", repeat_key="x")
    answer = [(line["event"], line["code"], line.get("repeats_suppressed")) for line in lines.parsed()]
    assert answer == [("http.refused", "x", None), ("http.refused", "y", None), ("http.refused", "x", 4)]
    assert b"repeat_key" not in lines.data


def test_a_count_nobody_asks_for_is_told_with_the_next_line(lines: Lines, clock: Clock) -> None:
    for _ in range(3):
        get_logger().warning("http.refused", repeat_key="x")
    clock.now += 60_000_000
    get_logger().info("a.b")
    answer = [(line["event"], line.get("repeated"), line.get("count")) for line in lines.parsed()]
    assert answer == [
        ("http.refused", None, None),
        ("repeat.suppressed", "http.refused", 2),
        ("a.b", None, None),
    ]


@pytest.mark.parametrize("last", sorted(LAST_LINES))
def test_a_count_is_told_before_the_last_line_of_a_process(lines: Lines, clock: Clock, last: str) -> None:
    for _ in range(3):
        get_logger().warning("http.refused", repeat_key="x")
    clock.now += 1_000_000
    get_logger().info(last)
    answer = [(line["event"], line.get("repeated"), line.get("count")) for line in lines.parsed()]
    assert answer == [
        ("http.refused", None, None),
        ("repeat.suppressed", "http.refused", 2),
        (last, None, None),
    ]


def test_the_limiter_forgets_the_oldest_when_there_are_too_many_keys() -> None:
    limiter = RepeatLimiter(window_s=10, keys_max=2)
    assert [limiter.admit("a.b", key, 0) for key in ("1", "1", "2", "3")] == [0, None, 0, 0]
    assert limiter.due(0) == [Suppressed("a.b", "1", 1)]
    assert limiter.admit("a.b", "2", 1) is None


def test_a_clock_that_steps_back_does_not_silence_a_line() -> None:
    limiter = RepeatLimiter(window_s=10)
    assert [limiter.admit("a.b", "", now_s) for now_s in (1000, 5, 6)] == [0, 0, None]


def test_other_libraries_logs_come_in_as_events(lines: Lines) -> None:
    logging.getLogger("h2.connection").error("broken %s", "frame")
    logging.getLogger("asyncio").info("not interesting")
    answer = [(line["event"], line["level"], line["library"], line["message"]) for line in lines.parsed()]
    assert answer == [("library.logged", "error", "h2.connection", "broken frame")]


def test_a_reader_that_went_away_costs_lines_only(lines: Lines) -> None:
    lines.error = BrokenPipeError()
    get_logger().info("a.b")
    lines.error = None
    get_logger().info("c.d")
    assert [line["event"] for line in lines.parsed()] == ["c.d"]


def test_a_torn_line_does_not_spoil_the_next(lines: Lines) -> None:
    class Tearing(Lines):
        def write(self, data: bytes, /) -> int | None:
            if len(self.data) >= 10 and self.takes < 100:
                return None
            return super().write(data)

    stream = Tearing()
    stream.takes = 10
    configure_logging(service="edge", version="1", instance="e", now_us=lambda: 0, stream=stream)
    structlog.configure(cache_logger_on_first_use=False)
    get_logger().info("a.b")
    stream.takes = 10**9
    get_logger().info("c.d")
    assert [json.loads(line)["event"] for line in stream.data.splitlines()[1:]] == ["c.d"]


def test_pretty_lines_show_no_control_characters(capsysbinary: pytest.CaptureFixture[bytes], lines: Lines) -> None:
    configure_logging(service="edge", version="1", instance="e", now_us=lambda: 0, log_format="pretty", stream=lines)
    structlog.configure(cache_logger_on_first_use=False)
    get_logger().info("a.b", name="x\x1b]0;owned\x07\ny", exc_info=ValueError("oops"))
    assert b"\x1b]0" not in lines.data
    assert b"ValueError: oops" in lines.data


def test_the_level_changes_for_loggers_that_are_in_use(lines: Lines) -> None:
    configure_logging(service="edge", version="1", instance="e", now_us=lambda: 0, level="info", stream=lines)
    logger = get_logger().bind(part="a")
    try:
        logger.debug("a.unseen")
        assert set_log_level("debug", by="http") == "info"
        logger.debug("a.seen")
        assert set_log_level("error", by="http") == "debug"
        logger.warning("a.unseen")
        assert set_log_level("error", by="http") == "error"
        assert set_log_level("info", by="reload") == "error"
        assert log_level() == "info"
    finally:
        set_log_level("info", by="test")
        structlog.configure(cache_logger_on_first_use=False)
    events = [(line["event"], line.get("to")) for line in map(json.loads, lines.data.splitlines())]
    assert events == [
        ("log.level_changed", "debug"),
        ("a.seen", None),
        ("log.level_changed", "error"),
        ("log.level_changed", "info"),
    ]


def test_a_closed_standard_output_neither_stops_nor_fails_the_process() -> None:
    program = (
        "from common.runtime.logs.setup import configure_logging, get_logger\n"
        "configure_logging(service='edge', version='1', instance='e', now_us=lambda: 0)\n"
        "[get_logger().info('a.b') for _ in range(3)]\n"
        "import sys; sys.stdin.read()\n"
        "[get_logger().info('a.b') for _ in range(3)]\n"
        "sys.exit(7)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018
        if not select.select([process.stdout], [], [], 10)[0]:
            process.kill()
            pytest.fail("a line was held back in a buffer")
        assert json.loads(process.stdout.readline())["event"] == "a.b"
        process.stdout.close()
        process.stdin.close()
        assert process.wait(20) == 7
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("key", "is_withheld"),
    [("password", True), ("auth_token", True), ("tokens_per_s", False), ("payload", True), ("payload_bytes", False)],
)
def test_which_keys_are_withheld(key: str, is_withheld: bool) -> None:
    assert (cleaned(key, "x") == "***") is is_withheld
