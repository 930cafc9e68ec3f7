"""What an edge opens, and what it needs: sockets on loopback, one connection outwards, no PostgreSQL driver."""

from __future__ import annotations

import socket
from typing import Any

import psutil

from examples.support.postgres import Databases
from tests.e2e.processes import Service, Stage

NO_DRIVER = "import sys; sys.modules['asyncpg'] = None"
NO_SQLITE = "import sys; sys.modules['apsw'] = None"


def internet_sockets(service: Service) -> list[Any]:
    """Every socket of its process and of its children that is not one of its own Unix pairs."""
    process = psutil.Process(service.process.pid)
    found = []
    for member in (process, *process.children(recursive=True)):
        for connection in member.net_connections(kind="all"):
            if connection.family == socket.AF_UNIX:
                assert not connection.laddr, f"a Unix socket with a name: {connection}"
            else:
                found.append(connection)
    return found


def test_an_edge_listens_on_loopback_only_and_dials_nobody_but_the_cloud(stage: Stage) -> None:
    cloud, edge = stage.pair()
    edge.append(3)
    cloud.delivered(3)
    found = internet_sockets(edge)
    assert {connection.type for connection in found} == {socket.SOCK_STREAM}
    listening = {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", edge.http_port), ("127.0.0.1", edge.grpc_port)}
    doors = {edge.http_port, edge.grpc_port}
    outwards = [tuple(each.raddr) for each in found if each.raddr and each.laddr.port not in doors]
    assert outwards == [("127.0.0.1", cloud.grpc_port)]


def test_an_edge_starts_and_works_without_a_postgresql_driver(stage: Stage) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud)
    edge.launch(prologue=NO_DRIVER)
    edge.until_ready().append(3)
    cloud.delivered(3)
    edge.stop()
    edge.launch(prologue=NO_DRIVER, journal="postgresql://edge@127.0.0.1:1/events")
    assert edge.exit_status() == 2
    refused = edge.wait_for("service.refused", code="journal.driver_missing")
    assert "pip install" in refused["hint"]


def test_a_cloud_on_postgresql_starts_and_works_without_apsw(stage: Stage, postgres_url: str) -> None:
    cloud = stage.cloud(journal=postgres_url)
    cloud.launch(prologue=NO_SQLITE)
    edge = stage.edge(cloud=cloud.until_ready()).start()
    edge.append(3)
    cloud.delivered(3)
    cloud.stop()


def test_an_edge_may_keep_its_journal_in_postgresql(stage: Stage, postgres_url: str, postgres: Databases) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge(cloud=cloud, journal=postgres_url).start()
    edge.append(3)
    cloud.delivered(3)
    edge.kill()
    edge.start().append(2)
    cloud.delivered(5)
    assert edge.wait_for("push.started", process=edge.process.pid)["resume"] == "resume"
    password = postgres.url.partition("://")[2].partition("@")[0].partition(":")[2]
    assert not any(password in str(line) for line in edge.lines), "the log tells a password"
    edge.stop()
