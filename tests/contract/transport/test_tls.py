"""Certificates: who is believed at either end, what a dial says of the others, and rotation."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog.testing
import trio

from common.core.errors import ConfigurationError
from common.transport.grpc import TlsFiles, serve_grpc
from tests.contract.transport.links import ECHO, WHO, dial_failure, dialled, host_and_port, served
from tests.support.certificates import Authority, day


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


async def test_both_ends_prove_who_they_are(loop: None, authority: Authority) -> None:
    server = authority.files("server", "127.0.0.1", "cloud.example.com")
    edge = authority.files("edge", "edge-7", common_name="edge-8")
    async with served(server) as address, dialled(address, edge) as channel:
        assert await channel.unary(WHO, b"", 5) == b"edge-7"  # and not its common name
        assert channel.peer.identities == ("cloud.example.com",)
        async with channel.open_stream(ECHO) as stream:
            await stream.send(bytes(90_000))
            assert await stream.receive() == bytes(90_000)


async def test_a_client_without_a_certificate_of_the_right_authority_is_refused(
    loop: None, authority: Authority, other_authority: Authority
) -> None:
    server = authority.files("server", "127.0.0.1")
    stranger = other_authority.files("edge", "edge-7")
    believing_us = TlsFiles(stranger.certificate, stranger.key, authority.ca_file)
    async with served(server) as address:
        error = await dial_failure(address, believing_us)
        assert error.code == "link.tls_failed"
        assert "refused our certificate" in error.message


async def test_a_server_of_another_authority_is_not_believed(
    loop: None, authority: Authority, other_authority: Authority
) -> None:
    server = authority.files("server", "127.0.0.1")
    edge = authority.files("edge", "edge-7")
    with structlog.testing.capture_logs() as lines:
        async with served(server) as address:
            error = await dial_failure(address, TlsFiles(edge.certificate, edge.key, other_authority.ca_file))
            await trio.sleep(0.05)
    assert error.code == "link.tls_failed"
    assert [line["event"] for line in lines] == ["grpc.handshake_failed"]
    assert lines[0]["reason"]


async def test_a_server_of_another_name_is_not_believed(loop: None, authority: Authority) -> None:
    server = authority.files("server", "cloud.example.com")
    async with served(server) as address:
        error = await dial_failure(address, authority.files("edge", "edge-7"))
        assert error.code == "link.tls_failed"
        assert "IP address mismatch" in error.message


@pytest.mark.parametrize(("first", "last", "word"), [(-2, -1, "expired"), (1, 2, "not yet valid")])
async def test_a_certificate_out_of_its_time_makes_us_look_at_our_clock(
    loop: None, authority: Authority, first: int, last: int, word: str
) -> None:
    server = authority.files("server", "127.0.0.1", not_before=day(first), not_after=day(last))
    async with served(server) as address:
        error = await dial_failure(address, authority.files("edge", "edge-7"))
        assert error.code == "link.tls_failed"
        assert word in error.message
        assert "the local clock is 20" in error.message


async def test_plaintext_and_tls_that_meet_are_told_apart(loop: None, authority: Authority) -> None:
    edge = authority.files("edge", "edge-7")
    async with served() as address:
        error = await dial_failure(address, edge)
        assert error.code in {"link.tls_failed", "link.lost"}
    async with served(authority.files("server", "127.0.0.1")) as address:
        assert (await dial_failure(address)).code in {"link.not_backhaul", "link.lost"}


async def test_replaced_certificates_are_used_without_a_restart(loop: None, authority: Authority) -> None:
    server = authority.files("server", "127.0.0.1", "old.example.com")
    edge = authority.files("edge", "edge-7")
    with structlog.testing.capture_logs() as lines:
        async with served(server) as address:
            async with dialled(address, edge) as channel:
                assert channel.peer.identities == ("old.example.com",)
            authority.files("server", "127.0.0.1", "new.example.com")
            authority.files("edge", "edge-8")
            async with dialled(address, edge) as channel:
                assert channel.peer.identities == ("new.example.com",)
                assert await channel.unary(WHO, b"", 5) == b"edge-8"
            server.key.write_text("half a fil")
            async with dialled(address, edge) as channel:
                assert channel.peer.identities == ("new.example.com",)
    assert [line["event"] for line in lines] == ["grpc.certificates_reloaded", "grpc.certificates_unreadable"]


async def test_unusable_files_and_taken_ports_are_configuration_errors(loop: None, authority: Authority) -> None:
    files = authority.files("server", "127.0.0.1")
    files.key.unlink()
    with pytest.raises(ConfigurationError, match=r"tls\.files_unreadable"):
        async with served(files):
            pass
    assert (await dial_failure("127.0.0.1:1", files)).code == "tls.files_unreadable"
    async with served() as address:
        with pytest.raises(ConfigurationError, match=r"listen\.failed"):
            async with serve_grpc(
                {},
                host="127.0.0.1",
                port=host_and_port(address)[1],
                tls=None,
                message_max_bytes=1,
                connections_max=1,
            ):
                pass
