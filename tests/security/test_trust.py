"""Certificates that run out, are revoked or lose their authority, and blocked ids: felt while they are connected."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from common.transport.grpc import TlsFiles
from tests.e2e.processes import Service, Stage, open_stage
from tests.support.certificates import Authority, day


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with open_stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def tls(files: TlsFiles) -> dict[str, Any]:
    return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}


def cloud_of(stage: Stage, authority: Authority, **settings: object) -> Service:
    return stage.cloud(
        "cloud", **tls(authority.files("cloud", "localhost")), streams="orders=Order readers=*", **settings
    ).start()


def edge_of(stage: Stage, cloud: Service, files: TlsFiles, name: str = "g7", **settings: object) -> Service:
    edge = stage.edge(name, cloud=f"localhost:{cloud.grpc_port}", **tls(files), **settings).start()
    edge.wait_for("push.started")
    return edge


def test_an_edges_certificate_that_runs_out_ends_its_streams(stage: Stage, authority: Authority) -> None:
    cloud = cloud_of(stage, authority)
    edge = edge_of(stage, cloud, authority.files("g7", "g7", not_after=day(9 / 86400)), subscriptions="orders")
    edge.wait_for("subscription.started")
    assert cloud.wait_for("tls.expires_soon", certificate="g7")["days"] < 1
    assert edge.wait_for("tls.expires_soon", certificate="own")["days"] < 1
    assert 0 < cloud.get("/status")["trust"]["peers_expire_days"] < 1
    assert "\nbackhaul_cloud_tls_peers_expire_days " in cloud.text("/metrics")
    cloud.wait_for("audit.refused", who="g7", result="auth.expired")
    cloud.wait_for("push.disconnected", code="auth.expired")
    cloud.wait_for("consumer.disconnected", code="auth.expired")
    edge.wait_for("link.disconnected", code="auth.expired")
    authority.files("g7", "g7")
    edge.wait_for("push.started", after=edge.mark())


def test_a_clouds_certificate_that_runs_out_is_left_by_the_edge(stage: Stage, authority: Authority) -> None:
    cloud = stage.cloud(**tls(authority.files("cloud", "localhost", not_after=day(9 / 86400)))).start()
    edge = edge_of(stage, cloud, authority.files("g7", "g7"))
    edge.wait_for("link.disconnected", code="auth.expired")
    assert cloud.wait_for("tls.expires_soon", certificate="own")


def test_an_edge_of_a_replaced_authority_is_cut_off(stage: Stage, authority: Authority, tmp_path: Path) -> None:
    cloud = cloud_of(stage, authority)
    # The edge believes both, as in a change of authorities; its own certificate is still of the old one.
    old, new = authority.files("g7", "g7"), Authority(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.ca_file.read_bytes() + new.ca_file.read_bytes())
    edge = edge_of(stage, cloud, TlsFiles(old.certificate, old.key, both))
    files = new.files("cloud", "localhost")
    shutil.copy(files.certificate, authority.folder / "cloud.pem")
    shutil.copy(files.key, authority.folder / "cloud.key")
    authority.ca_file.write_bytes(new.ca_file.read_bytes())
    cloud.wait_for("tls.trust_changed", authorities=1)
    cloud.wait_for("audit.refused", who="g7", result="auth.refused")
    edge.wait_for("link.disconnected", code="auth.refused")


def test_a_revoked_certificate_is_cut_off_and_stays_out(stage: Stage, authority: Authority, tmp_path: Path) -> None:
    crl = authority.revoke(tmp_path / "crl.pem", 4711)
    cloud = cloud_of(stage, authority, tls_crl=crl)
    files = authority.files("g7", "g7")
    edge = edge_of(stage, cloud, files)
    other = edge_of(stage, cloud, authority.files("g8", "g8"), "g8")
    serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
    authority.revoke(crl, 4711, serial)
    edge.wait_for("link.disconnected", code="auth.refused")
    edge.wait_for("link.needs_operator", code="auth.refused")
    edge.append(1)
    other.append(1)
    cloud.until("/status", lambda body: body["journal"]["head"] == 1)
    assert cloud.get("/status")["trust"]["revoked"] == 2
    assert not other.said("link.disconnected")
    crl.write_text("no list")
    cloud.wait_for("tls.trust_unreadable", code="tls.files_unreadable")
    assert cloud.get("/status")["trust"]["revoked"] == 2


def test_a_blocked_id_is_cut_off_until_it_is_allowed(stage: Stage) -> None:
    cloud = stage.cloud().start()
    edge = stage.edge("g7", cloud=cloud, subscriptions="orders").start()
    edge.wait_for("push.started")
    assert cloud.ask("POST", "/v1/identities/block", {"id": "g7", "reason": "stolen"})[0] == 200
    edge.wait_for("link.disconnected", code="auth.refused")
    cloud.wait_for("push.disconnected", code="auth.refused")
    edge.wait_for("link.needs_operator", code="auth.refused")
    edge.append(1)
    assert [row["id"] for row in cloud.get("/v1/identities")["blocked"]] == ["g7"]
    assert cloud.get("/status")["journal"]["head"] == 0
    assert cloud.ask("POST", "/v1/identities/allow", {"id": "g7"})[0] == 200
    cloud.until("/status", lambda body: body["journal"]["head"] == 1)
    assert cloud.ask("POST", "/v1/identities/allow", {"id": "g7"})[1]["error"]["code"] == "identity.not_blocked"
    assert cloud.said("audit.action", what="POST /v1/identities/block", result="done")
