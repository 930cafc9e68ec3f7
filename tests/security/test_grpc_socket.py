"""The edge's gRPC intake on a Unix socket: who may open it, who is answered, and the official client beside our own."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
import trio

from common.border import open_loop
from common.core.addresses import SocketPath
from common.core.errors import BackhaulError
from common.generated.backhaul import v1 as wire
from common.runtime.intake_grpc import APPEND_PATH, APPEND_STREAM_PATH
from common.transport.grpc.client import open_channel
from tests.e2e.processes import PATIENCE_S, Service, Stage, open_stage

REQUEST = bytes(
    wire.AppendRequest(
        events=wire.EventBatch(
            persistence_id=["Sensor|t"] * 2, event_type=["Read"] * 2, codec=["json"] * 2, payload=[b"1", b"2"]
        )
    )
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with open_stage(tmp_path) as stage:
        yield stage


def edge_at(stage: Stage, path: Path, **settings: object) -> Service:
    return stage.edge("e", cloud="localhost:9", grpc_socket=path, **settings).start()


def ours(path: Path, metadata: dict[str, str]) -> list[str]:
    """What a single append and one on a stream are answered by our own client: a code, or the numbers."""

    async def ask() -> list[str]:
        async with (
            open_loop(),
            open_channel(
                SocketPath(str(path)),
                tls=None,
                connect_timeout_s=PATIENCE_S,
                message_max_bytes=1024 * 1024,
                user_timeout_s=PATIENCE_S,
            ) as channel,
        ):
            try:
                reply = await channel.unary(APPEND_PATH, REQUEST, PATIENCE_S, metadata)
                async with channel.open_stream(APPEND_STREAM_PATH, metadata) as stream:
                    await stream.send(REQUEST)
                    return [numbers(reply), numbers(await stream.receive())]
            except BackhaulError as error:
                return [error.code]

    return trio.run(ask)


def official(path: Path, metadata: dict[str, str]) -> list[str]:
    """The same by gRPC's own client."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            call = {"metadata": list(metadata.items()), "timeout": PATIENCE_S}
            reply = channel.unary_unary(APPEND_PATH)(REQUEST, **call)
            answers = channel.stream_stream(APPEND_STREAM_PATH)(iter([REQUEST]), **call)
            return [numbers(reply), numbers(next(answers))]
        except grpc.RpcError as error:
            return [error.code().name]


def numbers(reply: bytes) -> str:
    answer = wire.AppendReply().parse(reply)
    return answer.error_code or str(answer.seq_nr)


def test_both_clients_append_at_the_socket_and_no_port_is_open(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    edge = edge_at(stage, path, socket_mode="660")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert edge.grpc_port == 0
    edge.wait_for("grpc.door_open", address=f"unix:{path}")
    assert ours(path, {}) == ["[1, 2]", "[3, 4]"]
    assert official(path, {}) == ["[5, 6]", "[7, 8]"]
    assert edge.get("/v1/events?after=0")["head"] == 8
    edge.kill()  # leaves the socket behind
    assert path.is_socket()
    edge.start()
    assert official(path, {}) == ["[9, 10]", "[11, 12]"]
    edge.stop()
    assert not path.exists()


def test_the_programs_token_is_asked_for_here_too(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    files = {f"{right}_token": tmp_path / right for right in ("programs", "operators")}
    edge = edge_at(stage, path, **files)
    bearer = {
        right: {"authorization": f"Bearer {(tmp_path / right).read_text().strip()}"}
        for right in ("programs", "operators")
    }
    for wrong in ({}, {"authorization": "Bearer no"}, bearer["operators"]):
        assert ours(path, wrong) == ["auth.token_refused"]
        assert official(path, wrong) == ["PERMISSION_DENIED"]
    edge.wait_for("audit.refused", who=f"uid {os.getuid()}", what="append", result="auth.token_refused")
    assert ours(path, bearer["programs"]) == ["[1, 2]", "[3, 4]"]


def test_users_that_are_not_named_are_not_answered(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    edge = edge_at(stage, path, socket_uids=str(os.getuid() + 1))
    assert official(path, {}) == ["UNAVAILABLE"]
    edge.wait_for("audit.refused", who=f"uid {os.getuid()}", what="connect", result="auth.uid_refused")
    assert edge.get("/v1/events?after=0")["events"] == []


def test_garbage_and_idle_connections_at_the_socket_hurt_nobody_else(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    edge = edge_at(stage, path, connections_max=2)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.connect(str(path))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        while stranger.recv(4096):
            pass
    edge.wait_for("grpc.garbage", peer=f"uid {os.getuid()}")
    with (
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
        socket.socket(socket.AF_UNIX) as three,
    ):
        for each in (one, two, three):
            each.settimeout(PATIENCE_S)
            each.connect(str(path))
        edge.wait_for("grpc.connection_refused", connections_max=2)
    # Once it has noticed that they are gone.
    edge.until("/v1/events?after=0", lambda _: official(path, {}) == ["[1, 2]", "[3, 4]"])


@pytest.mark.parametrize("path", ["intake.sock", "/" + "x" * 120])
def test_a_path_that_is_none_is_refused_before_anything_is_opened(stage: Stage, path: str) -> None:
    edge = stage.edge("e", cloud="localhost:9", grpc_socket=path)
    edge.launch()
    assert edge.exit_status() == 2
    assert edge.wait_for("service.refused")["code"] == "settings.invalid_value"


def test_a_file_in_the_way_stays(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "intake.sock"
    path.write_text("mine")
    edge = stage.edge("e", cloud="localhost:9", grpc_socket=path)
    edge.launch()
    assert edge.exit_status() == 2
    assert edge.wait_for("service.refused")["code"] == "listen.failed"
    assert path.read_text() == "mine"
