"""The cloud service, with a watch on its journal and its projections: when each commits, and which events with it.

It is the service as it is, given an environment that watches. When asked to stop it writes what it saw to the file of
its first argument: under ``commit`` a list of pairs, an event's own time and the delay of the journal's commit after
it, both in microseconds, and under ``projections`` such a list for each of them. Events without a time of their own
are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import trio

from cloud_service.cli import CLOUD
from cloud_service.service import serve
from cloud_service.settings import CloudSettings
from common.core.events.batch import EventBatch
from common.core.journal.url import JournalUrl
from common.journal.stores.journal import Journal
from common.projection.progress import ProjectionProgress
from common.runtime.cli import main as cli
from common.runtime.environment import Environment, utc_now_us


def main() -> int:
    """Serve until stopped; returns the service's exit status."""
    committed: list[tuple[int, int]] = []
    projected: dict[str, list[tuple[int, int]]] = {}

    def note(progress: ProjectionProgress, events: EventBatch) -> None:
        projected.setdefault(progress.name, []).extend(_delays(events))

    async def serve_watched(settings: CloudSettings, environment: Environment, stop: trio.Event) -> None:
        @asynccontextmanager
        async def open_watched(
            url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
        ) -> AsyncIterator[Journal]:
            async with environment.open_journal(
                url, max_bytes=max_bytes, notified=notified, migrates=migrates
            ) as journal:
                with journal.log.feed.listen(lambda events: committed.extend(_delays(events))):
                    yield journal

        await serve(settings, replace(environment, open_journal=open_watched, on_projected=note), stop)

    status = cli.main(replace(CLOUD, load_serve=lambda: serve_watched), ["run"], os.environ)
    Path(sys.argv[1]).write_bytes(orjson.dumps({"commit": committed, "projections": projected}))
    return status


def _delays(events: EventBatch) -> list[tuple[int, int]]:
    now_us = utc_now_us()
    return [(due_us, now_us - due_us) for due_us in events.event_time_us if due_us]


if __name__ == "__main__":
    sys.exit(main())
