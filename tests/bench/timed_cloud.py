"""The cloud service, with a watch on its projections: when each commits, and which events with it.

It is the service as it is; only the hook that ``run_projections`` offers is used, which the service leaves empty. When
asked to stop it writes what it saw to the file of its first argument, one JSON list a projection.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import orjson

import common.runtime.service_parts
from cloud_service.cli import main as cloud_main
from common.core.batch import EventBatch
from common.projection.progress import ProjectionProgress
from common.projection.projection import run_projections
from common.runtime.outside import utc_now_us


def main() -> int:
    """Serve until stopped; the event's own time and the delay of its commit after it, in microseconds."""
    seen: dict[str, list[tuple[int, int]]] = {}

    def note(progress: ProjectionProgress, events: EventBatch) -> None:
        now_us = utc_now_us()
        seen.setdefault(progress.name, []).extend((due_us, now_us - due_us) for due_us in events.event_time_us)

    assert vars(common.runtime.service_parts).get("run_projections") is run_projections, (
        "services start them elsewhere: watch there"
    )
    common.runtime.service_parts.run_projections = partial(run_projections, on_commit=note)  # type: ignore[attr-defined]
    status = cloud_main(["run"])
    Path(sys.argv[1]).write_bytes(orjson.dumps(seen))
    return status


if __name__ == "__main__":
    sys.exit(main())
