"""An edge whose journal is full: it says no, or drops what it may and says so, and goes on by itself after acks."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path
from typing import Any

import trio

from common.core.events.stated_range import StatedRange
from common.journal.sqlite import open_sqlite_journal
from tests.e2e.lines import Line, Relays
from tests.e2e.processes import Service, Stage

CAP: dict[str, Any] = {"journal_max_bytes": "1536KiB", "retention_interval_s": 0.1}
SIZE = 20_000


def cut_off(stage: Stage, relays: Relays, **settings: object) -> tuple[Service, Service, Line]:
    """A cloud, an edge, and the line between them, which is refused for now."""
    cloud = stage.cloud().start()
    line = relays.open(cloud)
    line.obey("refuse")
    return cloud, stage.edge(cloud=line.address, **(CAP | settings)).start(), line


def fill(edge: Service, entity: str = "temp1") -> int:
    """Append one by one until the edge says that it is full; returns how many it took."""
    for taken in range(1_000):
        status, body = edge.try_append(1, entity=entity, size=SIZE)
        if status != 201:
            assert (status, body["error"]["code"]) == (507, "journal.full"), body
            assert body["error"]["hint"]
            return taken
    raise AssertionError("20 MB fit into 1.5 MiB")


def has_trimmed(wanted: int, status: dict[str, Any]) -> bool:
    return bool(status["journal"]["trimmed"] >= wanted)


def test_a_full_journal_refuses_loses_nothing_and_takes_events_again_after_acks(stage: Stage, relays: Relays) -> None:
    cloud, edge, line = cut_off(stage, relays)
    taken = fill(edge)
    assert taken > 10
    status = edge.get("/status")
    assert status["journal"]["used_bytes"] <= 1536 * 1024
    assert status["lag"]["events"] == taken
    assert 0.9 < status["lag"]["bytes_estimated"] / (taken * SIZE) < 1.1
    edge.wait_for("http.refused", code="journal.full")
    for _ in range(2):  # what was acknowledged leaves room for as much again
        wanted = edge.get("/status")["journal"]["trimmed"] + 5
        line.obey("pass")
        cloud.delivered(taken)
        edge.until("/status", partial(has_trimmed, wanted))
        line.obey("refuse")
        again = fill(edge)
        assert again >= 5
        taken += again
    line.obey("pass")
    cloud.delivered(taken)
    files = sum(path.stat().st_size for path in edge.folder.glob("edge-journal.db*"))
    assert files <= 1536 * 1024


def test_dropping_the_oldest_plain_events_is_logged_and_stated_and_keeps_the_rest(stage: Stage, relays: Relays) -> None:
    cloud, edge, line = cut_off(stage, relays, on_full="drop_oldest", plain_types="Sensor")
    edge.append(5, entity_type="Alarm", entity="fire")
    taken = 0
    while edge.get("/status")["journal"]["dropped"] < 20:
        status, body = edge.try_append(1, size=SIZE)
        taken += status == 201
        assert status == 201 or body["error"]["code"] == "journal.full"
        assert taken < 1_000
    assert edge.wait_for("journal.dropping")["cap_bytes"] == 1536 * 1024
    edge.wait_for("journal.dropping_ended")
    edge.append(1, size=SIZE)  # the newest is taken
    taken += 1
    line.obey("pass")
    edge.until("/status", lambda body: body["link"]["acked"] == body["journal"]["head"])
    report = edge.get("/status")
    dropped, parked = report["journal"]["dropped"], report["link"]["parked"]
    arrived = cloud.delivered(5 + taken - dropped)
    assert parked == 0
    numbers = [event["origin_seq_nr"] for event in arrived if event["entity_type"] == "Sensor"]
    assert numbers == list(range(dropped + 1, taken + 1))
    assert [event["origin_seq_nr"] for event in arrived if event["entity_type"] == "Alarm"] == [1, 2, 3, 4, 5]
    cloud.stop()
    stated = stated_ranges(cloud.folder / "cloud-journal.db", "Sensor|e1/temp1")
    assert [(each.from_seq_nr, each.to_seq_nr, each.reason) for each in stated] == [(1, dropped, "dropped")]


def stated_ranges(path: Path, persistence_id: str) -> list[StatedRange]:
    """What a cloud's journal, which nobody has open, knows to be missing of an entity."""

    async def read() -> list[StatedRange]:
        async with open_sqlite_journal(path, now_us=lambda: 1, new_id=lambda: uuid.UUID(int=1).hex) as journal:
            return [row.stated for row in await journal.origins.stored_ranges(persistence_id)]

    return trio.run(read)
