"""Doors of their own for programs and operators, with tokens: who lacks the right is refused at each, and it is written."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from common.border import open_loop
from common.core.addresses import parse_address
from common.core.errors import BackhaulError
from common.runtime.intake_grpc import APPEND_PATH, APPEND_STREAM_PATH
from common.transport.grpc.client import open_channel
from examples.support.processes import ROOT, environment, service_variables
from tests.e2e.processes import Service, Stage, open_stage

EVENT = {"entity_type": "Sensor", "entity_id": "t", "event_type": "Read", "payload": 1}
OF_PROGRAMS = [("POST", "/v1/events", EVENT), ("GET", "/v1/events?after=0", None), ("GET", "/v1/inbox/orders", None)]
OF_OPERATORS = [
    ("GET", "/status", None),
    ("POST", "/v1/parked/retry", {"entity": "A|x"}),
    ("GET", "/v1/policy?who=g", None),
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with open_stage(tmp_path) as stage:
        yield stage


def command(service: Service, *words: str) -> tuple[int, str]:
    """The command line with the service's own settings, as an operator has them."""
    variables = service_variables(f"{service.kind}_service", service.settings | {"http_port": service.http_port})
    program = f"from {service.kind}_service.__main__ import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment({"PYTHONPATH": ROOT, **variables}),
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def asked_at_socket(path: Path, method: str, target: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def refusals(service: Service, requests: list[tuple[str, str, Any]], headers: dict[str, str]) -> set[tuple[int, str]]:
    answers = [service.ask(method, path, body, headers=headers) for method, path, body in requests]
    return {(status, body.get("error", {}).get("code", "")) for status, body in answers}


@pytest.mark.parametrize("kind", ["cloud", "edge"])
def test_each_right_needs_its_own_token_and_probes_need_none(stage: Stage, tmp_path: Path, kind: str) -> None:
    files = {right: tmp_path / f"{right}.token" for right in ("programs", "operators")}
    settings: dict[str, object] = {f"{right}_token": path for right, path in files.items()}
    service = (
        stage.cloud("c", **settings) if kind == "cloud" else stage.edge("e", cloud="localhost:9", **settings)
    ).start()
    tokens = {right: path.read_text().strip() for right, path in files.items()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    assert tokens["programs"] != tokens["operators"]
    assert all(len(token) >= 32 for token in tokens.values())
    refused = {(401, "auth.token_refused")}
    bearers = {right: {"authorization": f"Bearer {token}"} for right, token in tokens.items()}
    for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": tokens["programs"]}, bearers["operators"]):
        assert refusals(service, OF_PROGRAMS, wrong) == refused
    for wrong in ({}, {"authorization": "Bearer é"}, bearers["programs"]):
        assert refusals(service, OF_OPERATORS, wrong) == refused
    assert service.ask("POST", "/v1/events", EVENT, headers=bearers["programs"])[0] == 201
    assert service.ask("POST", "/v1/parked/retry", {"entity": "A|x"}, headers=bearers["operators"])[0] == 200
    assert service.ask("GET", "/livez")[0] == 200
    assert "backhaul" in service.text("/metrics")
    service.wait_for("audit.action", who="token operators", what="POST /v1/parked/retry", result="done")
    assert service.said("audit.refused", rule="door", result="auth.token_refused")
    assert command(service, "status")[0] == 0
    assert command(service, "tail")[0] == 0
    files["operators"].write_text("x" * 40)
    assert "auth.token_refused" in command(service, "status")[1]
    assert tokens["operators"] not in "\n".join(map(str, service.lines))


def test_an_ack_of_the_inbox_needs_the_programs_right(stage: Stage, tmp_path: Path) -> None:
    edge = stage.edge("e", cloud="localhost:9", subscriptions="orders", programs_token=tmp_path / "t").start()
    ack = ("POST", "/v1/inbox/orders/ack", {"through": 0})
    assert edge.ask(*ack)[0] == 401
    bearer = {"authorization": f"Bearer {(tmp_path / 't').read_text().strip()}"}
    assert edge.ask(*ack, headers=bearer)[0] == 200
    edge.wait_for("audit.action", who="token programs", what="POST /v1/inbox/orders/ack")


def test_sockets_of_their_own_answer_their_right_only(stage: Stage, tmp_path: Path) -> None:
    programs, operators = tmp_path / "p.sock", tmp_path / "o.sock"
    cloud = stage.cloud(programs_door=f"unix:{programs}", operators_door=f"unix:{operators}", socket_mode="660").start()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (programs, operators)} == {0o660}
    other = {(403, "auth.other_door")}
    assert refusals(cloud, OF_PROGRAMS, {}) == other
    assert refusals(cloud, OF_OPERATORS, {}) == other
    assert cloud.ask("GET", "/readyz")[0] == 200
    assert asked_at_socket(operators, "GET", "/status")[0] == 200
    assert asked_at_socket(programs, "GET", "/v1/events?after=0")[0] == 200
    assert "auth.other_door" in asked_at_socket(programs, "GET", "/status")[1]
    assert "auth.other_door" in asked_at_socket(operators, "GET", "/v1/events?after=0")[1]
    assert asked_at_socket(operators, "GET", "/status", {"host": "evil.example"})[0] == 403
    assert asked_at_socket(operators, "GET", "/livez")[0] == 200
    assert command(cloud, "status")[0] == 0
    assert command(cloud, "parked", "retry", "A|x")[0] == 0
    cloud.wait_for("audit.action", who=f"uid {os.getuid()}", what="POST /v1/parked/retry")
    cloud.kill()  # leaves the sockets behind
    assert operators.is_socket()
    cloud.start()
    assert command(cloud, "healthcheck")[0] == 0
    cloud.stop()
    assert not operators.exists()


def test_a_socket_answers_named_users_only(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "o.sock"
    cloud = stage.cloud(operators_door=f"unix:{path}", socket_uids=str(os.getuid() + 1)).start()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        asked_at_socket(path, "GET", "/status")
    cloud.wait_for("audit.refused", who=f"uid {os.getuid()}", result="auth.uid_refused")


def test_a_token_file_that_everybody_reads_keeps_the_service_from_starting(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("a" * 40)
    path.chmod(0o644)
    cloud = stage.cloud(operators_token=path)
    cloud.launch()
    assert cloud.exit_status() == 2
    assert cloud.said("service.refused", code="auth.token_file_unusable")


def test_the_grpc_intake_needs_the_programs_token(stage: Stage, tmp_path: Path) -> None:
    edge = stage.edge("e", cloud="localhost:9", programs_token=tmp_path / "t").start()
    token = (tmp_path / "t").read_text().strip()

    async def codes() -> list[str]:
        found = []
        async with (
            open_loop(),
            open_channel(
                parse_address(edge.address),
                tls=None,
                connect_timeout_s=5,
                message_max_bytes=1_000_000,
                user_timeout_s=5,
            ) as channel,
        ):
            for metadata in ({}, {"authorization": "Bearer no"}, {"authorization": f"Bearer {token}"}):
                try:
                    await channel.unary(APPEND_PATH, b"", 5, metadata)
                    found.append("")
                except BackhaulError as error:
                    found.append(error.code)
            try:
                async with channel.open_stream(APPEND_STREAM_PATH) as stream:
                    await stream.send(b"")
                    await stream.receive()
            except BackhaulError as error:
                found.append(error.code)
        return found

    missing, wrong, right, stream = trio.run(codes)
    assert (missing, wrong, stream) == ("auth.token_refused",) * 3
    assert right != "auth.token_refused"
    assert edge.said("audit.refused", what="append", result="auth.token_refused")
