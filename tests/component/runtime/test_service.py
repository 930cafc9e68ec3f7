"""A service's life: signals as real signals to a real process, exit statuses, and supervised restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
import trio

from common.core.errors import BackhaulError, ConfigurationError
from common.runtime.service import run_service

PROGRAM = """
import sys, trio
from common.core.errors import BackhaulError, ConfigurationError
from common.runtime.logs.setup import configure_logging, get_logger
from common.runtime.service import run_service
configure_logging(service="edge", version="1", instance="e", now_us=lambda: 0)

async def main(stop):
    get_logger().info("test.ready")
{body}

sys.exit(run_service(main, drain_s={drain_s}, reload=lambda: get_logger().info("test.reloaded")))
"""


class Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def line(self) -> dict[str, object]:
        assert self._process.stdout is not None
        parsed = json.loads(self._process.stdout.readline())
        assert isinstance(parsed, dict)
        return parsed

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> tuple[int, list[object]]:
        """The exit status and the events of the remaining lines; nothing may be on standard error."""
        out, error = self._process.communicate(timeout=20)
        assert error == b""
        return self._process.returncode, [json.loads(line)["event"] for line in out.splitlines()]


@contextmanager
def service(*body: str, drain_s: float = 5) -> Iterator[Process]:
    text = "\n".join(f"    {line}" for line in body)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=text, drain_s=drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        running = Process(process)
        try:
            assert running.line()["event"] == "test.ready"
            yield running
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_drain_and_a_drained_service_ends_with_0(number: signal.Signals) -> None:
    with service("await stop.wait()", 'get_logger().info("test.drained")') as process:
        process.signal(number)
        assert process.ended() == (0, ["service.stopping", "test.drained", "service.stopped"])


def test_a_hang_up_reloads_and_ends_nothing() -> None:
    with service("await stop.wait()", 'get_logger().info("test.drained")') as process:
        for _ in range(3):
            process.signal(signal.SIGHUP)
            assert process.line()["event"] == "test.reloaded"
        process.signal(signal.SIGTERM)
        assert process.ended() == (0, ["service.stopping", "test.drained", "service.stopped"])


def test_a_service_that_does_not_drain_in_time_is_cancelled_and_ends_with_1() -> None:
    with service("await trio.sleep_forever()", drain_s=0.1) as process:
        process.signal(signal.SIGTERM)
        assert process.ended() == (1, ["service.stopping", "service.drain_timed_out"])


def test_a_service_that_ignores_its_cancellation_is_ended_all_the_same() -> None:
    with service("with trio.CancelScope(shield=True):", "    await trio.sleep_forever()", drain_s=0.1) as process:
        process.signal(signal.SIGTERM)
        assert process.ended() == (1, ["service.stopping", "service.stuck"])


def test_a_second_signal_ends_the_process_at_once() -> None:
    with service("await trio.sleep_forever()", drain_s=600) as process:
        process.signal(signal.SIGTERM)
        assert process.line()["event"] == "service.stopping"
        process.signal(signal.SIGINT)
        assert process.ended() == (1, ["service.killed"])


def test_a_service_that_fails_says_why_once_and_ends_with_1() -> None:
    with service("async with trio.open_nursery():", '    raise ValueError("what")') as process:
        line = process.line()
        assert (line["event"], line["code"], line["reason"]) == ("service.failed", "internal", "ValueError('what')")
        assert "exceptions" in line
        assert process.ended() == (1, [])


def test_a_service_that_must_not_start_says_what_to_change_and_ends_with_2() -> None:
    body = 'raise ConfigurationError("settings.missing", "no id", "set EDGE_ID", details={"setting": "id"})'
    with service("async with trio.open_nursery():", f"    {body}") as process:
        line = process.line()
        answer = (line["event"], line["code"], line["reason"], line["hint"], line["details"])
        assert answer == ("service.refused", "settings.missing", "no id", "set EDGE_ID", {"setting": "id"})
        assert process.ended() == (2, [])


@pytest.mark.parametrize(
    ("error", "status", "event", "code"),
    [
        (None, 0, "service.stopped", None),
        (ConfigurationError("settings.missing", "m"), 2, "service.refused", "settings.missing"),
        (BackhaulError("journal.unavailable", "m"), 1, "service.failed", "journal.unavailable"),
        (OSError(5, "m"), 1, "service.failed", "internal"),
        (KeyboardInterrupt(), 1, "service.killed", None),
    ],
)
def test_exit_statuses(error: BaseException | None, status: int, event: str, code: str | None) -> None:
    async def main(_: trio.Event) -> None:
        if error is not None:
            raise error

    with structlog.testing.capture_logs() as logs:
        assert run_service(main, drain_s=1) == status
    assert [(line["event"], line.get("code")) for line in logs] == [(event, code)]
