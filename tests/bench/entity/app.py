"""The application of the entity benchmark: counters, without and with snapshots."""

from __future__ import annotations

from common.runtime.app.application import App
from tests.support.entities import Counters


class Snapped(Counters):
    """Keeps a snapshot every 1,000 events."""

    entity_type = "Snapped"
    snapshot_every = 1_000


app = App(entities=[Counters])
