"""The cloud service, with a watch on its projections: when each commits, and which events with it.

It is the service as it is, given an outside that watches. When asked to stop it writes what it saw to the file of its
first argument: for each projection a list of pairs, an event's own time and the delay of its commit after it, both in
microseconds.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import trio

from cloud_service.cli import CLOUD
from cloud_service.service import serve
from cloud_service.settings import CloudSettings
from common.core.events.batch import EventBatch
from common.projection.progress import ProjectionProgress
from common.runtime.cli import main as cli
from common.runtime.environment import Environment, utc_now_us


def main() -> int:
    """Serve until stopped; returns the service's exit status."""
    seen: dict[str, list[tuple[int, int]]] = {}

    def note(progress: ProjectionProgress, events: EventBatch) -> None:
        now_us = utc_now_us()
        seen.setdefault(progress.name, []).extend((due_us, now_us - due_us) for due_us in events.event_time_us)

    async def serve_watched(settings: CloudSettings, environment: Environment, stop: trio.Event) -> None:
        await serve(settings, replace(environment, on_projected=note), stop)

    status = cli.main(replace(CLOUD, load_serve=lambda: serve_watched), ["run"], os.environ)
    Path(sys.argv[1]).write_bytes(orjson.dumps(seen))
    return status


if __name__ == "__main__":
    sys.exit(main())
