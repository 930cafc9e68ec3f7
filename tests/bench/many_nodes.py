"""Measuring program: many whole cloud nodes in one process, which have nothing to do but stand by.

Each has its own sessions with the database, so the server sees what it would see of as many processes.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import trio

from cloud_service.service import serve
from cloud_service.settings import CloudSettings
from common import VERSION
from common.core.journal.url import parse_journal_url
from common.runtime.environment import real_environment, utc_now_us
from common.runtime.logs.setup import configure_logging
from tests.bench.processes import answer


async def _main(url: str, nodes: int, ranges: int) -> None:
    stop = trio.Event()
    async with real_environment() as environment, trio.open_nursery() as nursery:
        for number in range(1, nodes + 1):
            settings = CloudSettings(
                node=f"n{number}",
                journal=parse_journal_url(url),
                grpc_port=0,
                http_port=0,
                projections=("tally",),
                projection_ranges=ranges,
            )
            await nursery.start(partial(serve, settings, environment, stop))
        answer("load.ready")
        await trio.wrap_file(sys.stdin).readline()
        stop.set()


def main() -> None:
    """Arguments as JSON: ``url``, ``nodes``, ``ranges`` of one projection. A line on standard input ends it."""
    configure_logging(
        service="nodes", version=VERSION, instance="", now_us=utc_now_us, level="error", log_format="json"
    )
    trio.run(lambda: _main(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
