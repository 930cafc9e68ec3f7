"""Certificates that are of our authority and still not enough: common names, other key usages, other names, two ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
import trio
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.core.errors import BackhaulError
from common.core.policy.identity import IdentityRule
from common.transport.grpc import TlsFiles
from tests.contract.transport.links import WHO, dial_failure, dialled, served
from tests.support.certificates import Authority

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
LOCALHOST = x509.DNSName("localhost")
SPIFFE = IdentityRule(("spiffe://fleet/edge/{id}",))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def by_name(address: str) -> str:
    return f"localhost:{address.rpartition(':')[2]}"


async def who(server: TlsFiles, edge: TlsFiles) -> str:
    """The ids by which the server knows the edge."""
    async with served(server) as address, dialled(by_name(address), edge) as channel:
        return (await channel.unary(WHO, b"", 5)).decode()


async def failure(server: TlsFiles, edge: TlsFiles) -> BackhaulError:
    async with served(server) as address:
        return await dial_failure(by_name(address), edge)


async def test_a_common_name_is_not_a_servers_name(loop: None, authority: Authority) -> None:
    error = await failure(authority.issued("server", common_name="localhost"), authority.files("edge", "g7"))
    assert error.code == "link.tls_failed"
    assert "localhost" in error.message


async def test_a_servers_certificate_must_allow_it(loop: None, authority: Authority) -> None:
    edge = authority.files("edge", "g7")
    error = await failure(authority.issued("server", [LOCALHOST], usages=[CLIENT]), edge)
    assert error.code == "link.wrong_key_usage"
    assert "serverAuth" in error.hint
    assert await who(authority.issued("server", [LOCALHOST], usages=[SERVER]), edge) == "g7"


async def test_a_clients_certificate_must_allow_it(loop: None, authority: Authority) -> None:
    server = authority.files("server", "localhost")
    with structlog.testing.capture_logs() as lines:
        error = await failure(server, authority.issued("edge", [x509.DNSName("g7")], usages=[SERVER]))
        await trio.sleep(0.05)
    assert error.code in {"link.wrong_key_usage", "link.tls_failed"}  # as far as the alert came before the end
    assert [line["event"] for line in lines] == ["grpc.handshake_failed"]
    assert "purpose" in lines[0]["reason"]
    assert await who(server, authority.issued("edge", [x509.DNSName("g7")], usages=[CLIENT])) == "g7"


async def test_an_id_is_read_by_the_pattern_of_the_end_that_asks(loop: None, authority: Authority) -> None:
    server = authority.files("server", "localhost")
    plain = authority.files("plain", "g7")
    spiffe = authority.uri_files("spiffe", "spiffe://fleet/edge/g7")
    foreign = authority.uri_files("foreign", "spiffe://fleet/cloud/g7")
    disguised = authority.issued("disguised", [x509.DNSName("spiffe://fleet/edge/g7")])
    assert [await who(server, edge) for edge in (plain, spiffe)] == ["g7", ""]
    by_spiffe = replace(server, identity=SPIFFE)
    assert [await who(by_spiffe, edge) for edge in (plain, spiffe, foreign, disguised)] == ["", "g7", "", ""]


async def test_a_certificate_with_two_ids_is_nobodys_unless_said_otherwise(loop: None, authority: Authority) -> None:
    server, edge = authority.files("server", "localhost"), authority.files("edge", "g1", "g2")
    assert await who(server, edge) == ""
    assert await who(replace(server, identity=IdentityRule(one_id=False)), edge) == "g1,g2"
