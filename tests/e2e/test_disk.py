"""A journal that is full, only reads or is away: what a service does then, and what it says of itself."""

from __future__ import annotations

import resource
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import trio

from common.core.events.stated_range import StatedRange
from common.journal.sqlite import open_sqlite_journal
from examples.support.postgres import Databases, PostgresServer
from tests.e2e.lines import Line, Relays
from tests.e2e.processes import PATIENCE_S, Service, Stage

CAP: dict[str, Any] = {"journal_max_bytes": "1536KiB", "retention_interval_s": 0.1}
SIZE = 20_000
READY_WITHIN_S = 45.0
# A process that cannot make a file longer, nor write into one, and that finds no room on its disk for as long.
NO_ROOM = """
import os, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
measured = os.statvfs
def statvfs(path):
    found = measured(path)
    is_full = not resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return os.statvfs_result((*found[:3], 0, 0, *found[5:])) if is_full else found
os.statvfs = statvfs
"""


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


def readiness(service: Service, *, ready: bool) -> dict[str, Any]:
    """Wait until ``/readyz`` says so; the reasons."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        status, body = service.ask("GET", "/readyz")
        assert (status == 200) == body["ready"]
        if body["ready"] == ready:
            reasons: dict[str, Any] = body["reasons"]
            return reasons
        assert time.monotonic() < deadline, (body, service.last_words())
        time.sleep(0.05)


def status_within_a_second(service: Service) -> dict[str, Any]:
    """``/status``, which must not wait for the journal."""
    began_s = time.monotonic()
    body = service.get("/status")
    assert time.monotonic() - began_s < 5.0
    return body


def read_only(server: Databases, url: str, value: str) -> None:
    """Let every session of the database only read, or write again; those that are open end."""
    name = url.rpartition("/")[2].partition("?")[0]
    server.run(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
    server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


def test_a_node_over_a_database_that_only_reads_is_not_ready_and_says_so(stage: Stage, postgres: Databases) -> None:
    with postgres.fresh() as url:
        cloud = stage.cloud(journal=url).start()
        assert readiness(cloud, ready=True) == {}
        cloud.append(1)
        read_only(postgres, url, "on")
        status, body = cloud.try_append(1)
        assert (status, body["error"]["code"]) == (503, "journal.unavailable")
        reasons = readiness(cloud, ready=False)
        assert "journal.unavailable" in "".join(reasons.values())
        assert "read-only" in "".join(reasons.values())
        read_only(postgres, url, "off")
        readiness(cloud, ready=True)  # nothing is appended meanwhile: it finds out by itself
        cloud.append(1)
        stage.end()


def test_a_node_whose_database_is_away_answers_with_what_it_knows(stage: Stage, own_postgres: PostgresServer) -> None:
    url = own_postgres.create()
    cloud = stage.cloud(journal=url).start()
    cloud.append(3)
    known = status_within_a_second(cloud)
    assert (known["journal"]["head"], known["stale"]) == (3, None)
    assert known["age_s"] < 1.0
    own_postgres.stop()
    readiness(cloud, ready=False)
    for old in [status_within_a_second(cloud) for _ in range(3)]:
        assert old["journal"] == known["journal"]
        assert old["stale"]
        assert known["as_of"] <= old["as_of"] < time.time() - old["age_s"] + 1.0
    assert cloud.ask("GET", "/livez")[0] == 200
    own_postgres.start()
    readiness(cloud, ready=True)
    fresh = cloud.until("/status", lambda body: body["stale"] is None, timeout_s=PATIENCE_S)
    assert fresh["as_of"] > known["as_of"]
    stage.end()


def test_an_edge_at_its_cap_is_not_ready_and_says_that_it_is_the_cap(stage: Stage, relays: Relays) -> None:
    _, edge, line = cut_off(stage, relays)
    assert readiness(edge, ready=True) == {}
    fill(edge)
    reasons = readiness(edge, ready=False)
    assert list(reasons) == ["appends"]
    assert "journal.full" in reasons["appends"]
    assert "cap" in reasons["appends"]
    said = edge.wait_for("journal.unwritable", code="journal.full")
    assert "journal_max_bytes" in said["hint"]
    line.obey("pass")
    readiness(edge, ready=True)


def start_without_room(service: Service, **settings: object) -> None:
    """Begin a life on a disk that another program has filled, after a clean stop, and without the reserve."""
    [journal] = service.folder.glob("*-journal.db")
    assert not list(service.folder.glob("*-shm")), "it was not stopped cleanly"
    Path(f"{journal}.reserve").unlink()
    mark = service.mark()
    service.launch(prologue=NO_ROOM, **settings)
    service.until_ready()
    service.wait_for("journal.opened_full", after=mark)
    assert not any(one.stat().st_size for one in service.folder.glob("*-shm"))
    reasons = readiness(service, ready=False)
    assert "journal.disk_full" in reasons["appends"]
    status, body = service.try_append(1)
    assert (status, body["error"]["code"]) == (507, "journal.disk_full")


def make_room(service: Service) -> None:
    """Let the process write again."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, unlimited)
    readiness(service, ready=True)


def test_an_edge_that_starts_on_a_disk_without_any_room_pushes_what_it_has(stage: Stage, relays: Relays) -> None:
    cloud, edge, line = cut_off(stage, relays)
    edge.append(5)
    edge.stop()
    line.obey("pass")
    start_without_room(edge)
    cloud.delivered(5)
    assert len(edge.get("/v1/events")["events"]) == 5
    make_room(edge)
    edge.append(2)
    cloud.delivered(7)
    edge.kill()
    edge.start()  # what was stored without a file for the index is there
    edge.append(1)
    cloud.delivered(8)


def test_a_cloud_that_starts_on_a_disk_without_any_room_serves_what_it_has(stage: Stage) -> None:
    cloud, edge = stage.pair()
    edge.append(5)
    cloud.delivered(5)
    cloud.stop()
    start_without_room(cloud, grpc_port=cloud.grpc_port)
    assert len(cloud.get("/v1/events")["events"]) == 5
    edge.append(2)
    make_room(cloud)
    cloud.delivered(7)
    edge.until("/status", lambda body: body["link"]["acked"] == body["journal"]["head"])
    cloud.append(1)
