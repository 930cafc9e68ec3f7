"""The trace of a run sees every line of the services, whatever ran in this process before."""

from __future__ import annotations

import structlog
import trio

from common.runtime.http import app
from tests.simulation.trace import Trace


def test_a_logger_that_was_used_under_another_configuration_is_captured() -> None:
    before = structlog.get_config()
    structlog.configure(cache_logger_on_first_use=True, logger_factory=structlog.ReturnLoggerFactory())
    try:
        app.log.info("http.refused", code="before")
        trace = Trace()

        async def run() -> None:
            with trace.captured_logs():
                app.log.warning("http.refused", code="while")

        trio.run(run)
    finally:
        structlog.configure(**before)
    assert any("code=while" in line for line in trace.lines)
